"""Cutting: below and above a frontier make the whole, and share its layers."""

from collections.abc import Iterator

import keras
import numpy as np
import pytest

from tlcli.errors import ModelError
from tlcli.model import classifier
from tlcli.model.backbone import Backbone, weights_sha256
from tlcli.model.classifier import POOLED, Cut, cut_at, lower_model
from tlcli.model.cut_points import cut_points
from tlcli.model.graph import measure
from tlcli.recipe.schema import HeadSpec, HiddenSpec
from tlcli.zoo.card import ModelCard

SIZE = (8, 12)
CARD = ModelCard(
    name="tiny", source="file:tiny.keras", title="Tiny", size=8, min_size=8, preprocessing="torch", licence="x"
)
# Of the network below; `add` and what is beside it are not, and `twice` is a name for its first use.
FRONTIERS = ("stem", "relu", "b", "twice", "twice@2", "top")
HEADS = {
    "plain": HeadSpec(),
    "max": HeadSpec(pooling="max"),
    "both": HeadSpec(pooling="avg_max", hidden=[HiddenSpec(units=5, batch_norm=True, dropout=0.2)]),
}


def network() -> keras.Model:
    """A residual, a nested model, and a layer that is used twice."""
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
    """Each of its cells reads the two below it, as in NASNet; the first two are of different sizes."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((*SIZE, 3))
    below = layers.Conv2D(4, 3, padding="same", name="c0")(image)
    x = layers.Conv2D(6, 3, strides=2, padding="same", name="c1")(layers.ReLU()(below))
    small = layers.Conv2D(6, 1, strides=2, name="c2_fit")(layers.ReLU()(below))
    x, below = layers.Add(name="c2")([layers.Conv2D(6, 3, padding="same", name="c2_in")(x), small]), x
    x = layers.Concatenate(name="c3")([layers.Conv2D(5, 1, name="c3_in")(x), below])
    return keras.Model(image, layers.ReLU(name="top")(x), name="cells")


def made(head: str = "plain", built: keras.Model | None = None) -> classifier.Classifier:
    built = built or network()
    backbone = Backbone(CARD, built, SIZE, "random", weights_sha256(built))
    return classifier.assemble(backbone, HEADS[head], classes=("a", "b", "c"), resize="crop")


def pictures() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (5, *SIZE, 3)).astype(np.float32)


def in_order(parts: Cut) -> Iterator[keras.Model]:
    return (part for part in (parts.lower, parts.upper, parts.top) if part is not None)


def through(parts: Cut, x: np.ndarray) -> np.ndarray:
    for part in in_order(parts):
        x = part.predict_on_batch(x)
    return x


def test_the_network_has_the_frontiers_that_are_cut() -> None:
    assert set(FRONTIERS) <= set(cut_points(measure(network())))


@pytest.mark.parametrize("at", [None, *FRONTIERS, POOLED])
@pytest.mark.parametrize("head", HEADS)
def test_the_parts_give_what_the_whole_gives(head: str, at: str | None) -> None:
    built = made(head)
    parts = cut_at(built, at)
    expected = built.model.predict_on_batch(pictures())
    np.testing.assert_allclose(through(parts, pictures()), expected, rtol=1e-5, atol=1e-7)
    assert (parts.lower is None, parts.upper is None) == (at is None, at in ("top", POOLED))


@pytest.mark.parametrize(("at", "width"), [("c1/c0", 4 * 6 * 6 + 8 * 12 * 4), ("c2/c1", 2 * 4 * 6 * 6)])
def test_two_outputs_are_handed_on_as_one(at: str, width: int) -> None:
    built = made(built=cells())
    parts = cut_at(built, at)
    assert parts.lower is not None
    assert parts.upper is not None
    assert parts.lower.output_shape == parts.upper.input_shape == (None, width)
    np.testing.assert_allclose(
        through(parts, pictures()), built.model.predict_on_batch(pictures()), rtol=1e-5, atol=1e-7
    )
    weights = [weight for part in in_order(parts) for weight in part.weights]
    assert {id(weight) for weight in weights} == {id(weight) for weight in built.model.weights}
    assert len(weights) == len(built.model.weights)
    several = lower_model(built, [at, "c3", POOLED]).predict_on_batch(pictures())
    np.testing.assert_allclose(several[0], parts.lower.predict_on_batch(pictures()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("at", [None, *FRONTIERS, POOLED])
def test_the_parts_share_the_layers_of_the_whole(at: str | None) -> None:
    built = made("both")
    parts = cut_at(built, at)
    held = [{id(weight) for weight in part.weights} for part in in_order(parts)]
    assert set().union(*held) == {id(weight) for weight in built.model.weights}
    # The layer that is used twice is below the cut and above it.
    assert sum(map(len, held)) == len(built.model.weights) + (2 if at == "twice" else 0)
    layer = built.model.get_layer("stem")
    before = through(parts, pictures())
    layer.kernel.assign(0.5 * layer.kernel)
    after = through(parts, pictures())
    assert not np.allclose(before, after, rtol=1e-3)
    np.testing.assert_allclose(after, built.model.predict_on_batch(pictures()), rtol=1e-5, atol=1e-7)


def test_several_frontiers_are_one_pass() -> None:
    built = made("both")
    names = ["b", POOLED, "stem", "twice@2", "b"]
    together = lower_model(built, names)
    assert [layer.name for layer in together.layers].count("stem") == 1
    for name, found in zip(names, together.predict_on_batch(pictures()), strict=True):
        alone = lower_model(built, [name]).predict_on_batch(pictures())
        np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-6, err_msg=name)
        lower = cut_at(built, name).lower
        assert lower is not None
        np.testing.assert_array_equal(lower.predict_on_batch(pictures()), alone)


def test_pooled_features_are_those_of_the_head() -> None:
    built = made("both")
    maps = built.features.predict_on_batch(pictures())
    expected = np.concatenate([maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))], axis=1)
    found = lower_model(built, [POOLED]).predict_on_batch(pictures())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_cut_is_told(tmp_path) -> None:
    with pytest.raises(ModelError, match="no layer 'nowhere'"):
        cut_at(made(), "nowhere")
    classifier.save(made(), tmp_path / "model.keras")
    with pytest.raises(RuntimeError, match="in one part"):
        cut_at(classifier.load(tmp_path / "model.keras"), "stem")
