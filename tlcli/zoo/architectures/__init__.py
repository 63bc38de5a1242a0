"""Networks that `keras.applications` lacks, built in Keras."""
