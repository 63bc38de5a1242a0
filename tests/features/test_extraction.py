"""Feature extraction: values, keys of the feature cache, views, and recovery from damage and interruption."""

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
from tlcli.features import extraction, frozen
from tlcli.features.extraction import FeatureCache, FeatureExtractor
from tlcli.features.frozen import View
from tlcli.model.classifier import Classifier, lower_model
from tlcli.model.head import POOLED
from tlcli.model.precision import computing_in
from tlcli.recipe.schema import Recipe
from tlcli.train import freeze

CUT_POINT = "block1_relu"
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
class Lookup:
    """One extraction by a new classifier, as in a new process; `progress` collects what it reports."""

    classifier: Classifier
    images: Images
    feature_cache: FeatureCache | None
    cut_points: list[str] = field(default_factory=lambda: [CUT_POINT])
    view: View = RANDOM
    progress: list[tuple[int, int]] = field(default_factory=list)

    def outputs(self) -> list[np.ndarray]:
        extractor = FeatureExtractor(self.classifier, self.images, self.view)
        return list(extractor.extract(self.cut_points, self.feature_cache, progress=self.record))

    def record(self, done: int, total: int) -> None:
        self.progress.append((done, total))


@pytest.fixture
def look_up(lab, recipe, images, feature_cache) -> Callable[..., Lookup]:
    def create(*, recipe: Recipe = recipe, cut_points=(CUT_POINT,), view=RANDOM, **options: Any) -> Lookup:
        return Lookup(lab.classifier(recipe, **options), images, feature_cache, list(cut_points), view)

    return create


@pytest.fixture(scope="module")
def filled_once(lab, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("feature_cache") / "activations"
    images = Images(lab.train.pixels, np.arange(ALL))
    lookup = Lookup(lab.classifier(lab.recipe({"train": "head"})), images, FeatureCache(folder, 10**9, lab.contents))
    lookup.outputs()
    assert lookup.progress == [(ALL, ALL)]
    return folder


@pytest.fixture
def filled(filled_once, feature_cache) -> np.ndarray:
    """The features in the cache after a first extraction."""
    shutil.copytree(filled_once, feature_cache.folder)
    (file,) = feature_cache.folder.glob("*/data.npy")
    return np.load(file)


def scaled(name: str) -> Callable[[Lookup], None]:
    """Change one value of one weight by one unit in the last place."""

    def change(lookup: Lookup) -> None:
        weight = next(weight for weight in lookup.classifier.model.weights if weight.path.endswith(name))
        value = np.array(weight.numpy())
        value.flat[0] = np.nextafter(value.flat[0], np.float32(9))
        weight.assign(value)

    return change


def set_to(**values: Any) -> Callable[[Lookup], None]:
    def change(lookup: Lookup) -> None:
        for name, value in values.items():
            setattr(lookup, name, value)

    return change


def another_content(lookup: Lookup) -> None:
    lookup.feature_cache = replace(
        lookup.feature_cache,
        contents=[*lookup.feature_cache.contents[:5], "0" * 64, *lookup.feature_cache.contents[6:]],
    )


def another_slope(lookup: Lookup) -> None:
    lookup.classifier.model.get_layer("stem_relu").negative_slope = 0.1


def other_pixels(side: int) -> Callable[[Lookup], None]:
    def change(lookup: Lookup) -> None:
        lookup.images = Images(
            np.pad(lookup.images.pixels, [(0, 0), (0, side - 12), (0, side - 12), (0, 0)]), lookup.images.rows
        )

    return change


# Changes before the second extraction: options of the classifier, and a change afterwards.
DIFFERENT = {
    "one image": ({}, another_content),
    "fewer images": ({}, lambda lookup: set_to(images=Images(lookup.images.pixels, np.arange(ALL - 1)))(lookup)),
    "their order": ({}, lambda lookup: set_to(images=Images(lookup.images.pixels, np.arange(ALL)[::-1]))(lookup)),
    "a kernel": ({}, scaled("stem_conv/kernel")),
    "a scale": ({}, scaled("stem_bn/gamma")),
    "a statistic": ({}, scaled("stem_bn/moving_mean")),
    "a nested bias": ({}, scaled("block1_conv/bias")),
    "a layer's setting": ({}, another_slope),
    "the input size": ({"side": 16}, other_pixels(16)),
    "the preprocessing": ({"preprocessing": "torch"}, set_to()),
    "the order of colours": ({"preprocessing": "caffe"}, set_to()),
    "the resize mode": ({"resize": "pad"}, set_to()),
    "the cut point": ({}, set_to(cut_points=["stem_relu"])),
    "the bounds": ({}, set_to(view=replace(RANDOM, bounds=replace(BOUNDS, shift=0.21)))),
    "the seed": ({}, set_to(view=replace(RANDOM, seed=8))),
    "the number": ({}, set_to(view=replace(RANDOM, number=2))),
    "plain": ({}, set_to(view=View())),
    "the precision": ({}, set_to(view=replace(RANDOM, precision="bfloat16"))),
}


@pytest.mark.parametrize(("options", "change"), DIFFERENT.values(), ids=DIFFERENT)
def test_changes_of_the_features_change_the_key(look_up, feature_cache, filled, options, change):
    lookup = look_up(**options)
    change(lookup)
    lookup.outputs()
    assert lookup.progress, "computed"
    assert len(list(feature_cache.folder.glob("*/data.npy"))) == 2, "the first entry stays"


def train_above(lookup: Lookup) -> None:
    for weight in lookup.classifier.model.weights[-8:]:
        assert "block1" not in weight.path
        weight.assign(weight * 2)


def unfreeze_above(lookup: Lookup) -> None:
    freeze.set_trainable(lookup.classifier, {"block2_conv", "block2_bn", "top_conv"}, batch_norm="train")


def unfreeze_and_freeze(lookup: Lookup) -> None:
    """As after an unfreezing round that was rolled back; the momentum of statistics stays lowered."""
    all_layers = {
        layer.name for layer in lookup.classifier.model.layers if layer.name.startswith(("stem", "block", "top"))
    }
    freeze.set_trainable(lookup.classifier, all_layers, batch_norm="train")
    freeze.set_trainable(lookup.classifier, set(), batch_norm="frozen")


def enlarge_pixel_cache(lookup: Lookup) -> None:
    """The same images in a larger pixel cache, between other contents."""
    rows = np.arange(ALL) * 2 + 1
    pixels = np.zeros((2 * ALL + 5, *lookup.images.pixels.shape[1:]), np.uint8)
    pixels[rows] = lookup.images.pixels
    contents = ["f" * 64] * len(pixels)
    for row, content in zip(rows, lookup.feature_cache.contents, strict=True):
        contents[row] = content
    lookup.images, lookup.feature_cache = Images(pixels, rows), replace(lookup.feature_cache, contents=contents)


SAME = {
    "nothing": set_to(),
    "weights above": train_above,
    "unfrozen layers above": unfreeze_above,
    "layers unfrozen before": unfreeze_and_freeze,
    "other images in the pixel cache": enlarge_pixel_cache,
    "another budget": lambda lookup: set_to(feature_cache=replace(lookup.feature_cache, budget=10**8))(lookup),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_other_changes_keep_the_key(look_up, filled, change):
    lookup = look_up()
    change(lookup)
    (features,) = lookup.outputs()
    assert lookup.progress == []
    np.testing.assert_array_equal(features, filled)


def test_another_head_keeps_the_key_of_features_below_it(look_up, lab):
    head = {"hidden": [{"units": 4}], "dropout": 0.3}
    look_up(cut_points=[CUT_POINT, POOLED]).outputs()
    lookup = look_up(cut_points=[CUT_POINT, POOLED], recipe=lab.recipe({"train": "head"}, head=head))
    lookup.outputs()
    assert lookup.progress == []
    lookup = look_up(cut_points=[POOLED], recipe=lab.recipe({"train": "head"}, head={"pooling": "max"}))
    lookup.outputs()
    assert lookup.progress == [(ALL, ALL)]


def test_the_key_of_the_plain_view_ignores_seed_and_bounds(look_up):
    look_up(view=View()).outputs()
    lookup = look_up(view=View(0, BOUNDS, 99))
    lookup.outputs()
    assert lookup.progress == []


@pytest.mark.parametrize("is_stored", [True, False])
def test_plain_features_are_the_outputs_of_the_layers(look_up, images, is_stored):
    names = [POOLED, CUT_POINT, "stem_relu"]
    lookup = look_up(cut_points=names, view=View())
    lookup.feature_cache = lookup.feature_cache if is_stored else None
    features = lookup.outputs()
    pixels = images.pixels.astype(np.float32)
    for name, outputs in zip(names, features, strict=True):
        expected = lower_model(lookup.classifier, [name]).predict_on_batch(pixels)
        assert (outputs.dtype, outputs.shape) == (np.float32, expected.shape)
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


def test_rows_are_in_the_order_of_the_images(look_up, images):
    rows = np.array([70, 3, 3, 51])
    lookup = look_up(view=View())
    lookup.images = Images(images.pixels, rows)
    np.testing.assert_allclose(lookup.outputs()[0], look_up(view=View()).outputs()[0][rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "exact", "expected"), [(30, 10, False), (64, 1, False), (65, 33, True), (65, 34, False), (200, 60, True)]
)
def test_half_precision_needs_a_batch_without_exact_images(images: int, exact: int, expected: bool) -> None:
    assert frozen.computes_in_half(images, exact) is expected


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_features_are_stored_in_float32(look_up, images, precision):
    lookup = look_up(view=View(precision=precision))
    (features,) = lookup.outputs()
    lower = lower_model(lookup.classifier, [CUT_POINT])
    with computing_in(lower, precision):
        expected = lower.predict_on_batch(images.pixels.astype(np.float32)[:64])
    assert features.dtype == np.float32
    # The pass folds BatchNorm, which rounds differently; half precision would differ in the third digit.
    np.testing.assert_allclose(features[:64], np.asarray(expected, dtype=np.float32), rtol=1e-3, atol=1e-6)


def test_additional_cut_points_are_stored_only_if_a_pass_is_needed(look_up, feature_cache):
    def entries() -> int:
        return len(list(feature_cache.folder.glob("*/data.npy")))

    def look(cut_point: str, also: list[str]) -> list[tuple[int, int]]:
        lookup = look_up()
        extractor = FeatureExtractor(lookup.classifier, lookup.images, View())
        assert len(extractor.extract([cut_point], feature_cache, also=also, progress=lookup.record)) == 1
        return lookup.progress

    assert (look(CUT_POINT, ["stem_relu"]), entries()) == ([(ALL, ALL)], 2)
    assert (look("stem_relu", [POOLED]), entries()) == ([], 2)
    assert (look(POOLED, []), entries()) == ([(ALL, ALL)], 3)


def test_hosts_compare_their_caches_after_the_remote_one_was_read(look_up, feature_cache, monkeypatch):
    """Otherwise an entry that some of them fetch would leave the others waiting for help to compute it."""
    steps = []

    class Remote:
        def fetch(self, folder, keys):
            steps.append("fetch")

        def put(self, folder, keys):
            steps.append("put")

    def agree(facts):
        steps.append("agree")
        return facts

    monkeypatch.setattr(extraction, "shared_cache", Remote)
    monkeypatch.setattr(extraction, "host_count", lambda: 2)
    monkeypatch.setattr(extraction, "true_everywhere", agree)
    look_up().outputs()
    assert steps == ["fetch", "agree", "put"]


def test_views_differ_from_each_other(look_up):
    views = [View(), *(View(number, BOUNDS, seed) for number in (1, 2) for seed in (7, 8))]
    features = [look_up(view=view).outputs()[0] for view in views]
    for index, one in enumerate(features):
        for other in features[:index]:
            # Every image differs by far more than rounding.
            assert np.abs(one - other).max(axis=(1, 2, 3)).min() > 1e-2


def test_copies_of_an_image_are_augmented_differently(look_up, images):
    lookup = look_up()
    lookup.images = Images(images.pixels, np.zeros(70, np.int64))
    (features,) = lookup.outputs()
    assert len(np.unique(features.reshape(70, -1), axis=0)) == 70


@pytest.mark.parametrize(("start", "stop"), [(0, 74), (0, 1), (1, 63), (60, 68), (64, 74), (73, 74)])
def test_rows_computed_alone_equal_those_of_the_whole_pass(look_up, filled, start, stop):
    """Augmentation is random per batch of the pass, wherever a block of the cache starts."""
    lookup = look_up()
    extractor = FeatureExtractor(lookup.classifier, lookup.images, lookup.view)
    forward = extraction._Pass(extractor, lookup.cut_points)
    np.testing.assert_array_equal(forward(start, stop, [0])[0], filled[start:stop])


@pytest.mark.parametrize("view", [View(), RANDOM])
def test_small_blocks_do_not_change_the_pass(look_up, monkeypatch, view):
    """Wide outputs lead to blocks of a few images; the pass still computes every image once."""
    (whole,) = look_up(view=view).outputs()
    reads = []

    class Watched:
        def __init__(self, pixels: np.ndarray) -> None:
            self.pixels = pixels

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            reads.extend(rows)
            return self.pixels[rows]

    lookup = look_up(view=view)
    lookup.images = Images(Watched(lookup.images.pixels), lookup.images.rows)
    lookup.feature_cache = replace(lookup.feature_cache, folder=lookup.feature_cache.folder / "anew")
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 7 * whole[0].nbytes)
    np.testing.assert_array_equal(lookup.outputs()[0], whole)
    assert [done for done, _ in lookup.progress] == [7, 14, 21, 28, 35, 42, 49, 56, 63, 70, 74]
    assert reads == list(range(ALL))


def flip_bit(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def test_a_flipped_bit_is_repaired_to_the_same_bytes(look_up, feature_cache, monkeypatch):
    """The augmentation is repeated exactly, and only for the damaged block."""
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 10 * 3 * 3 * 6 * 4)
    look_up().outputs()
    (file,) = feature_cache.folder.glob("*/data.npy")
    intact = file.read_bytes()
    flip_bit(file, len(intact) // 2)
    lookup = look_up()
    lookup.outputs()
    assert lookup.progress == [(10, 10)]
    assert file.read_bytes() == intact


@pytest.mark.parametrize("view", [View(), RANDOM])
def test_an_interrupted_pass_leaves_no_entry(look_up, feature_cache, monkeypatch, view):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 10 * 3 * 3 * 6 * 4)
    lookup = look_up(view=view)

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureExtractor(lookup.classifier, lookup.images, view).extract([CUT_POINT], feature_cache, progress=interrupt)
    assert list(feature_cache.folder.glob("*/data.npy")) == list(feature_cache.folder.glob(".*-*")) == []
    again = look_up(view=view)
    (features,) = again.outputs()
    assert again.progress[-1] == (ALL, ALL)
    uncached = look_up(view=view)
    uncached.feature_cache = None
    (expected,) = uncached.outputs()
    np.testing.assert_array_equal(features, expected)
