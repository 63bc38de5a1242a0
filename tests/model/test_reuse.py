"""The network inside a classifier: the same features, layer names and groups, without what tlcli put around it."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tlcli.errors import ModelError
from tlcli.model import reuse
from tlcli.model.graph import groups_of
from tlcli.report import record
from tlcli.zoo.card import ModelCard


def test_the_network_of_a_run_computes_what_the_classifier_computes_below_its_head(finished: tuple) -> None:
    run = record.read(finished[0])
    card = ModelCard.model_validate(run.model["card"])
    network = reuse.network_of(finished[0] / "model.keras", (32, 32))
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    classifier = keras.saving.load_model(finished[0] / "model.keras")
    pooling = next(layer for layer in classifier.layers if layer.name.startswith("head_"))
    expected = keras.Model(classifier.inputs[0], pooling.input)(images, training=False)
    np.testing.assert_allclose(network(images / 127.5 - 1), expected, rtol=1e-4, atol=1e-5)
    assert network.input_shape == (None, 32, 32, 3)
    assert groups_of(network, card, (32, 32)).names == tuple(run.model["groups"])
    assert reuse.fitting(card.groups, network) == card.groups
    assert reuse.fitting(card.groups, keras.Model(network.inputs[0], network.get_layer("conv1_relu").output)) == (
        card.groups[0],
    )


def test_a_file_that_is_no_classifier_is_an_error(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(1, 1)]).save(tmp_path / "net.keras")
    with pytest.raises(ModelError, match="holds no class names"):
        reuse.network_of(tmp_path / "net.keras", (8, 8))
