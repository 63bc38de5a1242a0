"""Drawn pictures: reproducible, of all families, of classes that can be told apart, hardly ever empty."""

import hashlib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tlcli.pretrain.synthetic.scene import SHARES, World

CLASSES = 120


@pytest.fixture(scope="module")
def world() -> World:
    return World(CLASSES)


def test_pictures_are_rgb_bytes_of_the_size_asked_for(world: World) -> None:
    for size in (32, 64, 96):
        pictures = world.draw(np.arange(CLASSES), seed=0, size=size)
        assert pictures.shape == (CLASSES, size, size, 3)
        assert pictures.dtype == np.uint8


def test_the_same_seed_draws_the_same_pictures_in_a_new_world(world: World) -> None:
    labels = np.arange(CLASSES)
    pictures = world.draw(labels, seed=7, size=64)
    assert np.array_equal(pictures, World(CLASSES).draw(labels, seed=7, size=64))
    assert not np.array_equal(pictures, world.draw(labels, seed=8, size=64))
    assert not np.array_equal(pictures, World(CLASSES, seed=1).draw(labels, seed=7, size=64))


def test_no_two_pictures_of_a_class_are_alike(world: World) -> None:
    for label in range(0, CLASSES, 7):
        pictures = world.draw(np.full(8, label), seed=3, size=64)
        assert len({hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures}) == 8


@pytest.mark.parametrize("classes", [6, 7, 25, 500])
def test_every_class_is_of_one_family_and_shares_are_kept(classes: int) -> None:
    world = World(classes)
    families = [world.family(label) for label in range(classes)]
    assert families == sorted(families, key=list(SHARES).index)
    for name, share in SHARES.items():
        assert abs(families.count(name) - share * classes) <= 1
    assert len(world.draw(np.arange(classes), seed=0, size=32)) == classes


def test_hardly_any_picture_is_empty(world: World) -> None:
    pictures = world.draw(np.arange(CLASSES).repeat(5), seed=1, size=64, hardness=0.0).astype(float)
    spread = pictures.reshape(len(pictures), -1, 3).std(axis=1).max(axis=1)
    assert np.mean(spread < 4) < 0.02


def test_hardness_stands_in_the_way(world: World) -> None:
    """The same things are further from their easy pictures the harder they are drawn."""
    labels = np.arange(CLASSES).repeat(3)
    easy = world.draw(labels, seed=5, size=32, hardness=0.0).astype(float)
    edges = [
        np.abs(np.diff(world.draw(labels, seed=5, size=32, hardness=hardness).astype(float), axis=2)).mean((1, 2, 3))
        for hardness in (0.0, 1.0)
    ]
    assert edges[0].std() > 0
    assert not np.allclose(edges[0], edges[1])
    hard = world.draw(labels, seed=5, size=32, hardness=1.0).astype(float)
    contrast = [pictures.reshape(len(labels), -1).std(axis=1).mean() for pictures in (easy, hard)]
    assert contrast[1] < contrast[0]


@pytest.mark.parametrize("family", SHARES)
def test_classes_of_a_family_can_be_told_apart_from_the_pixels(world: World, family: str) -> None:
    """A linear model on a few pixels does better than chance; it could not if labels and pictures were unrelated."""
    first = world.first[family]
    labels = np.repeat(np.arange(first, first + 6), 120)
    pictures = world.draw(labels, seed=11, size=32, hardness=0.2).astype(np.float32)
    grey = pictures.mean(axis=3).reshape(-1, 8, 4, 8, 4).mean((2, 4)).reshape(len(labels), -1)
    contrast = np.abs(grey - np.median(grey, axis=1, keepdims=True)) / 255
    features = np.hstack([contrast, pictures.mean((1, 2)) / 255, pictures.std((1, 2)) / 255])
    chance = np.random.default_rng(0).permutation(len(labels))
    train, test = chance[:480], chance[480:]
    model = LogisticRegression(C=10, max_iter=500).fit(features[train], labels[train])
    # 240 pictures by chance: 1/6, with a standard deviation of 0.024.
    assert model.score(features[test], labels[test]) > 1 / 6 + 4 * 0.024


def test_classes_of_their_own_colours_keep_them(world: World) -> None:
    own = world.draw(np.full(40, world.first["texture"]), seed=2, size=32, hardness=0.0).mean((1, 2)).std(axis=0).mean()
    any_colour = world.draw(np.full(40, world.first["fractal"]), seed=2, size=32, hardness=0.0).mean((1, 2)).std(axis=0)
    assert own < any_colour.mean()
