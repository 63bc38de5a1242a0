"""One module a kind of source; each turns a card into a Keras model."""
