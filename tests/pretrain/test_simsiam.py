"""SimSiam: it learns, repeats, goes on where it was stopped, and says when it collapses."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest

from tlcli.errors import OutputError, RunError
from tlcli.model.backbone import Backbone, weights_sha256
from tlcli.pretrain import simsiam
from tlcli.pretrain.card import Point
from tlcli.pretrain.checkpoint import PretrainCheckpoint
from tlcli.pretrain.images import ImageSet
from tlcli.pretrain.simsiam import HEALTHY, WIDTH, Course, NegativeCosine, course_for, spread
from tlcli.train.checkpoint import copy_values

COURSE = Course(epochs=2, batch=16)


def train(
    backbone: Backbone,
    pictures: ImageSet,
    course: Course,
    folder: Path,
    *,
    progress: Callable[[Point], None] = lambda point: None,
    key: str = "key",
    may_discard: bool = False,
) -> list[Point]:
    left = PretrainCheckpoint(folder / "mine.unfinished", key, may_discard)
    return simsiam.train_simsiam(
        backbone, pictures, course, progress=progress, advance=lambda done, total: None, unfinished=left
    )


def test_the_loss_falls_all_weights_move_and_the_outputs_stay_apart(
    tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path
) -> None:
    backbone = tiny_backbone()
    before = copy_values(backbone.network.weights)
    points = train(backbone, stripes, Course(epochs=40, batch=64), tmp_path)
    losses = [point.loss for point in points]
    assert len(points) == 40
    assert -1 <= np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.03 < 0
    assert all(HEALTHY / 2 < point.spread < 1.2 * HEALTHY for point in points)
    assert [point.images for point in points] == [64 * n for n in range(1, 41)]
    assert all(one.seconds < two.seconds for one, two in pairwise(points))
    for old, new, weight in zip(before, copy_values(backbone.network.weights), backbone.network.weights, strict=True):
        assert not np.array_equal(old, new), weight.path
    # The statistics are those of the end: at the momentum of the zoo, 0.999, they would be a twenty-fifth of the way.
    pixels = stripes.pixels[stripes.rows][:, 4:20, 4:20].astype(np.float32) / 127.5 - 1
    for name in ("stem", "top"):
        below = keras.Model(backbone.network.input, backbone.network.get_layer(f"{name}_conv").output)
        found = keras.ops.convert_to_numpy(backbone.network.get_layer(f"{name}_bn").moving_variance)
        ratio = found / np.var(np.asarray(below(pixels)), axis=(0, 1, 2))
        assert 0.3 < np.median(ratio) < 3


@pytest.mark.slow
def test_a_seed_repeats_and_another_does_not(tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((0, 0, 1)):
        backbone = tiny_backbone()
        points = train(backbone, stripes, replace(COURSE, seed=seed), tmp_path / str(number))
        found.append(([replace(point, seconds=0) for point in points], weights_sha256(backbone.network)))
    assert found[0] == found[1]
    assert found[0][1] != found[2][1]


@pytest.mark.slow
def test_interrupted_it_goes_on_to_the_same_end(tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path) -> None:
    course = replace(COURSE, epochs=3)
    whole = tiny_backbone()
    wanted = train(whole, stripes, course, tmp_path / "whole")

    def interrupt(point: Point) -> None:
        if point.images == 2 * 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_backbone(), stripes, course, tmp_path, progress=interrupt)
    # As a new process would: other random numbers have been drawn since, and the network begins anew.
    again, told = tiny_backbone(seed=9), []
    found = train(again, stripes, course, tmp_path, progress=told.append)
    assert [point.images for point in told] == [2 * 64, 3 * 64], "the interrupted epoch, and the one after"
    assert [replace(point, seconds=0) for point in found] == [replace(point, seconds=0) for point in wanted]
    assert weights_sha256(again.network) == weights_sha256(whole.network)


@pytest.mark.slow
def test_a_state_of_something_else_is_refused_or_dropped(
    tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path
) -> None:
    train(tiny_backbone(), stripes, COURSE, tmp_path, key="one")
    with pytest.raises(OutputError, match=r"mine\.unfinished.*other settings.*--overwrite"):
        train(tiny_backbone(), stripes, COURSE, tmp_path, key="two")
    told: list[Point] = []
    train(tiny_backbone(), stripes, COURSE, tmp_path, key="two", may_discard=True, progress=told.append)
    assert len(told) == 2
    left = PretrainCheckpoint(tmp_path / "mine.unfinished", "two")
    assert len(left.points()) == 2
    left.remove()
    assert list(tmp_path.iterdir()) == []
    left.remove()


def test_a_damaged_state_says_what_to_do(tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path) -> None:
    train(tiny_backbone(), stripes, COURSE, tmp_path)
    next(tmp_path.rglob("optimizer-*.npz")).write_bytes(b"")
    with pytest.raises(RunError, match="Delete that folder"):
        train(tiny_backbone(), stripes, COURSE, tmp_path)


def test_a_collapse_is_told_with_a_remedy(tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"collapsed in epoch 1: all pictures get the same output.*--batch-size"):
        train(tiny_backbone(constant=True), stripes, COURSE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_is_told(tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    backbone.network.get_layer("stem_conv").set_weights([np.full((3, 3, 3, 12), np.nan, np.float32)])
    with pytest.raises(RunError, match="the loss is nan in epoch 1"):
        train(backbone, stripes, COURSE, tmp_path)


def outputs(views: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(views, 4, WIDTH)).astype(np.float32)


def test_the_loss_is_the_cosine_across_views() -> None:
    made = outputs(3)
    made[0, 2:] = 7 * made[0, 1::-1]
    made[1, 2:] = -made[1, 1::-1]
    # Each prediction equal to its own view's projection is no merit.
    made[2, 2:] = made[2, :2]
    found = np.asarray(NegativeCosine(reduction=None)(np.zeros((3, 1, 1)), made))
    np.testing.assert_allclose(found[:2], [-1, 1], atol=1e-5)
    assert abs(found[2]) < 0.2


def test_projections_get_no_gradient_as_targets() -> None:
    """Of the loss alone, by finite differences: moving a target changes it, and yet no gradient says so."""
    import tensorflow as tf

    made = tf.Variable(outputs(2))
    with tf.GradientTape() as tape:
        loss = NegativeCosine()(np.zeros((2, 1, 1), np.float32), made)
    gradient = tape.gradient(loss, made).numpy()
    assert not gradient[:, :2].any()
    assert np.abs(gradient[:, 2:]).max() > 0


def test_the_spread_tells_apart_from_alike() -> None:
    apart = outputs(500)
    assert float(spread(None, apart)) == pytest.approx(HEALTHY, rel=0.02)
    alike = np.repeat(apart[:1, :1], 500, axis=0).repeat(4, axis=1)
    assert float(spread(None, alike)) < HEALTHY / 1000
    assert float(spread(None, 0 * apart)) == 0


@pytest.mark.parametrize(
    ("count", "size", "asked", "expected"),
    [
        (4000, 64, {}, Course(50, 128)),
        (100, 64, {}, Course(200, 100)),
        (10**6, 128, {}, Course(10, 64)),
        (5000, 224, {"epochs": 3}, Course(3, 32)),
        (5000, 224, {"batch": 256}, Course(40, 256)),
        (40, 32, {"batch": 256}, Course(200, 40)),
    ],
)
def test_the_course_follows_from_the_pictures(count: int, size: int, asked: dict, expected: Course) -> None:
    assert course_for(count, size, seed=0, **asked) == expected


def test_the_learning_rate_follows_the_batch() -> None:
    assert Course(1, 256).lr == 0.05
    assert Course(1, 64).lr == 0.0125
