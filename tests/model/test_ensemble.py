"""An ensemble: the mean of its members, in one file."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tlcli.evaluate.influence import influence_maps
from tlcli.model import classifier
from tlcli.model.classifier import Classifier
from tlcli.model.ensemble import ensemble
from tlcli.train.calibration import apply_temperature


def member(side: int, seed: int, classes: tuple[str, ...] = ("a", "b", "c")) -> Classifier:
    keras.utils.set_random_seed(seed)
    image = keras.Input((None, None, 3), name="image")
    x = keras.layers.Resizing(side, side, name="resize")(image)
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return Classifier(
        keras.Model(image, keras.layers.Dense(len(classes), "softmax", name="out")(x)), classes, (side, side), "stretch"
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_its_probabilities_are_the_mean_of_its_members(temperature: float, tmp_path: Path) -> None:
    """At other sizes, with equal names of layers, from the file as well."""
    members = [member(16, 1), member(24, 2), member(16, 3)]
    images = np.random.default_rng(0).uniform(0, 255, (5, 40, 30, 3)).astype("float32")
    expected = np.mean([part.model.predict(images, verbose=0) for part in members], axis=0)
    whole = ensemble(members, temperature=temperature)
    np.testing.assert_allclose(
        whole.model.predict(images, verbose=0), apply_temperature(expected, temperature), atol=1e-5
    )
    assert (whole.classes, whole.size) == (("a", "b", "c"), (24, 24))
    classifier.save(whole, tmp_path / "model.keras")
    loaded = classifier.load(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.model.predict(images, verbose=0), whole.model.predict(images, verbose=0), atol=1e-6
    )


def test_members_with_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="different classes"):
        ensemble([member(16, 1), member(16, 2, ("a", "b", "d"))], temperature=1.0)


def test_it_has_no_maps_of_influence() -> None:
    images = np.zeros((2, 16, 16, 3), "uint8")
    assert influence_maps(ensemble([member(16, 1), member(16, 2)], temperature=1.0), images) is None
