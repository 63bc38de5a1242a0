"""Batches for `fit`: the same batches, in a dataset that TensorFlow does not tune."""

import keras
import numpy as np

from tlcli.train.feed import feed


def batches():
    rng = np.random.default_rng(0)
    for size in (4, 4, 3):
        yield rng.random((size, 5, 2), np.float32), rng.random((size, 3), np.float32), np.ones(size, np.float32)


def test_a_model_gets_every_batch_and_no_thread_tunes_the_dataset():
    """The end of an epoch waits for a pause of that thread, up to 10 s; what `fit` itself makes is tuned."""
    dataset = feed(batches())
    assert dataset.options().autotune.enabled is False
    for found, expected in zip(dataset, batches(), strict=True):
        for part, array in zip(found, expected, strict=True):
            np.testing.assert_array_equal(part, array)


def test_training_is_that_with_the_plain_batches():
    weights = []
    for wrap in (iter, feed):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")])
        model.compile("adam", "categorical_crossentropy")
        model.fit(wrap(batches()), steps_per_epoch=3, verbose=0, shuffle=False)
        weights.append(model.layers[1].get_weights())
    np.testing.assert_array_equal(weights[0][0], weights[1][0])
