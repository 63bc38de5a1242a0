"""Operations beside the light ones: each does what it says, compared with Pillow or NumPy where they have the same."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tlcli.data import colour, filters, random_operations
from tlcli.data.augment import PRESETS, Augment, Bounds, bounds_of
from tlcli.recipe.augment import OPERATIONS, AugmentSpec

HEIGHT, WIDTH = 16, 24


def textures(count: int = 6, *, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth coloured images, whole numbers from 20 to 230, float32."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    waves = random.uniform(0.1, 0.5, (count, 3, 2))
    phases = random.uniform(0, 6, (count, 3))
    angles = waves[..., 0, None, None] * rows + waves[..., 1, None, None] * columns + phases[..., None, None]
    return np.round(125 + 105 * np.sin(angles)).transpose(0, 2, 3, 1).astype(np.float32)


def views(images: np.ndarray, bounds: Bounds, *, seed: int = 0) -> np.ndarray:
    return np.asarray(Augment(bounds, seed=seed)(images, training=True))


def pillow(images: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(image.astype(np.uint8)) for image in images]


def constant(value: float, count: int = 6) -> np.ndarray:
    return np.full(count, value, np.float32)


# By operation of RandAugment: its strength here, and what Pillow does at that strength.
PILLOW = {
    "brightness": (-0.4, lambda image: ImageEnhance.Brightness(image).enhance(0.6)),
    "colour": (0.5, lambda image: ImageEnhance.Color(image).enhance(1.5)),
    "contrast": (0.5, lambda image: ImageEnhance.Contrast(image).enhance(1.5)),
    "sharpness": (0.9, lambda image: ImageEnhance.Sharpness(image).enhance(1.9)),
    "posterize": (4.0, lambda image: ImageOps.posterize(image, 4)),
    "solarize": (0.5, lambda image: ImageOps.solarize(image, 128)),
    "autocontrast": (1.0, ImageOps.autocontrast),
    "equalize": (1.0, ImageOps.equalize),
}


@pytest.mark.parametrize("name", PILLOW)
def test_changes_of_colour_are_those_of_pillow(name):
    images = textures(height=128, width=160)
    strength, reference = PILLOW[name]
    result = np.asarray(colour.OPERATIONS[name](images, constant(strength)))
    expected = np.stack([np.asarray(reference(image), np.float32) for image in pillow(images)])
    assert np.abs(expected - images).mean() > 2, "the example must change the images"
    # Pillow rounds to integers at every step.
    assert np.abs(result - expected).mean() < 1.2
    np.testing.assert_array_equal(colour.OPERATIONS[name](images, constant(0.0)), images)
    mixed = np.asarray(colour.OPERATIONS[name](images, np.array([0, strength] * 3, np.float32)))
    np.testing.assert_array_equal(mixed[::2], images[::2])
    np.testing.assert_allclose(mixed[1::2], result[1::2], atol=1e-3)


def test_flat_channels_survive_autocontrast_and_equalize():
    flat = np.full((2, 5, 5, 3), 77.0, np.float32)
    for change in (colour.autocontrast, colour.equalize):
        np.testing.assert_array_equal(change(flat, constant(1.0, 2)), flat)


@pytest.mark.parametrize("quality", [5, 30, 75, 95])
def test_jpeg_is_that_of_the_library(quality):
    """The decoder of the library rounds elsewhere, so single pixels differ."""
    images = textures(height=21, width=27)
    result = np.asarray(filters.jpeg(images, constant(quality)))
    expected = []
    for image in pillow(images):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, subsampling=0)
        expected.append(np.asarray(Image.open(file), np.float32))
    whole = np.s_[:, :16, :24]
    loss = np.abs(np.stack(expected)[whole] - images[whole]).mean()
    assert np.abs(result[whole] - np.stack(expected)[whole]).mean() < max(0.15 * loss, 1.0)
    assert np.abs(result - images).mean() == pytest.approx(np.abs(np.stack(expected) - images).mean(), rel=0.3)


def test_blur_is_a_gaussian_and_zero_keeps_the_image():
    point = np.zeros((2, 41, 41, 3), np.float32)
    point[:, 20, 20] = 255
    result = np.asarray(filters.blur(point, np.array([0.0, 2.0], np.float32)))
    np.testing.assert_allclose(result[0], point[0], atol=1e-3)
    places = np.arange(41) - 20
    assert np.sqrt((result[1, ..., 0].sum(axis=0) * places**2).sum() / 255) == pytest.approx(2, rel=0.02)
    flat = np.full((1, 9, 13, 3), 90.0, np.float32)
    np.testing.assert_allclose(filters.blur(flat, constant(3.0, 1)), flat, rtol=1e-5)


def test_hue_turns_the_colour_circle():
    red = np.broadcast_to(np.array([200, 0, 0], np.float32), (3, 2, 2, 3))
    turned = np.asarray(colour.shift_hue(red, np.array([0, 1 / 3, -1 / 3], np.float32)))
    np.testing.assert_allclose(turned[:, 0, 0], [[200, 0, 0], [0, 200, 0], [0, 0, 200]], atol=0.1)
    images = textures(200)
    result = views(images, Bounds(hue=0.2))
    np.testing.assert_allclose(result.max(axis=-1), images.max(axis=-1), atol=0.1)
    assert np.abs(result - images).mean() > 10


def test_a_share_of_the_images_is_grey():
    result = views(textures(300), Bounds(grey=0.25))
    is_grey = np.ptp(result, axis=-1).max(axis=(1, 2)) < 1e-3
    assert 0.15 < is_grey.mean() < 0.35
    np.testing.assert_array_equal(result[~is_grey], textures(300)[~is_grey])
    luma = np.stack([np.asarray(image.convert("L"), np.float32) for image in pillow(textures(300)[is_grey])])
    np.testing.assert_allclose(result[is_grey][..., 0], luma, atol=1)


def test_erasing_puts_noise_in_a_rectangle_of_half_of_the_images():
    images = np.full((400, 40, 60, 3), -1.0, np.float32)
    erased = views(images, Bounds(erasing=0.3)) != -1
    inside = erased.all(axis=-1)
    assert 0.4 < inside.any(axis=(1, 2)).mean() < 0.6
    shares = []
    for mask in inside[inside.any(axis=(1, 2))]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1), "a rectangle"
        shares.append(mask.mean())
    assert max(shares) < 0.32
    assert max(shares) > 0.25
    assert min(shares) < 0.06
    noise = views(images, Bounds(erasing=0.3))[erased]
    assert (noise.min() >= 0, noise.max() <= 255, 60 < noise.std() < 90) == (True, True, True)


def test_transpose_with_both_flips_makes_all_eight_orientations():
    image = textures(1, height=15, width=15)
    result = views(np.repeat(image, 80, axis=0), Bounds(flip="both", transpose=True))
    symmetries = [np.rot90(side, turns, axes=(0, 1)) for side in (image[0], image[0][:, ::-1]) for turns in range(4)]
    kinds = [[np.allclose(view, symmetry, atol=0.05) for symmetry in symmetries] for view in result]
    assert (np.sum(kinds, axis=1) == 1).all()
    assert np.sum(kinds, axis=0).min() > 0


def test_transpose_keeps_height_and_width():
    """A point at a quarter of the width and half of the height changes these shares."""
    image = np.zeros((40, 21, 41, 3), np.float32)
    image[:, 9:12, 9:12] = 255
    result = views(image, Bounds(transpose=True))[..., 0]
    centres = {tuple(np.round(np.argwhere(view > 60).mean(axis=0)).astype(int)) for view in result}
    assert centres == {(10, 10), (5, 20)}


def test_shear_moves_rows_in_proportion_to_their_height():
    image = np.zeros((200, 41, 81, 3), np.float32)
    image[:, :, 39:42] = 255
    result = views(image, Bounds(shear=20.0))[..., 0]
    middle = np.argmax(result[:, 20], axis=1)
    assert set(middle) <= {39, 40, 41}
    shifts = (result[:, 5] * np.arange(81)).sum(axis=1) / result[:, 5].sum(axis=1) - 40
    limit = 15 * np.tan(np.radians(20))
    assert (shifts.min() < -0.9 * limit, shifts.max() > 0.9 * limit) == (True, True)
    assert np.abs(shifts).max() < limit + 0.2


def test_crop_shows_a_part_of_the_image_and_nothing_outside():
    """The values are the coordinates, so that a view tells which part it shows."""
    rows, columns = np.mgrid[0:60, 0:80].astype(np.float32)
    image = np.broadcast_to(np.stack([rows, columns, rows], axis=-1), (300, 60, 80, 3))
    result = views(image, Bounds(crop=0.75))
    heights = np.ptp(result[..., 0], axis=(1, 2)) / 59
    widths = np.ptp(result[..., 1], axis=(1, 2)) / 79
    areas = heights * widths
    assert 0.2 < areas.min() < 0.3
    assert 0.93 < areas.max() <= 1.001
    aspects = widths / heights
    assert (1 / 1.37 < aspects.min() < 0.8, 1.25 < aspects.max() < 1.37) == (True, True)
    assert result[..., 1].min() >= 0
    assert result[..., 1].min(axis=(1, 2)).max() > 20, "crops lie everywhere"
    # A crop that would be longer than the image must not be narrower for that.
    least = views(image, Bounds(crop=0.02))
    assert (np.ptp(least[..., 0], axis=(1, 2)) / 59 * np.ptp(least[..., 1], axis=(1, 2)) / 79).min() > 0.96


def shares_of_operations(*, magnitude: float | None) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    drawn = random_operations.draw(lambda: random.uniform(-1, 1, 3000).astype(np.float32), magnitude=magnitude)
    return {name: np.asarray(strength) for name, strength in drawn.strengths.items()}


def test_trivialaugment_draws_one_operation_of_any_magnitude():
    strengths = shares_of_operations(magnitude=None)
    assert len(strengths) == 14
    active = np.stack(list(strengths.values())) != 0
    assert active.sum(axis=0).max() == 1
    assert np.abs(active.mean(axis=1)[1:] - 1 / 14).max() < 0.02
    rotation = strengths["rotation"][strengths["rotation"] != 0]
    assert (rotation.min(), rotation.max()) == (pytest.approx(-2.356, abs=0.1), pytest.approx(2.356, abs=0.1))
    assert len(np.unique(np.abs(rotation).round(4))) > 20
    assert strengths["posterize"].min() == 0


def test_randaugment_draws_two_operations_of_one_magnitude():
    strengths = shares_of_operations(magnitude=15.0)
    active = (np.stack(list(strengths.values())) != 0).sum(axis=0)
    assert set(active) <= {0, 1, 2}
    assert (active == 2).mean() > 0.85
    np.testing.assert_allclose(np.unique(np.abs(strengths["brightness"]).round(4)), [0, 0.45, 0.9])
    assert set(strengths["posterize"]) == {0.0, 2.0, 4.0}


@pytest.mark.parametrize(
    "bounds",
    [
        *(Bounds(**{name: value}) for name, value in {"shear": 9.0, "crop": 0.5, "hue": 0.1, "grey": 0.6}.items()),
        *(Bounds(blur=2.0), Bounds(jpeg=20), Bounds(erasing=0.4), Bounds(transpose=True)),
        *(Bounds(**PRESETS[name]) for name in ("randaugment", "trivialaugment")),
    ],
    ids=str,
)
def test_each_operation_changes_images_within_their_range_and_repeats_by_seed(bounds):
    images = textures(40, height=16, width=16)
    result = views(images, bounds, seed=1)
    assert (result.shape, result.dtype) == (images.shape, np.float32)
    assert np.isfinite(result).all()
    assert -1e-3 <= result.min() <= result.max() <= 255.001
    assert np.abs(result - images).max() > 5
    np.testing.assert_array_equal(views(images, bounds, seed=1), result)
    assert not np.array_equal(views(images, bounds, seed=2), result)
    np.testing.assert_array_equal(Augment(bounds)(images), images)


def test_further_operations_leave_the_draws_of_others_alone():
    """Views of the presets stay what they are when an operation is added to the program."""
    images = textures(20)
    light = views(images, Bounds(**PRESETS["light"]))
    more = views(images, Bounds(**PRESETS["light"], jpeg=100))
    assert np.abs(light - more).mean() < 1


def test_every_key_of_the_recipe_reaches_its_bound():
    assert bounds_of(AugmentSpec(preset="randaugment")) == Bounds("horizontal", randaugment=9.0)
    assert bounds_of(AugmentSpec(preset="trivialaugment")) == Bounds("horizontal", trivialaugment=True)
    values = {name: getattr(Bounds(), name) for name in OPERATIONS}
    for name, off in values.items():
        on = {"flip": "both", "jpeg": 50}.get(name, True if off is False else 0.3)
        assert bounds_of(AugmentSpec(preset="custom", **{name: on})) == Bounds(**{name: on})
