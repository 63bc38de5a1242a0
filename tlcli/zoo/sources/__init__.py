"""One file per kind of source; each turns a card into a Keras model."""
