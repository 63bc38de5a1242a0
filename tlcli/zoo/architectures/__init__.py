"""Architectures that keras.applications lacks, in Keras layers."""
