"""SimSiam: training learns, is reproducible, resumes after an interruption, and detects a collapse."""

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
from tlcli.pretrain.simsiam import HEALTHY, WIDTH, NegativeCosine, SimSiamConfig, choose_config, spread
from tlcli.train.checkpoint import copy_values

CONFIG = SimSiamConfig(epochs=2, batch=16)


def train(
    backbone: Backbone,
    images: ImageSet,
    config: SimSiamConfig,
    folder: Path,
    *,
    on_epoch: Callable[[Point], None] = lambda point: None,
    key: str = "key",
    may_discard: bool = False,
) -> list[Point]:
    checkpoint = PretrainCheckpoint(folder / "mine.unfinished", key, may_discard)
    return simsiam.train_simsiam(
        backbone, images, config, on_epoch=on_epoch, on_step=lambda done, total: None, checkpoint=checkpoint
    )


@pytest.mark.extras  # Takes long.
def test_the_loss_falls_all_weights_change_and_the_spread_stays_healthy(
    tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path
) -> None:
    backbone = tiny_backbone()
    before = copy_values(backbone.network.weights)
    points = train(backbone, stripes, SimSiamConfig(epochs=40, batch=64), tmp_path)
    losses = [point.loss for point in points]
    assert len(points) == 40
    assert -1 <= np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.03 < 0
    assert all(HEALTHY / 2 < point.spread < 1.2 * HEALTHY for point in points)
    assert [point.images for point in points] == [64 * n for n in range(1, 41)]
    assert all(one.seconds < two.seconds for one, two in pairwise(points))
    for old, new, weight in zip(before, copy_values(backbone.network.weights), backbone.network.weights, strict=True):
        assert not np.array_equal(old, new), weight.path
    # The statistics match the trained weights. With the momentum of the zoo, 0.999, they would have moved by 1/25 only.
    pixels = stripes.pixels[stripes.rows][:, 4:20, 4:20].astype(np.float32) / 127.5 - 1
    for name in ("stem", "top"):
        convolution = keras.Model(backbone.network.input, backbone.network.get_layer(f"{name}_conv").output)
        variance = keras.ops.convert_to_numpy(backbone.network.get_layer(f"{name}_bn").moving_variance)
        ratio = variance / np.var(np.asarray(convolution(pixels)), axis=(0, 1, 2))
        assert 0.3 < np.median(ratio) < 3


@pytest.mark.slow
def test_the_same_seed_repeats_and_another_seed_does_not(
    tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path
) -> None:
    results = []
    for number, seed in enumerate((0, 0, 1)):
        backbone = tiny_backbone()
        points = train(backbone, stripes, replace(CONFIG, seed=seed), tmp_path / str(number))
        results.append(([replace(point, seconds=0) for point in points], weights_sha256(backbone.network)))
    assert results[0] == results[1]
    assert results[0][1] != results[2][1]


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_weights(
    tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path
) -> None:
    config = replace(CONFIG, epochs=3)
    uninterrupted = tiny_backbone()
    expected = train(uninterrupted, stripes, config, tmp_path / "whole")

    def interrupt(point: Point) -> None:
        if point.images == 2 * 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_backbone(), stripes, config, tmp_path, on_epoch=interrupt)
    # As in a new process, the network and the state of the random generators are different.
    resumed, reported = tiny_backbone(seed=9), []
    points = train(resumed, stripes, config, tmp_path, on_epoch=reported.append)
    assert [point.images for point in reported] == [2 * 64, 3 * 64], "the interrupted epoch, and the one after"
    assert [replace(point, seconds=0) for point in points] == [replace(point, seconds=0) for point in expected]
    assert weights_sha256(resumed.network) == weights_sha256(uninterrupted.network)


@pytest.mark.slow
def test_a_checkpoint_of_another_training_is_refused_or_discarded(
    tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path
) -> None:
    train(tiny_backbone(), stripes, CONFIG, tmp_path, key="one")
    with pytest.raises(OutputError, match=r"mine\.unfinished.*other settings.*--overwrite"):
        train(tiny_backbone(), stripes, CONFIG, tmp_path, key="two")
    reported: list[Point] = []
    train(tiny_backbone(), stripes, CONFIG, tmp_path, key="two", may_discard=True, on_epoch=reported.append)
    assert len(reported) == 2
    checkpoint = PretrainCheckpoint(tmp_path / "mine.unfinished", "two")
    assert len(checkpoint.points()) == 2
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []
    checkpoint.remove()


def test_a_damaged_checkpoint_is_an_error_with_a_next_step(
    tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path
) -> None:
    train(tiny_backbone(), stripes, CONFIG, tmp_path)
    next(tmp_path.rglob("optimizer-*.npz")).write_bytes(b"")
    with pytest.raises(RunError, match="Delete that folder"):
        train(tiny_backbone(), stripes, CONFIG, tmp_path)


def test_a_collapse_is_an_error_with_a_remedy(tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"collapsed in epoch 1: all images get the same output.*--batch-size"):
        train(tiny_backbone(constant=True), stripes, CONFIG, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_is_an_error(tiny_backbone: Callable, stripes: ImageSet, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    backbone.network.get_layer("stem_conv").set_weights([np.full((3, 3, 3, 12), np.nan, np.float32)])
    with pytest.raises(RunError, match="the loss is nan in epoch 1"):
        train(backbone, stripes, CONFIG, tmp_path)


def outputs(views: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(views, 4, WIDTH)).astype(np.float32)


def test_the_loss_is_the_negative_cosine_across_views() -> None:
    predicted = outputs(3)
    predicted[0, 2:] = 7 * predicted[0, 1::-1]
    predicted[1, 2:] = -predicted[1, 1::-1]
    # A prediction of the view's own projection does not count.
    predicted[2, 2:] = predicted[2, :2]
    losses = np.asarray(NegativeCosine(reduction=None)(np.zeros((3, 1, 1)), predicted))
    np.testing.assert_allclose(losses[:2], [-1, 1], atol=1e-5)
    assert abs(losses[2]) < 0.2


def test_projections_get_no_gradient_as_targets() -> None:
    import tensorflow as tf

    variable = tf.Variable(outputs(2))
    with tf.GradientTape() as tape:
        loss = NegativeCosine()(np.zeros((2, 1, 1), np.float32), variable)
    gradient = tape.gradient(loss, variable).numpy()
    assert not gradient[:, :2].any()
    assert np.abs(gradient[:, 2:]).max() > 0


def test_the_spread_is_healthy_for_varied_outputs_and_zero_for_equal_ones() -> None:
    varied = outputs(500)
    assert float(spread(None, varied)) == pytest.approx(HEALTHY, rel=0.02)
    equal = np.repeat(varied[:1, :1], 500, axis=0).repeat(4, axis=1)
    assert float(spread(None, equal)) < HEALTHY / 1000
    assert float(spread(None, 0 * varied)) == 0


@pytest.mark.parametrize(
    ("count", "size", "options", "expected"),
    [
        (4000, 64, {}, SimSiamConfig(50, 128)),
        (100, 64, {}, SimSiamConfig(200, 100)),
        (10**6, 128, {}, SimSiamConfig(10, 64)),
        (5000, 224, {"epochs": 3}, SimSiamConfig(3, 32)),
        (5000, 224, {"batch": 256}, SimSiamConfig(40, 256)),
        (40, 32, {"batch": 256}, SimSiamConfig(200, 40)),
    ],
)
def test_the_config_depends_on_the_number_and_size_of_images(
    count: int, size: int, options: dict, expected: SimSiamConfig
) -> None:
    assert choose_config(count, size, seed=0, **options) == expected


def test_the_learning_rate_follows_the_batch() -> None:
    assert SimSiamConfig(1, 256).lr == 0.05
    assert SimSiamConfig(1, 64).lr == 0.0125
