"""Mixing and sampling: labels follow the pixels, and classes occur equally often."""

import numpy as np
import pytest

from tlcli.data.mixing import mix
from tlcli.data.sampling import epoch_order
from tlcli.recipe.augment import AugmentSpec
from tlcli.recipe.schema import DataSpec


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eight images whose grey level is 30 times their class, with weights 1 to 8."""
    labels = np.arange(8)
    images = np.broadcast_to((30 * labels).astype(np.uint8)[:, None, None, None], (8, 20, 30, 3))
    return images, np.eye(8, dtype=np.float32), labels.astype(np.float32) + 1


def test_cutmix_labels_are_the_shares_of_the_pixels():
    shares = []
    for seed in range(30):
        images, labels, weights = mix(batch(), AugmentSpec(cutmix=1.0), np.random.default_rng(seed))
        assert (images.dtype, images.shape, labels.dtype) == (np.uint8, (8, 20, 30, 3), np.float32)
        for image, label, weight in zip(images, labels, weights, strict=True):
            # The loss is linear in the labels, so weight and label together say what each image counts.
            counts = np.bincount(image[..., 0].ravel() // 30, minlength=8) / 600
            np.testing.assert_allclose(weight * label, counts * np.arange(1, 9), atol=1e-5)
            assert label.sum() == pytest.approx(1)
        own = (images[0, ..., 0] == 0).mean()
        other = images[..., 0] != (30 * np.arange(8))[:, None, None]
        rows, columns = np.flatnonzero(other.any(axis=(0, 2))), np.flatnonzero(other.any(axis=(0, 1)))
        assert other[0].sum() in (0, (np.ptp(rows) + 1) * (np.ptp(columns) + 1) if len(rows) else 0), "a rectangle"
        shares.append(own)
    assert (min(shares) < 0.4, max(shares) > 0.8) == (True, True)


def test_a_batch_undergoes_mixup_or_cutmix_if_both_are_on():
    whole, both = batch()[0].tobytes(), AugmentSpec(mixup=1.0, cutmix=1.0)
    mixed = [mix(batch(), both, np.random.default_rng(seed))[0] for seed in range(9)]
    # Only mixup makes pixels that are no whole numbers.
    assert {bool((images % 1).any()) for images in mixed} == {True, False}
    assert {images.dtype.name for images in mixed} == {"float32"}, "an epoch has one type of pixels"
    assert mix(batch(), AugmentSpec(), np.random.default_rng(0))[0].tobytes() == whole


def test_balanced_sampling_draws_classes_equally_and_images_in_turn():
    labels = np.array([0] * 30 + [1] * 9 + [2] * 4)
    seen = set()
    for epoch in range(40):
        order = epoch_order(DataSpec(sampling="balanced"), labels, np.random.default_rng(epoch))
        assert len(order) == 43
        assert sorted(np.bincount(labels[order])) == [14, 14, 15]
        repeats = np.bincount(order, minlength=43)
        for name, most in ((0, 1), (1, 2), (2, 4)):
            assert repeats[labels == name].max() <= most
            assert np.ptp(repeats[labels == name]) <= 1
        seen.update(order)
    assert seen == set(range(43)), "images of large classes take turns"
    every = epoch_order(DataSpec(), labels, np.random.default_rng(0))
    np.testing.assert_array_equal(every, np.random.default_rng(0).permutation(43))


def test_a_class_without_training_images_is_not_drawn():
    order = epoch_order(DataSpec(sampling="balanced"), np.array([0, 0, 2]), np.random.default_rng(0))
    assert set(order) <= {0, 1, 2}
    assert len(order) == 3
