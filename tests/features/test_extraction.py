"""Outputs of frozen layers: what the layers give, found again exactly where nothing that matters has changed."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlcli.cache import arrays
from tlcli.data.augment import Bounds
from tlcli.data.pixels import Images
from tlcli.features import extraction
from tlcli.features.extraction import FeatureCache, View
from tlcli.model.classifier import POOLED, Classifier, lower_model
from tlcli.model.precision import use_device
from tlcli.recipe.schema import Recipe
from tlcli.train import freeze

FRONTIER = "block1_relu"
ALL = 74
BOUNDS = Bounds(flip="horizontal", rotation=30.0, shift=0.2)
RANDOM = View(1, BOUNDS, 7)


@pytest.fixture
def recipe(lab) -> Recipe:
    return lab.recipe({"train": "head"})


@pytest.fixture
def images(lab) -> Images:
    return Images(lab.train.pixels, np.arange(ALL))


@pytest.fixture
def feature_cache(lab, tmp_path) -> FeatureCache:
    return FeatureCache(tmp_path / "activations", 10**9, lab.contents)


@dataclass
class Asked:
    """One look for outputs, by a classifier made anew, as another process would make it."""

    classifier: Classifier
    images: Images
    feature_cache: FeatureCache | None
    at: list[str] = field(default_factory=lambda: [FRONTIER])
    view: View = RANDOM
    precision: str = "float32"
    told: list[tuple[int, int]] = field(default_factory=list)

    def outputs(self) -> list[np.ndarray]:
        with use_device("cpu", self.precision):
            found = extraction.extract(
                self.classifier, self.images, self.feature_cache, at=self.at, view=self.view, progress=self.note
            )
        return list(found)

    def note(self, done: int, total: int) -> None:
        self.told.append((done, total))


@pytest.fixture
def ask(lab, recipe, images, feature_cache) -> Callable[..., Asked]:
    def make(*, precision: str = "float32", recipe: Recipe = recipe, at=(FRONTIER,), view=RANDOM, **made: Any) -> Asked:
        with use_device("cpu", precision):
            return Asked(lab.classifier(recipe, **made), images, feature_cache, list(at), view, precision)

    return make


@pytest.fixture(scope="module")
def filled_once(lab, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("feature_cache") / "activations"
    images = Images(lab.train.pixels, np.arange(ALL))
    asked = Asked(lab.classifier(lab.recipe({"train": "head"})), images, FeatureCache(folder, 10**9, lab.contents))
    asked.outputs()
    assert asked.told == [(ALL, ALL)]
    return folder


@pytest.fixture
def filled(filled_once, feature_cache) -> np.ndarray:
    """What a first look has stored."""
    shutil.copytree(filled_once, feature_cache.folder)
    (file,) = feature_cache.folder.glob("*/data.npy")
    return np.load(file)


def scaled(name: str) -> Callable[[Asked], None]:
    """One number of one weight, changed by a little."""

    def change(asked: Asked) -> None:
        weight = next(each for each in asked.classifier.model.weights if each.path.endswith(name))
        value = np.array(weight.numpy())
        value.flat[0] = np.nextafter(value.flat[0], np.float32(9))
        weight.assign(value)

    return change


def set_to(**values: Any) -> Callable[[Asked], None]:
    def change(asked: Asked) -> None:
        for name, value in values.items():
            setattr(asked, name, value)

    return change


def another_content(asked: Asked) -> None:
    asked.feature_cache = replace(
        asked.feature_cache, contents=[*asked.feature_cache.contents[:5], "0" * 64, *asked.feature_cache.contents[6:]]
    )


def another_slope(asked: Asked) -> None:
    asked.classifier.model.get_layer("stem_relu").negative_slope = 0.1


def other_pixels(side: int) -> Callable[[Asked], None]:
    def change(asked: Asked) -> None:
        asked.images = Images(
            np.pad(asked.images.pixels, [(0, 0), (0, side - 12), (0, side - 12), (0, 0)]), asked.images.rows
        )

    return change


# What is changed before the second look: while the classifier is made, and afterwards.
OTHERS = {
    "one image": ({}, another_content),
    "fewer images": ({}, lambda asked: set_to(images=Images(asked.images.pixels, np.arange(ALL - 1)))(asked)),
    "their order": ({}, lambda asked: set_to(images=Images(asked.images.pixels, np.arange(ALL)[::-1]))(asked)),
    "a kernel": ({}, scaled("stem_conv/kernel")),
    "a scale": ({}, scaled("stem_bn/gamma")),
    "a statistic": ({}, scaled("stem_bn/moving_mean")),
    "a nested bias": ({}, scaled("block1_conv/bias")),
    "a layer's setting": ({}, another_slope),
    "the input size": ({"side": 16}, other_pixels(16)),
    "the preprocessing": ({"preprocessing": "torch"}, set_to()),
    "the order of colours": ({"preprocessing": "caffe"}, set_to()),
    "the resize mode": ({"resize": "pad"}, set_to()),
    "the frontier": ({}, set_to(at=["stem_relu"])),
    "the bounds": ({}, set_to(view=replace(RANDOM, bounds=replace(BOUNDS, shift=0.21)))),
    "the seed": ({}, set_to(view=replace(RANDOM, seed=8))),
    "the number": ({}, set_to(view=replace(RANDOM, number=2))),
    "plain": ({}, set_to(view=View())),
    "the precision": ({"precision": "bfloat16"}, set_to()),
}


@pytest.mark.parametrize(("made", "change"), OTHERS.values(), ids=OTHERS)
def test_what_matters_makes_another_key(ask, feature_cache, filled, made, change):
    asked = ask(**made)
    change(asked)
    asked.outputs()
    assert asked.told, "computed"
    assert len(list(feature_cache.folder.glob("*/data.npy"))) == 2, "what was there stays"


def above_learned(asked: Asked) -> None:
    for weight in asked.classifier.model.weights[-8:]:
        assert "block1" not in weight.path
        weight.assign(weight * 2)


def thawed(asked: Asked) -> None:
    freeze.apply(asked.classifier, {"block2_conv", "block2_bn", "top_conv"}, batch_norm="train")


def thawed_and_frozen(asked: Asked) -> None:
    """As after a round of thawing that was rolled back; the momentum of statistics stays lowered."""
    everything = {
        layer.name for layer in asked.classifier.model.layers if layer.name.startswith(("stem", "block", "top"))
    }
    freeze.apply(asked.classifier, everything, batch_norm="train")
    freeze.apply(asked.classifier, set(), batch_norm="frozen")


def among_others(asked: Asked) -> None:
    """The same images in a larger cache, where other contents lie between them."""
    rows = np.arange(ALL) * 2 + 1
    pixels = np.zeros((2 * ALL + 5, *asked.images.pixels.shape[1:]), np.uint8)
    pixels[rows] = asked.images.pixels
    contents = ["f" * 64] * len(pixels)
    for row, content in zip(rows, asked.feature_cache.contents, strict=True):
        contents[row] = content
    asked.images, asked.feature_cache = Images(pixels, rows), replace(asked.feature_cache, contents=contents)


SAME = {
    "nothing": set_to(),
    "weights above": above_learned,
    "what is trained above": thawed,
    "what was trained before": thawed_and_frozen,
    "other images beside them": among_others,
    "another budget": lambda asked: set_to(feature_cache=replace(asked.feature_cache, budget=10**8))(asked),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_does_not_matter_does_not(ask, filled, change):
    asked = ask()
    change(asked)
    (found,) = asked.outputs()
    assert asked.told == []
    np.testing.assert_array_equal(found, filled)


def test_another_head_is_of_no_interest_below_it(ask, lab):
    head = {"hidden": [{"units": 4}], "dropout": 0.3}
    ask(at=[FRONTIER, POOLED]).outputs()
    asked = ask(at=[FRONTIER, POOLED], recipe=lab.recipe({"train": "head"}, head=head))
    asked.outputs()
    assert asked.told == []
    asked = ask(at=[POOLED], recipe=lab.recipe({"train": "head"}, head={"pooling": "max"}))
    asked.outputs()
    assert asked.told == [(ALL, ALL)]


def test_the_plain_rendering_has_no_seed_and_no_bounds(ask):
    ask(view=View()).outputs()
    asked = ask(view=View(0, BOUNDS, 99))
    asked.outputs()
    assert asked.told == []


# What comes out


@pytest.mark.parametrize("is_stored", [True, False])
def test_plain_outputs_are_what_the_layers_give(ask, images, is_stored):
    names = [POOLED, FRONTIER, "stem_relu"]
    asked = ask(at=names, view=View())
    asked.feature_cache = asked.feature_cache if is_stored else None
    found = asked.outputs()
    pixels = images.pixels.astype(np.float32)
    for name, outputs in zip(names, found, strict=True):
        expected = lower_model(asked.classifier, [name]).predict_on_batch(pixels)
        assert (outputs.dtype, outputs.shape) == (np.float32, expected.shape)
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


def test_rows_are_those_of_the_images(ask, images):
    rows = np.array([70, 3, 3, 51])
    asked = ask(view=View())
    asked.images = Images(images.pixels, rows)
    np.testing.assert_allclose(asked.outputs()[0], ask(view=View()).outputs()[0][rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_kept_in_full(ask, images, precision):
    with use_device("cpu", precision):
        asked = ask(view=View())
        (found,) = asked.outputs()
        expected = lower_model(asked.classifier, [FRONTIER]).predict_on_batch(images.pixels.astype(np.float32)[:64])
    assert found.dtype == np.float32
    # The pass folds BatchNorm, which rounds differently; half precision would differ in the third digit.
    np.testing.assert_allclose(found[:64], np.asarray(expected, dtype=np.float32), rtol=1e-3, atol=1e-6)


def test_what_comes_along_is_stored_only_where_a_pass_is_needed(ask, feature_cache):
    def entries() -> int:
        return len(list(feature_cache.folder.glob("*/data.npy")))

    def look(at: str, also: list[str]) -> list[tuple[int, int]]:
        told: list[tuple[int, int]] = []
        asked = ask()
        found = extraction.extract(
            asked.classifier,
            asked.images,
            feature_cache,
            at=[at],
            also=also,
            view=View(),
            progress=lambda *rows: told.append(rows),
        )
        assert len(found) == 1
        return told

    assert (look(FRONTIER, ["stem_relu"]), entries()) == ([(ALL, ALL)], 2)
    assert (look("stem_relu", [POOLED]), entries()) == ([], 2)
    assert (look(POOLED, []), entries()) == ([(ALL, ALL)], 3)


# Random renderings


def test_renderings_differ_from_each_other_and_from_the_plain_one(ask):
    views = [View(), *(View(number, BOUNDS, seed) for number in (1, 2) for seed in (7, 8))]
    found = [ask(view=view).outputs()[0] for view in views]
    for index, one in enumerate(found):
        for other in found[:index]:
            # Every single image, by far more than rounding.
            assert np.abs(one - other).max(axis=(1, 2, 3)).min() > 1e-2


def test_an_image_that_stands_twice_has_two_renderings(ask, images):
    asked = ask()
    asked.images = Images(images.pixels, np.zeros(70, np.int64))
    (found,) = asked.outputs()
    assert len(np.unique(found.reshape(70, -1), axis=0)) == 70


@pytest.mark.parametrize(("start", "stop"), [(0, 74), (0, 1), (1, 63), (60, 68), (64, 74), (73, 74)])
def test_any_rows_come_out_as_in_the_whole(ask, filled, start, stop):
    """Renderings are drawn for 64 images at a time, wherever the blocks of the store begin."""
    asked = ask()
    run = extraction._Pass(asked.classifier, asked.images, asked.at, asked.view)
    np.testing.assert_array_equal(run(start, stop, [0])[0], filled[start:stop])


@pytest.mark.parametrize("view", [View(), RANDOM])
def test_small_blocks_change_nothing_and_cost_nothing(ask, monkeypatch, view):
    """Wide outputs make blocks of a few images; the pass still computes every image once."""
    (whole,) = ask(view=view).outputs()
    reads = []

    class Watched:
        def __init__(self, pixels: np.ndarray) -> None:
            self.pixels = pixels

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            reads.extend(rows)
            return self.pixels[rows]

    asked = ask(view=view)
    asked.images = Images(Watched(asked.images.pixels), asked.images.rows)
    asked.feature_cache = replace(asked.feature_cache, folder=asked.feature_cache.folder / "anew")
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 7 * whole[0].nbytes)
    np.testing.assert_array_equal(asked.outputs()[0], whole)
    assert [done for done, _ in asked.told] == [7, 14, 21, 28, 35, 42, 49, 56, 63, 70, 74]
    assert reads == list(range(ALL))


# Damage and interruption


def flipped(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_flipped_bit_is_repaired_to_the_same_bytes(ask, feature_cache, monkeypatch):
    """Of a random rendering: what was drawn is drawn again, for the damaged block alone."""
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 10 * 3 * 3 * 6 * 4)
    ask().outputs()
    (file,) = feature_cache.folder.glob("*/data.npy")
    sound = file.read_bytes()
    flipped(file, len(sound) // 2)
    asked = ask()
    asked.outputs()
    assert asked.told == [(10, 10)]
    assert file.read_bytes() == sound


@pytest.mark.parametrize("view", [View(), RANDOM])
def test_an_interrupted_pass_is_not_used(ask, feature_cache, monkeypatch, view):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 10 * 3 * 3 * 6 * 4)
    asked = ask(view=view)

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extraction.extract(asked.classifier, asked.images, feature_cache, at=[FRONTIER], view=view, progress=interrupt)
    assert list(feature_cache.folder.glob("*/data.npy")) == list(feature_cache.folder.glob(".*-*")) == []
    again = ask(view=view)
    (found,) = again.outputs()
    assert again.told[-1] == (ALL, ALL)
    apart = ask(view=view)
    apart.feature_cache = None
    (expected,) = apart.outputs()
    np.testing.assert_array_equal(found, expected)
