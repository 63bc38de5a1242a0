"""Augmentation: the right movements, within their bounds, and none outside training."""

import keras
import numpy as np
import pytest

from tlcli.data.augment import PRESETS, Augment, Bounds, bounds_of
from tlcli.recipe.augment import AugmentSpec

HEIGHT, WIDTH = 9, 13


def random_images(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, HEIGHT, WIDTH, 3)).astype(np.float32)


def views(images: np.ndarray, bounds: Bounds, *, seed: int = 0) -> np.ndarray:
    return np.asarray(Augment(bounds, seed=seed)(images, training=True))


class FixedDraws(Augment):
    """Draws the bounds themselves, with chosen signs, instead of random numbers between them."""

    def __init__(self, bounds: Bounds, *signs: float) -> None:
        super().__init__(bounds)
        self.signs = list(signs)

    def _uniform(self, batch, bound):
        return keras.ops.ones((batch,)) * bound * self.signs.pop(0)


def fixed_views(images: np.ndarray, bounds: Bounds, **signs: float) -> np.ndarray:
    """Views with draws of these signs, in the order angle, scale, mirrors, shifts; 1 by default."""
    order = ["angle", "scale"]
    order += ["mirror_x"] * (bounds.flip in ("horizontal", "both")) + ["mirror_y"] * (
        bounds.flip in ("vertical", "both")
    )
    draws = [signs.get(name, 1.0) for name in [*order, "shift_x", "shift_y"]]
    return np.asarray(FixedDraws(bounds, *draws)(images, training=True))


ALL = Bounds("both", 30.0, 0.3, 0.2, 0.2, 0.3, 0.3)


@pytest.mark.parametrize("bounds", [ALL, Bounds()])
def test_images_do_not_change_outside_training(bounds):
    images = random_images()
    np.testing.assert_array_equal(Augment(bounds)(images, training=False), images)
    np.testing.assert_array_equal(Augment(bounds)(images), images)


def test_images_do_not_change_without_operations():
    np.testing.assert_array_equal(views(random_images(), Bounds()), random_images())


def test_a_warp_by_nothing_keeps_the_image():
    """The image is resampled without transposition or half-pixel drift, corners included."""
    images = random_images()
    result = fixed_views(images, Bounds(rotation=1e-7))
    np.testing.assert_allclose(result, images, atol=0.05)


@pytest.mark.parametrize(
    ("flip", "mirrors"),
    [
        ("horizontal", [lambda x: x[:, ::-1]]),
        ("vertical", [lambda x: x[::-1]]),
        ("both", [lambda x: x[:, ::-1], lambda x: x[::-1], lambda x: x[::-1, ::-1]]),
    ],
)
def test_a_flip_mirrors_exactly_or_not_at_all(flip, mirrors):
    images = random_images(40)
    ways = [lambda x: x, *mirrors]
    counts = np.zeros(len(ways), int)
    for image, view in zip(images, views(images, Bounds(flip=flip)), strict=True):
        result = [np.allclose(view, way(image), atol=0.05) for way in ways]
        assert sum(result) == 1
        counts += result
    # Fair coins: by chance, a way has none of 40 images at most once in 20,000 runs.
    assert counts.min() > 0
    assert counts[0] < 35


@pytest.mark.parametrize(("mirror", "expected"), [(1.0, lambda x: x), (-1.0, lambda x: x[:, :, ::-1])])
def test_the_sign_of_the_draw_decides_the_mirror(mirror, expected):
    images = random_images()
    result = fixed_views(images, Bounds(flip="horizontal"), mirror_x=mirror)
    np.testing.assert_allclose(result, expected(images), atol=0.05)


@pytest.mark.parametrize("across", [-1, 0, 1])
@pytest.mark.parametrize("down", [-1, 0, 1])
def test_a_shift_moves_by_whole_pixels(across, down):
    """Two of 12 columns and two of 12 rows; the image is square so that one share is whole in both directions."""
    images = np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3)).astype(np.float32)
    result = fixed_views(images, Bounds(shift=2 / 12), shift_x=across, shift_y=down)
    rows = np.clip(np.arange(12) + 2 * down, 0, 11)
    columns = np.clip(np.arange(12) + 2 * across, 0, 11)
    np.testing.assert_allclose(result, images[:, rows][:, :, columns], atol=0.05)


def test_a_shift_is_a_share_of_the_width_or_height():
    image = np.zeros((1, 20, 40, 3), np.float32)
    image[0, 10, 20] = 255
    result = fixed_views(image, Bounds(shift=0.1), shift_x=-1.0, shift_y=-1.0)
    assert np.unravel_index(result[0, ..., 0].argmax(), (20, 40)) == (12, 24)


@pytest.mark.parametrize(("sign", "turns"), [(1.0, 1), (-1.0, -1)])
def test_a_rotation_by_90_degrees(sign, turns):
    image = np.random.default_rng(0).uniform(0, 255, (2, 11, 11, 3)).astype(np.float32)
    result = fixed_views(image, Bounds(rotation=90.0), angle=sign)
    np.testing.assert_allclose(result, np.rot90(image, turns, axes=(1, 2)), atol=0.1)


def test_a_rotation_is_rigid_on_an_image_that_is_not_square():
    """A point 4 pixels right of the centre moves to 4 pixels above it."""
    image = np.zeros((1, 21, 31, 3), np.float32)
    image[0, 10, 19] = 255
    result = fixed_views(image, Bounds(rotation=90.0), angle=1.0)[0, ..., 0]
    assert np.unravel_index(result.argmax(), result.shape) == (6, 15)
    assert result.sum() == pytest.approx(255, rel=0.01)


@pytest.mark.parametrize(("sign", "factor"), [(1.0, 1 / 2), (-1.0, 2.0)])
def test_zoom_scales_around_the_centre(sign, factor):
    image = np.zeros((1, 41, 41, 3), np.float32)
    image[0, 16:25, 16:25] = 255
    result = fixed_views(image, Bounds(zoom=1.0), scale=sign)[0, ..., 0]
    rows, columns = np.nonzero(result > 127)
    assert (rows.mean(), columns.mean()) == (20, 20)
    assert (rows.max() - rows.min() + 1) == pytest.approx(9 * factor, abs=1)


def test_pixels_from_outside_repeat_the_edge():
    image = np.full((1, HEIGHT, WIDTH, 3), 100.0, np.float32)
    np.testing.assert_allclose(views(image, Bounds(rotation=45.0, shift=0.4, zoom=0.5)), image, atol=0.01)


def test_movements_stay_within_their_bounds():
    """Scales, angles, mirrors and shifts of many views, computed from their matrices."""
    bounds = Bounds("both", rotation=15.0, zoom=0.25, shift=0.1)
    matrices = np.asarray(Augment(bounds, seed=3)._matrices(np.zeros((500, HEIGHT, WIDTH, 3), np.float32)))
    assert not matrices[:, 6:].any()
    linear = matrices[:, [0, 1, 3, 4]].reshape(-1, 2, 2)
    scales = np.sqrt(np.abs(np.linalg.det(linear)))
    assert 1 / 1.25 - 1e-5 <= scales.min() < 0.83 < 1.2 < scales.max() <= 1.25 + 1e-5
    # The signs of the columns are the mirrors; without them the angles remain.
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
    result = views(images, Bounds(brightness=0.2)) - images
    assert 45 < result.max() <= 51.001
    assert -51.001 <= result.min() < -45
    # One change for the whole image.
    np.testing.assert_allclose(result, np.broadcast_to(result[:, :1, :1, :1], result.shape), atol=1e-4)


def test_contrast_spreads_around_the_mean():
    images = random_images(200) * 0.4 + 75
    result = views(images, Bounds(contrast=0.3))
    np.testing.assert_allclose(result.mean(axis=(1, 2, 3)), images.mean(axis=(1, 2, 3)), rtol=1e-4)
    ratios = result.std(axis=(1, 2)).mean(axis=1) / images.std(axis=(1, 2)).mean(axis=1)
    assert 0.7 - 1e-3 <= ratios.min() < 0.75 < 1.25 < ratios.max() <= 1.3 + 1e-3


def test_saturation_keeps_the_greys():
    grey = np.repeat(random_images()[..., :1], 3, axis=-1)
    np.testing.assert_allclose(views(grey, Bounds(saturation=0.5)), grey, atol=1e-3)
    images = random_images(200) * 0.3 + 80
    result = views(images, Bounds(saturation=0.5))
    np.testing.assert_allclose(result.mean(axis=-1), images.mean(axis=-1), rtol=1e-4)
    ratios = np.ptp(result, axis=-1).mean(axis=(1, 2)) / np.ptp(images, axis=-1).mean(axis=(1, 2))
    assert 0.5 - 1e-3 <= ratios.min() < 0.6 < 1.4 < ratios.max() <= 1.5 + 1e-3


@pytest.mark.parametrize("bounds", [ALL, Bounds(brightness=1.0, contrast=1.0), Bounds(**PRESETS["strong"])])
def test_views_keep_shape_dtype_and_range(bounds):
    extreme = np.where(random_images(30) > 127, 255.0, 0.0).astype(np.float32)
    result = views(extreme, bounds)
    assert (result.dtype, result.shape) == (np.float32, extreme.shape)
    assert -1e-3 <= result.min() <= result.max() <= 255 + 1e-3


def test_images_of_a_batch_get_different_views_and_seeds_repeat_them():
    same = np.repeat(random_images(1), 6, axis=0)
    result = views(same, ALL, seed=4)
    assert len({view.tobytes() for view in result}) == 6
    np.testing.assert_array_equal(views(same, ALL, seed=4), result)
    assert not np.array_equal(views(same, ALL, seed=5), result)


def test_every_batch_gets_other_views_until_the_state_is_restored():
    """A resumed epoch equals the interrupted one because of this."""
    layer, images = Augment(ALL, seed=0), random_images()
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
    assert bounds_of(AugmentSpec(flip="none")) == Bounds("none", 10.0, 0.1, 0.05)
    assert bounds_of(AugmentSpec(preset="none", flip="none")) == Bounds()
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
def test_only_operations_in_use_are_computed(bounds, warps, recolours):
    assert (bounds.warps, bounds.recolours) == (warps, recolours)
    assert not np.array_equal(views(random_images(), bounds), random_images()) or bounds == Bounds()
