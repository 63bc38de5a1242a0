"""A network called once gives the answers of Keras, with branches, shared layers and parts of another network."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

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


ON_JAX = """
import jax, keras, numpy as np
from tlcli.model.eager import call_once
model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
inputs = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: compiled.append(name) if name.endswith("backend_compile_duration") else None
)
answers = [np.asarray(call_once(model, inputs)) for _ in range(3)]
assert len(compiled) == 1, compiled
for answer in answers:
    np.testing.assert_allclose(answer, np.asarray(model(inputs)), rtol=1e-4, atol=1e-5)
"""


@pytest.mark.extras
def test_on_jax_a_network_is_compiled_once_for_all_calls():
    pytest.importorskip("jax", reason="needs tlcli[jax]")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", ON_JAX], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
