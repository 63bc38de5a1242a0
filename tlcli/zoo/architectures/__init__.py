"""Architectures that keras.applications lacks, in plain Keras."""
