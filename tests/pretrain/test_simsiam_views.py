"""Views: random crops of an image, mirrors and colour changes within their bounds."""

import numpy as np

from tlcli.pretrain.simsiam import Views

SIDE, SIZE = 30, 20


class CropsOnly(Views):
    """Views without colour changes."""

    def _recoloured(self, images):
        return images

    def _shift_hue(self, images):
        return images

    def _drop_colour(self, images):
        return images


def coordinate_images(count: int) -> np.ndarray:
    """Images whose red and green channels hold the row and column of every pixel."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    return np.repeat(np.stack([rows, columns, 0 * rows], axis=-1)[None], count, axis=0)


def test_a_view_is_a_crop_of_the_image_mirrored_half_the_time():
    views = np.asarray(CropsOnly(SIZE)(coordinate_images(400)))
    assert views.shape == (400, SIZE, SIZE, 3)
    down, across = np.diff(views[..., 0], axis=1), np.diff(views[..., 1], axis=2)
    # Steps are even except at the edge, where the outermost half pixel repeats.
    inner = (slice(None), slice(1, -1), slice(1, -1))
    heights, widths = down[:, 9, 9] * SIZE, across[:, 9, 9] * SIZE
    np.testing.assert_allclose(down[inner], np.broadcast_to(down[:, 9:10, 9:10], down[inner].shape), atol=1e-3)
    np.testing.assert_allclose(across[inner], np.broadcast_to(across[:, 9:10, 9:10], across[inner].shape), atol=1e-3)
    assert (heights > 0).all()
    assert 150 < (widths < 0).sum() < 250
    areas = heights * np.abs(widths) / SIDE**2
    assert 0.19 < areas.min() < 0.25 < 0.9 < areas.max() <= 1.001
    assert np.abs(np.log(np.abs(widths) / heights)).max() <= np.log(4 / 3) + 0.01
    assert heights.max() <= SIDE + 1e-3


def test_crops_cover_the_image_and_stay_inside():
    matrices = np.asarray(Views(SIZE)._matrices(np.zeros((400, SIDE, SIDE, 3), np.float32)))
    corners = np.array([-0.5, SIZE - 0.5])
    for scale, offset in ((matrices[:, :1], matrices[:, 2:3]), (matrices[:, 4:5], matrices[:, 5:6])):
        ends = np.sort(scale * corners + offset, axis=1)
        assert ends.min() >= -0.5 - 1e-3
        assert ends.max() <= SIDE - 0.5 + 1e-3
        assert ends[:, 0].max() > SIDE / 3
        assert ends[:, 1].min() < SIDE * 2 / 3


def test_colours_change_within_bounds_and_one_in_five_is_grey():
    images = np.zeros((1000, 4, 4, 3), np.float32) + np.array([200.0, 100.0, 50.0], np.float32)
    views = np.asarray(Views(4)(images))
    assert views.dtype == np.float32
    assert views.min() >= 0
    assert views.max() <= 255
    grey = np.ptp(views, axis=-1).max(axis=(1, 2)) < 1e-2
    assert 150 < grey.sum() < 250
    levels = views.mean(axis=(1, 2, 3))
    assert levels.std() > 15
    coloured = views[~grey, 0, 0]
    assert (coloured.argmax(axis=-1) == 0).mean() > 0.9, "red mostly stays red"
    assert (coloured[:, 1] - coloured[:, 2]).std() > 10


def test_a_hue_shift_keeps_lightness_and_saturation():
    images = np.random.default_rng(0).uniform(80, 160, (50, 4, 4, 3)).astype(np.float32)
    shifted = np.asarray(Views(4)._shift_hue(images))
    np.testing.assert_allclose(shifted.mean(axis=-1), images.mean(axis=-1), atol=1e-3)
    np.testing.assert_allclose(shifted.std(axis=-1), images.std(axis=-1), atol=1e-3)
    assert np.abs(shifted - images).max() > 5


def test_views_of_one_image_differ_and_a_seed_repeats_them():
    images = 4 * coordinate_images(3) + 60
    views, same_seed = Views(SIZE, seed=1), Views(SIZE, seed=1)
    first = np.asarray(views(images))
    assert len({view.tobytes() for view in first}) == 3
    assert not np.array_equal(views(images), first)
    np.testing.assert_array_equal(same_seed(images), first)
    assert not np.array_equal(Views(SIZE, seed=2)(images), first)
