"""Training on synthetic images: it learns, is reproducible, and raises errors of the rendering thread."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tlcli.pretrain.card import Point
from tlcli.pretrain.checkpoint import PretrainCheckpoint
from tlcli.pretrain.synthetic import training
from tlcli.pretrain.synthetic.training import SyntheticConfig

TINY = SyntheticConfig(classes=6, images=1536, batch=64, points=3, val_images=180, lr=1e-2)


def _network() -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((32, 32, 3))
    x = image
    for number, width in enumerate((12, 24, 48)):
        x = keras.layers.Conv2D(width, 3, 2, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = keras.layers.BatchNormalization(momentum=0.999, name=f"norm{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    return keras.Model(image, x)


def _preprocess(pixels: Any) -> Any:
    return pixels / 127.5 - 1


def _train(
    folder: Path, config: SyntheticConfig = TINY, on_point: Callable[[Point], None] = lambda _: None
) -> tuple[keras.Model, list[Point]]:
    network, checkpoint = _network(), PretrainCheckpoint(folder / "tiny.unfinished", repr(config))
    points = training.train_synthetic(network, _preprocess, config, on_point=on_point, checkpoint=checkpoint)
    return network, points


def _stop(point: Point) -> None:
    if point.images == 512:
        raise KeyboardInterrupt


@pytest.mark.extras  # Takes long.
def test_training_learns_reports_every_point_and_resumes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "cut", on_point=_stop)
    reported: list[Point] = []
    resumed, same_points = _train(tmp_path / "cut", on_point=reported.append)
    assert reported == same_points[1:], "the first point is not trained again"
    network, points = _train(tmp_path)
    assert [point.loss for point in same_points] == pytest.approx([point.loss for point in points], rel=1e-3)
    for weight, same_weight in zip(network.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(weight, same_weight, atol=5e-3)
    assert [point.images for point in points] == [512, 1024, 1536]
    assert points[0].seconds < points[-1].seconds
    assert points[-1].loss < points[0].loss
    # Chance on 180 images of 6 classes is 0.17, with a standard deviation of 0.03.
    assert points[-1].accuracy is not None
    assert points[-1].accuracy > 0.17 + 4 * 0.03
    # In a short training the statistics only follow if the momentum of 0.999 was lowered.
    assert network.get_layer("norm2").momentum == pytest.approx(0.9)
    assert np.abs(np.asarray(network.get_layer("norm2").moving_mean)).max() > 0.05


@pytest.mark.slow
def test_the_same_seed_gives_the_same_training(tmp_path: Path) -> None:
    short = SyntheticConfig(classes=6, images=128, batch=64, points=1, val_images=36, lr=1e-2)
    (network, points), (same_network, same_points) = (_train(tmp_path / name, short) for name in "ab")
    assert points[0].loss == pytest.approx(same_points[0].loss, rel=1e-4)
    for weight, same_weight in zip(network.get_weights(), same_network.get_weights(), strict=True):
        assert np.allclose(weight, same_weight, atol=1e-3)
    _, other_points = _train(tmp_path / "c", replace(short, seed=1))
    assert other_points[0].loss != pytest.approx(points[0].loss, rel=1e-4)


def test_errors_of_the_rendering_thread_are_raised_by_the_consumer() -> None:
    def broken() -> Any:
        yield 1
        raise ZeroDivisionError("while rendering")

    items = training._prefetch(broken())
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError, match="while rendering"):
        next(items)


def test_closing_ends_the_rendering_thread() -> None:
    import threading

    before = threading.active_count()
    items = training._prefetch(iter(range(10**9)))
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert threading.active_count() == before
