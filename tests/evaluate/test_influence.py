"""Influence maps: class activation maps for a linear head, equal for a saved classifier, none without positions."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tlcli.evaluate.influence import influence_maps
from tlcli.model import classifier as classifiers
from tlcli.model.classifier import Classifier
from tlcli.model.head import OUTPUT_LAYER


@pytest.fixture(scope="module")
def images(request: pytest.FixtureRequest) -> np.ndarray:
    lab = request.getfixturevalue("lab")
    return lab.train.pixels[lab.train.rows[:5]]


def head_with(**settings: object) -> dict:
    return {"dropout": 0.0, **settings}


def test_with_a_linear_head_the_logits_fall_by_the_class_activation_map(lab, images) -> None:
    classifier = lab.classifier(lab.recipe({"train": "head"}))
    maps = influence_maps(classifier, images)
    features = np.asarray(classifier.features(images.astype(np.float32)))
    kernel, bias = classifier.model.get_layer(OUTPUT_LAYER).get_weights()
    logits = features.mean(axis=(1, 2)) @ kernel + bias
    assert maps.shape == features.shape[:3]
    for one, own, logit in zip(maps, features, logits, strict=True):
        activation = own @ kernel / (own.shape[0] * own.shape[1])
        best, lacking = logit.argmax(), logit - activation
        influence = odds(logit, best) - odds(lacking, best)
        influence = np.clip(influence, 0, None)
        assert one == pytest.approx(influence / influence.max(), abs=1e-3)


def odds(logits: np.ndarray, best: int) -> np.ndarray:
    others = np.delete(logits, best, axis=-1)
    return logits[..., best] - np.log(np.exp(others).sum(axis=-1))


@pytest.mark.parametrize("head", [head_with(pooling="avg_max"), head_with(hidden=[{"units": 5}]), head_with()])
def test_a_saved_classifier_has_the_same_maps(head: dict, lab, images, tmp_path: Path) -> None:
    classifier = lab.classifier(lab.recipe({"train": "head"}, head=head))
    classifiers.save(classifier, tmp_path / "model.keras")
    loaded = classifiers.load(tmp_path / "model.keras")
    assert loaded.features is None
    maps = influence_maps(classifier, images)
    assert influence_maps(loaded, images) == pytest.approx(maps, abs=1e-4)
    assert 0 <= maps.min() <= maps.max() <= 1


def test_features_without_positions_have_no_maps(images) -> None:
    image = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    pooled = keras.layers.Identity(name="head_pool")(pooled)
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax", name=OUTPUT_LAYER)(pooled))
    assert influence_maps(Classifier(model, ("a", "b", "c"), (12, 12), "crop"), images) is None
