"""A stage: the part of the classifier that a step trains, and its inputs: stored features or pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np

from tlcli.data.augment import Augment, Bounds
from tlcli.data.pixels import Images
from tlcli.features.extraction import FeatureCache, FeatureExtractor, Progress
from tlcli.features.frozen import View
from tlcli.features.placement import Placement
from tlcli.model.classifier import Classifier, Cut, cut_at
from tlcli.model.compiled import rounded_up
from tlcli.model.devices import on_devices
from tlcli.model.fold import fold_batch_norm
from tlcli.model.head import POOLED
from tlcli.model.hosts import gathered
from tlcli.model.precision import FULL, computing_in

# Rows of a table that are copied at once.
COPIED_ROWS = 256


class Trainee(keras.Model):
    """The classifier in training: augmentation and frozen layers unless features are stored, trained layers, the head.

    A subclass, because `fit` calls every layer of a functional model with `training=True`, even if the graph was built
    with `training=False`. Explicit calls keep frozen layers, and BatchNorm on stored statistics, in inference mode
    while dropout in the head is active.
    """

    def __init__(
        self,
        parts: Cut,
        augment: Augment | None,
        *,
        input_signature: tuple[tuple[int, ...], str],
        table: np.ndarray | None = None,
    ) -> None:
        """Create the model.

        Args:
            parts: The classifier, cut at the cut point of the stage.
            augment: The augmentation of pixels; None if the inputs are stored features.
            input_signature: Shape of one input, without the batch, and dtype.
            table: Inputs to keep on the device. The model then also takes their positions, int32 (batch,).
        """
        super().__init__(name="trainee")
        self.input_signature = input_signature
        self.table = None if table is None else keras.Variable(table, trainable=False, dtype=str(table.dtype))
        self.augment, self.upper, self.top = augment, parts.upper, parts.top
        # Layers below stored features are not part of the model that is trained on them.
        self.lower = parts.lower if augment is not None else None
        self.uses_batch_statistics = False
        # Precision of training; scores are always float32.
        self.precision = FULL
        # On a CPU, XLA ran these networks ten times slower than the plain graph (MobileNetV2 at 224, TensorFlow 2.21).
        self.jit: bool | str = "auto" if keras.backend.backend() != "tensorflow" else False
        self._folded_upper = fold_batch_norm(parts.upper) if parts.upper is not None else None

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Pixels `(batch, height, width, 3)`, 0-255, or features, to probabilities `float32 (batch, classes)`."""
        x: Any = inputs
        if self.table is not None and len(x.shape) == 1:
            x = keras.ops.take(self.table, x, axis=0)
        if self.augment is not None:
            x = self.augment(keras.ops.cast(x, "float32"), training=training)
        precision = self.precision if training else FULL
        if self.lower is not None:
            with computing_in(self.lower, precision):
                x = self.lower(x, training=False)
        if self.upper is not None and self._folded_upper is not None:
            with computing_in(self.upper, precision):
                x = self.upper(x, training=True) if training and self.uses_batch_statistics else self._folded_upper(x)
        probabilities = self.top(x, training=training)
        return probabilities if training else gathered(probabilities)


@dataclass
class Stage:
    """The model and the inputs of a step.

    Attributes:
        placement: The cut point, and what is stored there.
        trainee: The model that is trained. Its inputs come from `plain_inputs` or `training_inputs`.
        plain: Stored features of all images in the plain view, float32 (images, …); None if the inputs are pixels.
        row: Row of `plain` by row of the pixel cache, int64.
        augmented: Stored features of the training images, one array per augmented view.
        train_row: Position among the training images by row of the pixel cache, int64; the row of `augmented`.
        train_count: Number of training images.
    """

    placement: Placement
    trainee: Trainee
    plain: np.ndarray | None = None
    row: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    augmented: list[np.ndarray] = field(default_factory=list)
    train_row: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    train_count: int = 0

    def __post_init__(self) -> None:
        # A separate model for scoring: compiling the trainee for a step would trace its prediction again, too.
        shape, dtype = self.trainee.input_signature
        self.scorer = keras.Sequential([keras.Input(shape, dtype=dtype), self.trainee])

    def plain_inputs(self, images: Images, chosen: Any = slice(None)) -> np.ndarray:
        """Inputs for the chosen images in the plain view: `uint8` pixels or `float32` features, batch first."""
        rows = images.rows[chosen]
        return images.pixels[rows] if self.plain is None else self.plain[self.row[rows]]

    def training_inputs(self, images: Images, chosen: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Inputs for the chosen training images, each in the stored view of its `turn`, int64 (chosen,).

        Pixels are not augmented here; the trainee does that. If it has a table, these are positions in it, int32
        (chosen,).
        """
        view_of, rows = turn % (1 + len(self.augmented)), self.train_row[images.rows[chosen]]
        if self.trainee.table is not None:
            return (view_of * self.train_count + rows).astype(np.int32)
        inputs = self.plain_inputs(images, chosen)
        if self.augmented:
            for number, features in enumerate(self.augmented, start=1):
                inputs[view_of == number] = features[rows[view_of == number]]
        return inputs

    def outputs(self, model: keras.Model, images: Images, *, batch: int) -> np.ndarray:
        """Outputs of a model for all images in the plain view, `float32 (images, …)`, in batches of `batch`."""
        outputs = []
        for start in range(0, len(images), batch):
            part = self.plain_inputs(images, slice(start, start + batch))
            # A shorter batch would be traced, or compiled, separately.
            padded = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
            outputs.append(on_devices(model.predict_on_batch, padded)[: len(part)])
        return np.concatenate(outputs)


@dataclass(frozen=True)
class ImageSource:
    """The images, cache and views that all stages of a run share.

    Attributes:
        images: All images that are trained on or scored.
        train: The training images.
        feature_cache: Where features are stored.
        bounds: Bounds of the augmented views.
        seed: Seed of the augmented views.
        plain: The plain view of `images`.
    """

    images: Images
    train: Images
    feature_cache: FeatureCache
    bounds: Bounds
    seed: int
    plain: View = field(default_factory=View)

    @property
    def row(self) -> np.ndarray:
        """Row of the features of `images` by row of the pixel cache, int64."""
        return _row_of(self.images)


def open_stage(
    classifier: Classifier,
    placement: Placement,
    source: ImageSource,
    *,
    also: list[str],
    progress: Progress,
    table_bytes: int = 0,
) -> Stage:
    """Build a stage; its features are read from the cache or computed.

    Args:
        classifier: Its layers below the cut point must stay frozen from now on.
        placement: The cut point, and what is stored there.
        source: The images.
        also: Cut points of later steps, stored in the same passes at little cost.
        progress: Called during each pass.
        table_bytes: Bytes that the inputs of all training images may take on the device; if they are larger, each batch
            is sent to it.
    """
    cut_point, train_row, count = cut_point_of(placement), _row_of(source.train), len(source.train)
    parts = cut_at(classifier, cut_point)
    if cut_point is None or not placement.is_stored:
        pixels = _table([source.train.pixels], [source.train.rows], table_bytes)
        signature, augment = ((*classifier.size, 3), "uint8"), Augment(source.bounds, seed=source.seed)
        trainee = Trainee(parts, augment, input_signature=signature, table=pixels)
        return Stage(placement, trainee, train_row=train_row, train_count=count)

    def features_of(images: Images, view: View) -> np.ndarray:
        extractor = FeatureExtractor(classifier, images, view)
        return extractor.extract([cut_point], source.feature_cache, also=also, progress=progress)[0]

    plain = features_of(source.images, source.plain)
    view = partial(View, bounds=source.bounds, seed=source.seed, precision=source.plain.precision)
    augmented = [features_of(source.train, view(number)) for number in range(1, placement.views)]
    rows = [source.row[source.train.rows], *(np.arange(count) for _ in augmented)]
    table = _table([plain, *augmented], rows, table_bytes)
    trainee = Trainee(parts, None, input_signature=(plain.shape[1:], "float32"), table=table)
    return Stage(placement, trainee, plain, source.row, augmented, train_row, count)


def _table(arrays: Sequence[np.ndarray], rows: Sequence[np.ndarray], limit: int) -> np.ndarray | None:
    """Rows of several arrays, one array after the other, then zeros; None if they take more bytes than the limit."""
    if not limit or arrays[0][:1].nbytes * rounded_up(sum(map(len, rows))) > limit:
        return None
    table = np.zeros((rounded_up(sum(map(len, rows))), *arrays[0].shape[1:]), arrays[0].dtype)
    start = 0
    for array, chosen in zip(arrays, rows, strict=True):
        for position in range(0, len(chosen), COPIED_ROWS):
            part = chosen[position : position + COPIED_ROWS]
            table[start : start + len(part)] = array[part]
            start += len(part)
    return table


def _row_of(images: Images) -> np.ndarray:
    """Position among the images by row of the pixel cache, int64."""
    row = np.zeros(int(images.rows.max()) + 1, np.int64)
    row[images.rows] = np.arange(len(images))
    return row


def cut_point_of(placement: Placement) -> str | None:
    """The layer at which the classifier is cut; None if training starts at the pixels."""
    if placement.is_pooled:
        return POOLED
    return placement.group.cut_point if placement.group else None
