"""Batches for `keras.Model.fit`."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras

# Batches that are made ahead.
AHEAD = 2


def feed(batches: Iterator[tuple[Any, ...]]) -> Any:
    """What to give to `fit` for the batches of an epoch: on TensorFlow a dataset that is not tuned, else the batches.

    Of an iterator, Keras makes a dataset that TensorFlow tunes in a thread of its own. The pauses of this thread double
    from 10 ms on, and the end of the epoch waits for the end of a pause (seen with TensorFlow 2.21): at 2.56, 5.12 or
    10.24 seconds, up to twice the time of the training.

    Args:
        batches: At least one batch, a tuple of NumPy arrays, batch first.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    first = next(batches)
    signature = tuple(tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in first)
    chained = itertools.chain([first], batches)
    dataset = tf.data.Dataset.from_generator(lambda: chained, output_signature=signature).prefetch(AHEAD)
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
