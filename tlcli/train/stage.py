"""A stage: the network above a frontier, and what it is fed: stored outputs of the layers below, or pixels."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np

from tlcli.data.augment import Augment, Bounds
from tlcli.data.pixels import Images
from tlcli.features import extraction
from tlcli.features.extraction import FeatureCache, View
from tlcli.features.placement import Placement
from tlcli.model.classifier import POOLED, Classifier, Cut, cut_at
from tlcli.model.fold import folded
from tlcli.model.precision import FULL, computing_in

Progress = Callable[[int, int], None]


class Trainee(keras.Model):
    """The classifier as it is trained: what is fed to it, then frozen layers, layers that learn, and the head.

    A subclass, because `fit` hands `training=True` to every layer of a functional model, whatever its call said: only
    explicit calls can keep frozen layers, and BatchNorm on stored statistics, in inference mode while the head drops
    out.
    """

    def __init__(self, parts: Cut, augment: Augment | None, *, fed: tuple[tuple[int, ...], str]) -> None:
        """`fed`: shape without the batch, and dtype, of what it takes; `augment`: None where that is stored outputs."""
        super().__init__(name="trainee")
        self.fed = fed
        self.augment, self.upper, self.top = augment, parts.upper, parts.top
        # What is below stored outputs is no part of the model that learns from them.
        self.lower = parts.lower if augment is not None else None
        self.uses_batch_statistics = False
        # What training computes in; scores are always float32.
        self.precision = FULL
        # On a CPU, XLA ran these networks ten times slower than the plain graph (MobileNetV2 at 224, TensorFlow 2.21).
        self.jit: bool | str = "auto" if keras.backend.backend() != "tensorflow" else False
        self._inferring = folded(parts.upper) if parts.upper is not None else None

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Pixels `(batch, height, width, 3)`, 0-255, or stored outputs, to probabilities `float32 (batch, classes)`."""
        x: Any = inputs
        if self.augment is not None:
            x = self.augment(keras.ops.cast(x, "float32"), training=training)
        if self.lower is not None:
            x = self.lower(x, training=False)
        if self.upper is not None and self._inferring is not None:
            with computing_in(self.upper, self.precision if training else FULL):
                x = self.upper(x, training=True) if training and self.uses_batch_statistics else self._inferring(x)
        return self.top(x, training=training)


@dataclass
class Stage:
    """Where a step begins.

    Attributes:
        footing: What was decided.
        trainee: The model that is trained, on one batch of `fed` or `renderings` at a time.
        plain: Stored outputs of all images, float32 (images, …); None where pixels are fed.
        row: Row of the pixel cache to row of `plain`, int64.
        random: Stored outputs of random renderings of the training images, in their order.
    """

    footing: Placement
    trainee: Trainee
    plain: np.ndarray | None = None
    row: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    random: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A model of its own for scoring: compiling the trainee anew for every step would trace it anew, too.
        shape, dtype = self.trainee.fed
        self.scorer = keras.Sequential([keras.Input(shape, dtype=dtype), self.trainee])

    def fed(self, images: Images, chosen: Any = slice(None)) -> np.ndarray:
        """What the network is fed for plain images: `uint8` pixels or `float32` stored outputs, batch first."""
        rows = images.rows[chosen]
        return images.pixels[rows] if self.plain is None else self.plain[self.row[rows]]

    def rendered(self, images: Images, chosen: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """What the network is fed for training images, each in the rendering of its `turn`, int64 (chosen,).

        Pixels are rendered by the trainee itself.
        """
        found = self.fed(images, chosen)
        if self.random:
            which = turn % (1 + len(self.random))
            for number, view in enumerate(self.random, start=1):
                found[which == number] = view[chosen[which == number]]
        return found

    def outputs(self, model: keras.Model, images: Images, *, batch: int) -> np.ndarray:
        """What a model gives for plain images, `float32 (images, …)`, reading `batch` of them at a time."""
        found = []
        for at in range(0, len(images), batch):
            part = self.fed(images, slice(at, at + batch))
            # A shorter batch would be traced, or compiled, on its own.
            filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
            found.append(model.predict_on_batch(filled)[: len(part)])
        return np.concatenate(found)


@dataclass(frozen=True)
class ImageSource:
    """What all stages of a run stand on.

    Attributes:
        images: Every image that is trained on or scored.
        train: Those trained on.
        feature_cache: Where outputs are stored.
        bounds: Of random renderings.
        seed: Of random renderings.
        plain: How the plain rendering of `images` is computed.
    """

    images: Images
    train: Images
    feature_cache: FeatureCache
    bounds: Bounds
    seed: int
    plain: View = field(default_factory=View)

    @property
    def row(self) -> np.ndarray:
        """Row of the pixel cache to row of what is computed of `images`, int64."""
        row = np.zeros(int(self.images.rows.max()) + 1, np.int64)
        row[self.images.rows] = np.arange(len(self.images))
        return row


def open_stage(
    classifier: Classifier, footing: Placement, ground: ImageSource, *, ahead: list[str], progress: Progress
) -> Stage:
    """Build a stage and have what it is fed computed, or found.

    Args:
        classifier: Its layers below the frontier must be frozen from now on.
        footing: Where to begin.
        ground: The images.
        ahead: Frontiers of steps that may follow: stored in the same passes, since that costs next to nothing.
        progress: Told (images done, images) of every pass.
    """
    at = cut_point_of(footing)
    parts = cut_at(classifier, at)
    if not footing.is_stored:
        shape = (*classifier.size, 3)
        return Stage(footing, Trainee(parts, Augment(ground.bounds, seed=ground.seed), fed=(shape, "uint8")))

    def computed(images: Images, view: View) -> np.ndarray:
        return extraction.extract(
            classifier, images, ground.feature_cache, at=[str(at)], also=ahead, view=view, progress=progress
        )[0]

    plain = computed(ground.images, ground.plain)
    drawn = partial(View, bounds=ground.bounds, seed=ground.seed, precision=ground.plain.precision)
    random = [computed(ground.train, drawn(number)) for number in range(1, footing.views)]
    return Stage(footing, Trainee(parts, None, fed=(plain.shape[1:], "float32")), plain, ground.row, random)


def cut_point_of(footing: Placement) -> str | None:
    """Where the classifier is cut."""
    if footing.pooled:
        return POOLED
    return footing.group.cut if footing.group else None
