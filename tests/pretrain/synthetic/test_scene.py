"""Synthetic images: reproducible, from all families, rarely empty, and with classes that can be learned."""

import hashlib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tlcli.pretrain.synthetic.scene import SHARES, SyntheticClasses

CLASSES = 120


@pytest.fixture(scope="module")
def classes() -> SyntheticClasses:
    return SyntheticClasses(CLASSES)


def test_images_are_rgb_bytes_of_the_requested_size(classes: SyntheticClasses) -> None:
    for size in (32, 64, 96):
        images = classes.render(np.arange(CLASSES), seed=0, size=size)
        assert images.shape == (CLASSES, size, size, 3)
        assert images.dtype == np.uint8


def test_the_same_seeds_give_the_same_images(classes: SyntheticClasses) -> None:
    labels = np.arange(CLASSES)
    images = classes.render(labels, seed=7, size=64)
    assert np.array_equal(images, SyntheticClasses(CLASSES).render(labels, seed=7, size=64))
    assert not np.array_equal(images, classes.render(labels, seed=8, size=64))
    assert not np.array_equal(images, SyntheticClasses(CLASSES, seed=1).render(labels, seed=7, size=64))


def test_images_of_a_class_differ(classes: SyntheticClasses) -> None:
    for label in range(0, CLASSES, 7):
        images = classes.render(np.full(8, label), seed=3, size=64)
        assert len({hashlib.sha256(image.tobytes()).hexdigest() for image in images}) == 8


@pytest.mark.parametrize("count", [6, 7, 25, 500])
def test_every_class_has_one_family_in_the_given_shares(count: int) -> None:
    classes = SyntheticClasses(count)
    families = [classes.family(label) for label in range(count)]
    assert families == sorted(families, key=list(SHARES).index)
    for name, share in SHARES.items():
        assert abs(families.count(name) - share * count) <= 1
    assert len(classes.render(np.arange(count), seed=0, size=32)) == count


def test_images_are_rarely_empty(classes: SyntheticClasses) -> None:
    images = classes.render(np.arange(CLASSES).repeat(5), seed=1, size=64, hardness=0.0).astype(float)
    spread = images.reshape(len(images), -1, 3).std(axis=1).max(axis=1)
    assert np.mean(spread < 4) < 0.02


def test_hardness_lowers_the_contrast(classes: SyntheticClasses) -> None:
    labels = np.arange(CLASSES).repeat(3)
    easy = classes.render(labels, seed=5, size=32, hardness=0.0).astype(float)
    edges = [
        np.abs(np.diff(classes.render(labels, seed=5, size=32, hardness=hardness).astype(float), axis=2)).mean(
            (1, 2, 3)
        )
        for hardness in (0.0, 1.0)
    ]
    assert edges[0].std() > 0
    assert not np.allclose(edges[0], edges[1])
    hard = classes.render(labels, seed=5, size=32, hardness=1.0).astype(float)
    contrast = [images.reshape(len(labels), -1).std(axis=1).mean() for images in (easy, hard)]
    assert contrast[1] < contrast[0]


@pytest.mark.parametrize("family", SHARES)
def test_classes_of_a_family_can_be_learned_from_the_pixels(classes: SyntheticClasses, family: str) -> None:
    """A linear model on a few pixels beats chance, which is impossible if labels and images are unrelated."""
    first = classes.first_labels[family]
    labels = np.repeat(np.arange(first, first + 6), 120)
    images = classes.render(labels, seed=11, size=32, hardness=0.2).astype(np.float32)
    grey = images.mean(axis=3).reshape(-1, 8, 4, 8, 4).mean((2, 4)).reshape(len(labels), -1)
    contrast = np.abs(grey - np.median(grey, axis=1, keepdims=True)) / 255
    features = np.hstack([contrast, images.mean((1, 2)) / 255, images.std((1, 2)) / 255])
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:480], order[480:]
    model = LogisticRegression(C=10, max_iter=500).fit(features[train], labels[train])
    # Chance on 240 test images is 1/6, with a standard deviation of 0.024.
    assert model.score(features[test], labels[test]) > 1 / 6 + 4 * 0.024


def test_classes_of_coloured_families_keep_their_colours(classes: SyntheticClasses) -> None:
    own = (
        classes.render(np.full(40, classes.first_labels["texture"]), seed=2, size=32, hardness=0.0)
        .mean((1, 2))
        .std(axis=0)
        .mean()
    )
    any_colour = (
        classes.render(np.full(40, classes.first_labels["fractal"]), seed=2, size=32, hardness=0.0)
        .mean((1, 2))
        .std(axis=0)
    )
    assert own < any_colour.mean()
