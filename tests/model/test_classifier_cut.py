"""Cutting a classifier: the parts compute what the whole computes, and share its layers."""

from collections.abc import Iterator

import keras
import numpy as np
import pytest

from tlcli.errors import ModelError
from tlcli.model import classifier
from tlcli.model.backbone import Backbone, weights_sha256
from tlcli.model.classifier import Cut, cut_at, lower_model
from tlcli.model.cut_points import find_cut_points
from tlcli.model.graph import measure
from tlcli.model.head import POOLED
from tlcli.recipe.schema import HeadSpec, HiddenSpec
from tlcli.zoo.card import ModelCard

SIZE = (8, 12)
CARD = ModelCard(
    name="tiny", source="file:tiny.keras", title="Tiny", size=8, min_size=8, preprocessing="torch", licence="x"
)
# Cut points of `network`. `twice` is the first call of this layer, `twice@2` the second.
CUT_POINTS = ("stem", "relu", "b", "twice", "twice@2", "top")
HEADS = {
    "plain": HeadSpec(),
    "max": HeadSpec(pooling="max"),
    "both": HeadSpec(pooling="avg_max", hidden=[HiddenSpec(units=5, batch_norm=True, dropout=0.2)]),
}


def network() -> keras.Model:
    """A network with a residual, a nested model and a layer that is called twice."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((*SIZE, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", name="stem")(image)
    side = layers.BatchNormalization(name="norm")(layers.Conv2D(6, 3, padding="same", name="side")(x))
    x = layers.ReLU(name="relu")(layers.Add(name="add")([x, side]))
    x = keras.Sequential([layers.Conv2D(6, 3, padding="same"), layers.BatchNormalization()], name="b")(x)
    twice = layers.Conv2D(6, 1, activation="tanh", name="twice")
    return keras.Model(image, layers.ReLU(name="top")(twice(twice(x))), name="tiny")


def cells() -> keras.Model:
    """A network whose cells read the two cells below, as in NASNet; the first two have different sizes."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((*SIZE, 3))
    below = layers.Conv2D(4, 3, padding="same", name="c0")(image)
    x = layers.Conv2D(6, 3, strides=2, padding="same", name="c1")(layers.ReLU()(below))
    small = layers.Conv2D(6, 1, strides=2, name="c2_fit")(layers.ReLU()(below))
    x, below = layers.Add(name="c2")([layers.Conv2D(6, 3, padding="same", name="c2_in")(x), small]), x
    x = layers.Concatenate(name="c3")([layers.Conv2D(5, 1, name="c3_in")(x), below])
    return keras.Model(image, layers.ReLU(name="top")(x), name="cells")


def build(head: str = "plain", model: keras.Model | None = None) -> classifier.Classifier:
    model = model or network()
    backbone = Backbone(CARD, model, SIZE, "random", weights_sha256(model))
    return classifier.assemble(backbone, HEADS[head], classes=("a", "b", "c"), resize="crop")


def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (5, *SIZE, 3)).astype(np.float32)


def existing(parts: Cut) -> Iterator[keras.Model]:
    return (part for part in (parts.lower, parts.upper, parts.top) if part is not None)


def apply(parts: Cut, x: np.ndarray) -> np.ndarray:
    for part in existing(parts):
        x = part.predict_on_batch(x)
    return x


def test_the_cut_points_of_these_tests_are_cut_points_of_the_network() -> None:
    assert set(CUT_POINTS) <= set(find_cut_points(measure(network())))


@pytest.mark.parametrize("cut_point", [None, *CUT_POINTS, POOLED])
@pytest.mark.parametrize("head", HEADS)
def test_the_parts_compute_what_the_whole_computes(head: str, cut_point: str | None) -> None:
    built = build(head)
    parts = cut_at(built, cut_point)
    expected = built.model.predict_on_batch(images())
    np.testing.assert_allclose(apply(parts, images()), expected, rtol=1e-5, atol=1e-7)
    assert (parts.lower is None, parts.upper is None) == (cut_point is None, cut_point in ("top", POOLED))


@pytest.mark.parametrize(("cut_point", "width"), [("c1/c0", 4 * 6 * 6 + 8 * 12 * 4), ("c2/c1", 2 * 4 * 6 * 6)])
def test_two_outputs_become_one_tensor(cut_point: str, width: int) -> None:
    built = build(model=cells())
    parts = cut_at(built, cut_point)
    assert parts.lower is not None
    assert parts.upper is not None
    assert parts.lower.output_shape == parts.upper.input_shape == (None, width)
    np.testing.assert_allclose(apply(parts, images()), built.model.predict_on_batch(images()), rtol=1e-5, atol=1e-7)
    weights = [weight for part in existing(parts) for weight in part.weights]
    assert {id(weight) for weight in weights} == {id(weight) for weight in built.model.weights}
    assert len(weights) == len(built.model.weights)
    several = lower_model(built, [cut_point, "c3", POOLED]).predict_on_batch(images())
    np.testing.assert_allclose(several[0], parts.lower.predict_on_batch(images()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("cut_point", [None, *CUT_POINTS, POOLED])
def test_the_parts_share_the_layers_of_the_whole(cut_point: str | None) -> None:
    built = build("both")
    parts = cut_at(built, cut_point)
    weights = [{id(weight) for weight in part.weights} for part in existing(parts)]
    assert set().union(*weights) == {id(weight) for weight in built.model.weights}
    # The layer that is called twice is below and above this cut.
    assert sum(map(len, weights)) == len(built.model.weights) + (2 if cut_point == "twice" else 0)
    layer = built.model.get_layer("stem")
    before = apply(parts, images())
    layer.kernel.assign(0.5 * layer.kernel)
    after = apply(parts, images())
    assert not np.allclose(before, after, rtol=1e-3)
    np.testing.assert_allclose(after, built.model.predict_on_batch(images()), rtol=1e-5, atol=1e-7)


def test_several_cut_points_need_one_pass() -> None:
    built = build("both")
    names = ["b", POOLED, "stem", "twice@2", "b"]
    together = lower_model(built, names)
    assert [layer.name for layer in together.layers].count("stem") == 1
    for name, output in zip(names, together.predict_on_batch(images()), strict=True):
        alone = lower_model(built, [name]).predict_on_batch(images())
        np.testing.assert_allclose(output, alone, rtol=1e-5, atol=1e-6, err_msg=name)
        lower = cut_at(built, name).lower
        assert lower is not None
        np.testing.assert_array_equal(lower.predict_on_batch(images()), alone)


def test_pooled_features_are_those_of_the_head() -> None:
    built = build("both")
    maps = built.features.predict_on_batch(images())
    expected = np.concatenate([maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))], axis=1)
    pooled = lower_model(built, [POOLED]).predict_on_batch(images())
    np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)


def test_impossible_cuts_are_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match="no layer 'nowhere'"):
        cut_at(build(), "nowhere")
    classifier.save(build(), tmp_path / "model.keras")
    with pytest.raises(RuntimeError, match="loaded from a file cannot be cut"):
        cut_at(classifier.load(tmp_path / "model.keras"), "stem")
