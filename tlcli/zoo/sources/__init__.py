"""Sources of networks, one file per kind. Each builds a Keras model for a card."""
