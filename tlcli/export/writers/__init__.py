"""One file per format: each has `write`, which writes a model and what it states about itself."""
