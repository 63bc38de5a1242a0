"""Measured rates of a cluster and of this machine: short passes over images of DATA, by the code that a run uses."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from tlcli.cluster import crew
from tlcli.cluster.connection import Cluster
from tlcli.data import pixels
from tlcli.data.pixels import Images
from tlcli.features.distributed import worker_devices
from tlcli.features.extraction import FeatureCache, FeatureExtractor
from tlcli.features.frozen import View
from tlcli.model.classifier import Classifier
from tlcli.model.head import POOLED
from tlcli.train import linear_probe
from tlcli.train.budget import DEFAULT_FLOPS_PER_SECOND
from tlcli.train.estimate import TRAINED_FLOPS_PER_SECOND
from tlcli.train.events import Advanced, Observer
from tlcli.train.preparation import Prepared

# A pass is measured for this long after its first images, or over so many images, which may repeat.
PASS_S, PASS_IMAGES = 8.0, 16_384
# Images of the measured decoding, and of the measured head.
SAMPLE, HEAD_IMAGES = 4096, 1024
# Bytes that are sent to a worker and back.
SENT_BYTES = 2**25


class _Enough(Exception):
    """Ends a pass that has been measured."""


class Watch:
    """Measures a pass by its progress. Raises `_Enough` after `PASS_S` seconds."""

    def __init__(self, observe: Observer, stage: str) -> None:
        self.observe, self.stage, self.began = observe, stage, time.perf_counter()
        self.points: list[tuple[float, int]] = []

    def __call__(self, done: int, total: int) -> None:
        """Receive the progress of the pass."""
        self.points.append((time.perf_counter() - self.began, done))
        self.observe(Advanced(self.stage, done, total))
        if self.points[-1][0] - self.points[0][0] > PASS_S:
            self.observe(Advanced(self.stage, total, total))
            raise _Enough

    @property
    def per_s(self) -> float:
        """Images a second after the first ones; all of them if they came at once."""
        (first_s, first), (last_s, last) = self.points[0], self.points[-1]
        return last / last_s if last == first else (last - first) / max(last_s - first_s, 1e-9)

    @property
    def start_s(self) -> float:
        """Seconds before the first images were begun."""
        first_s, first = self.points[0]
        return max(0.0, first_s - first / self.per_s)


@contextmanager
def _measured() -> Iterator[Path]:
    """A folder for the files of a measured pass."""
    with tempfile.TemporaryDirectory(prefix="tlcli-") as folder, suppress(_Enough):
        yield Path(folder)


def decoding(prepared: Prepared, observe: Observer) -> Watch:
    """Decode a sample of the images again."""
    plan, watch = prepared.plan, Watch(observe, "measuring decoding")
    with _measured() as folder:
        index = replace(prepared.index, images=prepared.index.images[:SAMPLE])
        pixels.open_cache(index, size=plan.size, mode=plan.recipe.data.resize, folder=folder, progress=watch)
    return watch


def frozen_layers(prepared: Prepared, classifier: Classifier, observe: Observer) -> tuple[Watch, float]:
    """Pass images through the frozen layers and solve the head on them.

    Returns:
        The watch of the pass, and the images a second for which the head was solved.
    """
    plan, watch = prepared.plan, Watch(observe, "measuring the frozen layers")
    examples = prepared.pixels.examples((*plan.splits.train, *plan.splits.val))
    repeated = np.resize(examples.rows, PASS_IMAGES)
    with _measured() as folder:
        cache = FeatureCache(folder, 2**40, prepared.pixels.contents)
        FeatureExtractor(classifier, Images(examples.pixels, repeated), View()).extract([POOLED], cache, progress=watch)
    chosen = np.random.default_rng(0).permutation(len(examples))[:HEAD_IMAGES]
    images = Images(examples.pixels, examples.rows[chosen])
    (x,) = FeatureExtractor(classifier, images, View()).extract([POOLED], None)
    features = linear_probe.Features(x, examples.labels[chosen])
    began = time.perf_counter()
    # Validated on the images it is trained on, it tries all penalties to the end, as it does with very many images.
    linear_probe.solve(features, features, classes=len(plan.classes), balanced=plan.recipe.data.is_balanced)
    seconds = time.perf_counter() - began
    # Only the training images count, of all that a run has.
    return watch, len(chosen) * len(prepared.index.images) / len(plan.splits.train) / seconds


def trained_flops_per_s(frozen_flops_per_s: float) -> float:
    """Multiply-adds a second of training, which is to the frozen layers as on the machine that was measured once."""
    return frozen_flops_per_s * TRAINED_FLOPS_PER_SECOND / DEFAULT_FLOPS_PER_SECOND


def workers(cluster: Cluster) -> int:
    """Number of workers that hold a network."""
    return crew.capacity(cluster, *worker_devices(cluster))


def bytes_per_s(cluster: Cluster) -> float:
    """Bytes a second that go from here to a worker and back."""
    array = np.zeros(SENT_BYTES, np.uint8)
    seconds: list[float] = []
    began = time.perf_counter()
    for _, _array in crew.run(cluster, crew.Job("sending", _echo), 1 + 2 * crew.PIECES_AHEAD, lambda number: (array,)):
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    # The first time has the start of the workers.
    return 2 * SENT_BYTES * len(seconds[1:]) / max(sum(seconds[1:]), 1e-9)


def _echo() -> Callable[[np.ndarray], np.ndarray]:
    """Prepares a worker that returns what it gets."""
    return lambda array: array
