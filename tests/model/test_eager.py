"""A network called once gives the answers of Keras, with branches, shared layers and parts of another network."""

import keras
import numpy as np

from tlcli.model.eager import call_once


def network() -> keras.Model:
    """A network with a branch, a layer that is called twice, a nested network, BatchNorm and dropout."""
    layers = keras.layers
    image = keras.Input((8, 8, 3), dtype="float32")
    shared = layers.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    x = layers.Conv2D(4, 1, name="first")(image)
    both = layers.Concatenate(name="both")([shared(x), shared(layers.Dropout(0.5)(x))])
    inner = keras.Sequential([keras.Input((8, 8, 8)), layers.Conv2D(5, 3), layers.BatchNormalization()])
    return keras.Model(image, layers.GlobalAveragePooling2D()(layers.Add()([inner(both), inner(2.0 * both)])))


def test_the_answers_are_those_of_the_network():
    model, images = network(), np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    np.testing.assert_allclose(call_once(model, images), model(images.astype(np.float32), training=False), rtol=1e-5)


def test_a_function_starts_at_its_input():
    model = network()
    upper = keras.Function(model.get_layer("both").output, model.output)
    features = np.random.default_rng(1).normal(size=(3, 8, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(call_once(upper, features), upper(keras.ops.convert_to_tensor(features)), rtol=1e-5)


def test_an_output_that_is_also_read_is_kept():
    image = keras.Input((2,))
    middle = keras.layers.Rescaling(2.0)(image)
    model = keras.Model(image, middle)
    keras.layers.Rescaling(3.0)(middle)
    assert call_once(model, np.ones((1, 2))).shape == (1, 2)
