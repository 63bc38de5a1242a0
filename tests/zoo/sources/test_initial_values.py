"""Initial values of networks whose weights are replaced anyway."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest

from tlcli.model.backbone import build
from tlcli.zoo import catalogue
from tlcli.zoo.sources.initial_values import plain_initial_values

DRAWN = {
    "glorot": keras.initializers.GlorotUniform(seed=1),
    "he": keras.initializers.HeNormal(seed=1),
    "scaling": keras.initializers.VarianceScaling(2.0, seed=1),
    "normal": keras.initializers.RandomNormal(seed=1),
    "truncated": keras.initializers.TruncatedNormal(seed=1),
    "uniform": keras.initializers.RandomUniform(seed=1),
}


@pytest.mark.parametrize("name", DRAWN)
def test_random_values_are_zeros_inside_and_drawn_as_before_outside(name):
    before = keras.ops.convert_to_numpy(DRAWN[name]((3, 4)))
    with plain_initial_values():
        inside = DRAWN[name]((3, 4))
    assert isinstance(inside, np.ndarray)
    assert inside.dtype == np.float32
    assert not inside.any()
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(DRAWN[name]((3, 4))), before)
    assert before.any()


def test_an_error_inside_leaves_no_trace():
    with pytest.raises(KeyError), plain_initial_values():
        raise KeyError
    assert keras.ops.convert_to_numpy(DRAWN["glorot"]((3, 4))).any()


def test_constants_keep_their_value_and_type():
    with plain_initial_values():
        norm = keras.layers.BatchNormalization()
        norm.build((None, 5))
    for weight, value in ((norm.gamma, 1), (norm.beta, 0), (norm.moving_variance, 1), (norm.moving_mean, 0)):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), np.full(5, value, np.float32))


def test_a_network_with_random_weights_draws_them():
    card = catalogue.find("mobilenet_v2")
    network = build(card, size=(32, 32), arguments={"alpha": 0.35}, weights="random").network
    kernels = [weight for weight in network.weights if weight.name == "kernel"]
    assert len(kernels) > 10
    assert all(np.ptp(keras.ops.convert_to_numpy(kernel)) > 0 for kernel in kernels)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_synthetic"])
def test_every_weight_comes_from_the_file(name, monkeypatch):
    """The same weights as of a network that began with random values."""
    card = catalogue.find(name)
    plain = build(card, size=(64, 64), arguments=dict(card.arguments), weights=None).weights_sha256
    monkeypatch.setattr("tlcli.model.backbone.plain_initial_values", nullcontext)
    assert build(card, size=(64, 64), arguments=dict(card.arguments), weights=None).weights_sha256 == plain
