"""The preprocessing of every card is that of the network's module in Keras."""

import inspect
import sys

import keras
import numpy as np
import pytest

from tlcli.model.backbone import preprocess
from tlcli.zoo import catalogue

CARDS = [card for card in catalogue.load().values() if card.source.startswith("keras:")]


def networks() -> list[str]:
    """Names of all networks in keras.applications."""
    return [name for name, value in inspect.getmembers(keras.applications, inspect.isfunction) if name[0].isupper()]


def test_every_network_of_keras_has_one_card():
    assert len(networks()) == 40
    published = [card for card in CARDS if card.weights is None]
    assert sorted(card.source.removeprefix("keras:") for card in published) == sorted(networks())


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_preprocessing_is_that_of_the_network(card, tmp_path):
    build = getattr(keras.applications, card.source.removeprefix("keras:"))
    reference = sys.modules[build.__module__].preprocess_input
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3)).astype("float32")
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Identity()(preprocess(inputs, card.preprocessing)))
    model.save(tmp_path / "preprocess.keras")
    loaded = keras.saving.load_model(tmp_path / "preprocess.keras")
    expected = reference(pixels.copy())
    np.testing.assert_allclose(model(pixels), expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(loaded(pixels), expected, rtol=0, atol=1e-3)
