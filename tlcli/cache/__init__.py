"""Content-addressed storage on disk: arrays, results, eviction, locks."""
