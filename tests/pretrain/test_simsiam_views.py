"""Views: a part of the picture, and the picture's own colours but for what is allowed to change."""

import numpy as np

from tlcli.pretrain.simsiam import Views

SIDE, SIZE = 30, 20


class Still(Views):
    """Only crops and mirrors: the colours are left alone."""

    def _recoloured(self, images):
        return images

    def _rehued(self, images):
        return images

    def _greyed(self, images):
        return images


def where_each_pixel_lies(count: int) -> np.ndarray:
    """Pictures that hold row and column of every pixel as colours."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    return np.repeat(np.stack([rows, columns, 0 * rows], axis=-1)[None], count, axis=0)


def test_a_view_is_a_box_of_the_picture_mirrored_half_the_time():
    found = np.asarray(Still(SIZE)(where_each_pixel_lies(400)))
    assert found.shape == (400, SIZE, SIZE, 3)
    down, across = np.diff(found[..., 0], axis=1), np.diff(found[..., 1], axis=2)
    # Steps are even but at the edge, where the outermost half pixel repeats.
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


def test_boxes_lie_everywhere_and_never_outside():
    matrices = np.asarray(Views(SIZE)._matrices(np.zeros((400, SIDE, SIDE, 3), np.float32)))
    corners = np.array([-0.5, SIZE - 0.5])
    for scale, offset in ((matrices[:, :1], matrices[:, 2:3]), (matrices[:, 4:5], matrices[:, 5:6])):
        ends = np.sort(scale * corners + offset, axis=1)
        assert ends.min() >= -0.5 - 1e-3
        assert ends.max() <= SIDE - 0.5 + 1e-3
        assert ends[:, 0].max() > SIDE / 3
        assert ends[:, 1].min() < SIDE * 2 / 3


def test_colours_change_within_bounds_and_one_in_five_is_grey():
    picture = np.zeros((1000, 4, 4, 3), np.float32) + np.array([200.0, 100.0, 50.0], np.float32)
    found = np.asarray(Views(4)(picture))
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 255
    grey = np.ptp(found, axis=-1).max(axis=(1, 2)) < 1e-2
    assert 150 < grey.sum() < 250
    levels = found.mean(axis=(1, 2, 3))
    assert levels.std() > 15
    turned = found[~grey, 0, 0]
    assert (turned.argmax(axis=-1) == 0).mean() > 0.9, "red stays red, by and large"
    assert (turned[:, 1] - turned[:, 2]).std() > 10


def test_a_hue_turn_keeps_the_lightness():
    picture = np.random.default_rng(0).uniform(80, 160, (50, 4, 4, 3)).astype(np.float32)
    found = np.asarray(Views(4)._rehued(picture))
    np.testing.assert_allclose(found.mean(axis=-1), picture.mean(axis=-1), atol=1e-3)
    np.testing.assert_allclose(found.std(axis=-1), picture.std(axis=-1), atol=1e-3)
    assert np.abs(found - picture).max() > 5


def test_views_of_one_picture_differ_and_a_seed_repeats_them():
    images = 4 * where_each_pixel_lies(3) + 60
    one, other = Views(SIZE, seed=1), Views(SIZE, seed=1)
    first = np.asarray(one(images))
    assert len({view.tobytes() for view in first}) == 3
    assert not np.array_equal(one(images), first)
    np.testing.assert_array_equal(other(images), first)
    assert not np.array_equal(Views(SIZE, seed=2)(images), first)
