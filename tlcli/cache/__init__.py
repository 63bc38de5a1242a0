"""Content-addressed storage on disk: arrays, results, and eviction."""
