"""Augmentation: the movements it claims, within the bounds it claims, and none when not training."""

import keras
import numpy as np
import pytest

from tlcli.data.augment import PRESETS, Augment, Bounds, bounds_of
from tlcli.recipe.schema import AugmentSpec

HEIGHT, WIDTH = 9, 13


def pictures(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, HEIGHT, WIDTH, 3)).astype(np.float32)


def views(images: np.ndarray, bounds: Bounds, *, seed: int = 0) -> np.ndarray:
    return np.asarray(Augment(bounds, seed=seed)(images, training=True))


class Drawn(Augment):
    """The bounds themselves in place of random numbers below them, with chosen signs."""

    def __init__(self, bounds: Bounds, *signs: float) -> None:
        super().__init__(bounds)
        self.signs = list(signs)

    def _uniform(self, batch, bound):
        return keras.ops.ones((batch,)) * bound * self.signs.pop(0)


def moved(images: np.ndarray, bounds: Bounds, **signs: float) -> np.ndarray:
    """Views whose draws, in the order angle, scale, mirrors, shifts, have these signs."""
    order = ["angle", "scale"]
    order += ["mirror_x"] * (bounds.flip in ("horizontal", "both")) + ["mirror_y"] * (
        bounds.flip in ("vertical", "both")
    )
    drawn = [signs.get(name, 1.0) for name in [*order, "shift_x", "shift_y"]]
    return np.asarray(Drawn(bounds, *drawn)(images, training=True))


ALL = Bounds("both", 30.0, 0.3, 0.2, 0.2, 0.3, 0.3)


@pytest.mark.parametrize("bounds", [ALL, Bounds()])
def test_pictures_pass_untouched_when_not_training(bounds):
    images = pictures()
    np.testing.assert_array_equal(Augment(bounds)(images, training=False), images)
    np.testing.assert_array_equal(Augment(bounds)(images), images)


def test_no_operation_leaves_pictures_alone():
    np.testing.assert_array_equal(views(pictures(), Bounds()), pictures())


def test_a_warp_by_nothing_keeps_the_picture():
    """Through the resampling, corners and all: no transposition, no half-pixel drift."""
    images = pictures()
    found = moved(images, Bounds(rotation=1e-7))
    np.testing.assert_allclose(found, images, atol=0.05)


@pytest.mark.parametrize(
    ("flip", "mirrors"),
    [
        ("horizontal", [lambda x: x[:, ::-1]]),
        ("vertical", [lambda x: x[::-1]]),
        ("both", [lambda x: x[:, ::-1], lambda x: x[::-1], lambda x: x[::-1, ::-1]]),
    ],
)
def test_a_flip_mirrors_exactly_or_not_at_all(flip, mirrors):
    images = pictures(40)
    ways = [lambda x: x, *mirrors]
    counts = np.zeros(len(ways), int)
    for image, view in zip(images, views(images, Bounds(flip=flip)), strict=True):
        found = [np.allclose(view, way(image), atol=0.05) for way in ways]
        assert sum(found) == 1
        counts += found
    # Each way by a fair coin: none of 40 pictures would come by chance once in 20,000 runs at most.
    assert counts.min() > 0
    assert counts[0] < 35


@pytest.mark.parametrize(("mirror", "expected"), [(1.0, lambda x: x), (-1.0, lambda x: x[:, :, ::-1])])
def test_the_sign_decides_on_the_mirror(mirror, expected):
    images = pictures()
    found = moved(images, Bounds(flip="horizontal"), mirror_x=mirror)
    np.testing.assert_allclose(found, expected(images), atol=0.05)


@pytest.mark.parametrize("across", [-1, 0, 1])
@pytest.mark.parametrize("down", [-1, 0, 1])
def test_a_shift_moves_by_whole_pixels(across, down):
    """By two columns of 12 and two rows of 12: the picture is square here, so that one share is whole both ways."""
    images = np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3)).astype(np.float32)
    found = moved(images, Bounds(shift=2 / 12), shift_x=across, shift_y=down)
    rows = np.clip(np.arange(12) + 2 * down, 0, 11)
    columns = np.clip(np.arange(12) + 2 * across, 0, 11)
    np.testing.assert_allclose(found, images[:, rows][:, :, columns], atol=0.05)


def test_a_shift_is_a_share_of_each_side():
    image = np.zeros((1, 20, 40, 3), np.float32)
    image[0, 10, 20] = 255
    found = moved(image, Bounds(shift=0.1), shift_x=-1.0, shift_y=-1.0)
    assert np.unravel_index(found[0, ..., 0].argmax(), (20, 40)) == (12, 24)


@pytest.mark.parametrize(("sign", "turns"), [(1.0, 1), (-1.0, -1)])
def test_a_quarter_turn(sign, turns):
    image = np.random.default_rng(0).uniform(0, 255, (2, 11, 11, 3)).astype(np.float32)
    found = moved(image, Bounds(rotation=90.0), angle=sign)
    np.testing.assert_allclose(found, np.rot90(image, turns, axes=(1, 2)), atol=0.1)


def test_a_turn_is_rigid_on_pictures_that_are_not_square():
    """A point 4 right of the centre comes to lie 4 above or below it."""
    image = np.zeros((1, 21, 31, 3), np.float32)
    image[0, 10, 19] = 255
    found = moved(image, Bounds(rotation=90.0), angle=1.0)[0, ..., 0]
    assert np.unravel_index(found.argmax(), found.shape) == (6, 15)
    assert found.sum() == pytest.approx(255, rel=0.01)


@pytest.mark.parametrize(("sign", "factor"), [(1.0, 1 / 2), (-1.0, 2.0)])
def test_zoom_scales_about_the_centre(sign, factor):
    image = np.zeros((1, 41, 41, 3), np.float32)
    image[0, 16:25, 16:25] = 255
    found = moved(image, Bounds(zoom=1.0), scale=sign)[0, ..., 0]
    rows, columns = np.nonzero(found > 127)
    assert (rows.mean(), columns.mean()) == (20, 20)
    assert (rows.max() - rows.min() + 1) == pytest.approx(9 * factor, abs=1)


def test_what_comes_in_from_outside_is_the_edge():
    image = np.full((1, HEIGHT, WIDTH, 3), 100.0, np.float32)
    np.testing.assert_allclose(views(image, Bounds(rotation=45.0, shift=0.4, zoom=0.5)), image, atol=0.01)


def test_movements_stay_within_their_bounds():
    """The corners of many views, traced through the matrices."""
    bounds = Bounds("both", rotation=15.0, zoom=0.25, shift=0.1)
    matrices = np.asarray(Augment(bounds, seed=3)._matrices(np.zeros((500, HEIGHT, WIDTH, 3), np.float32)))
    assert not matrices[:, 6:].any()
    linear = matrices[:, [0, 1, 3, 4]].reshape(-1, 2, 2)
    scales = np.sqrt(np.abs(np.linalg.det(linear)))
    assert 1 / 1.25 - 1e-5 <= scales.min() < 0.83 < 1.2 < scales.max() <= 1.25 + 1e-5
    # Without mirrors: the columns carry them.
    mirrors = np.sign(np.stack([matrices[:, 0], matrices[:, 4]], axis=1))
    angles = np.degrees(np.arctan2(linear[:, 1, 0] * mirrors[:, 0], linear[:, 0, 0] * mirrors[:, 0]))
    assert 14 < np.abs(angles).max() <= 15 + 1e-3
    assert {tuple(pair) for pair in mirrors} == {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    shifts = linear @ centre + matrices[:, [2, 5]] - centre
    assert np.all(np.abs(shifts) <= np.array([0.1 * WIDTH, 0.1 * HEIGHT]) + 1e-4)
    assert np.all(np.abs(shifts).max(axis=0) > 0.95 * np.array([0.1 * WIDTH, 0.1 * HEIGHT]))


def test_brightness_adds_within_its_bound():
    images = np.full((300, 2, 2, 3), 128.0, np.float32)
    found = views(images, Bounds(brightness=0.2)) - images
    assert 45 < found.max() <= 51.001
    assert -51.001 <= found.min() < -45
    # One change for the whole picture.
    np.testing.assert_allclose(found, np.broadcast_to(found[:, :1, :1, :1], found.shape), atol=1e-4)


def test_contrast_spreads_about_the_mean():
    images = pictures(200) * 0.4 + 75
    found = views(images, Bounds(contrast=0.3))
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), images.mean(axis=(1, 2, 3)), rtol=1e-4)
    ratios = found.std(axis=(1, 2)).mean(axis=1) / images.std(axis=(1, 2)).mean(axis=1)
    assert 0.7 - 1e-3 <= ratios.min() < 0.75 < 1.25 < ratios.max() <= 1.3 + 1e-3


def test_saturation_keeps_the_greys():
    grey = np.repeat(pictures()[..., :1], 3, axis=-1)
    np.testing.assert_allclose(views(grey, Bounds(saturation=0.5)), grey, atol=1e-3)
    images = pictures(200) * 0.3 + 80
    found = views(images, Bounds(saturation=0.5))
    np.testing.assert_allclose(found.mean(axis=-1), images.mean(axis=-1), rtol=1e-4)
    ratios = np.ptp(found, axis=-1).mean(axis=(1, 2)) / np.ptp(images, axis=-1).mean(axis=(1, 2))
    assert 0.5 - 1e-3 <= ratios.min() < 0.6 < 1.4 < ratios.max() <= 1.5 + 1e-3


@pytest.mark.parametrize("bounds", [ALL, Bounds(brightness=1.0, contrast=1.0), Bounds(**PRESETS["strong"])])
def test_pixels_stay_pixels(bounds):
    extreme = np.where(pictures(30) > 127, 255.0, 0.0).astype(np.float32)
    found = views(extreme, bounds)
    assert (found.dtype, found.shape) == (np.float32, extreme.shape)
    assert -1e-3 <= found.min() <= found.max() <= 255 + 1e-3


def test_pictures_of_a_batch_differ_and_seeds_repeat():
    same = np.repeat(pictures(1), 6, axis=0)
    found = views(same, ALL, seed=4)
    assert len({view.tobytes() for view in found}) == 6
    np.testing.assert_array_equal(views(same, ALL, seed=4), found)
    assert not np.array_equal(views(same, ALL, seed=5), found)


def test_every_batch_brings_other_views_until_the_state_is_put_back():
    """What makes a resumed epoch equal to the interrupted one."""
    layer, images = Augment(ALL, seed=0), pictures()
    state = layer.seed_generator.state
    start = state.numpy()
    first, second = (np.asarray(layer(images, training=True)) for _ in range(2))
    assert not np.array_equal(first, second)
    state.assign(start)
    np.testing.assert_array_equal(layer(images, training=True), first)
    state.assign(start + 1)
    assert not np.array_equal(layer(images, training=True), first)


def test_presets_and_custom_bounds():
    assert bounds_of(AugmentSpec(preset="none")) == Bounds()
    assert bounds_of(AugmentSpec()) == Bounds("horizontal", 10.0, 0.1, 0.05)
    assert bounds_of(AugmentSpec(preset="custom", flip="vertical", shift=0.2)) == Bounds("vertical", shift=0.2)
    strong, light = bounds_of(AugmentSpec(preset="strong")), bounds_of(AugmentSpec(preset="light"))
    for name in ("rotation", "zoom", "shift", "brightness", "contrast", "saturation"):
        assert getattr(strong, name) > getattr(light, name)


@pytest.mark.parametrize(
    ("bounds", "warps", "recolours"),
    [
        (Bounds(), False, False),
        (Bounds(flip="vertical"), True, False),
        (Bounds(rotation=1.0), True, False),
        (Bounds(zoom=0.1), True, False),
        (Bounds(shift=0.1), True, False),
        (Bounds(contrast=0.1), False, True),
        (Bounds(saturation=0.1), False, True),
        (Bounds(brightness=0.1), False, True),
    ],
)
def test_only_what_is_asked_for_is_computed(bounds, warps, recolours):
    assert (bounds.warps, bounds.recolours) == (warps, recolours)
    assert not np.array_equal(views(pictures(), bounds), pictures()) or bounds == Bounds()
