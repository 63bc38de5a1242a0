"""The classifier: backbone and head in one Keras model. Assemble, cut, save and load."""

import itertools
import math
import zipfile
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import keras
from keras import ops

from tlcli.errors import ModelError
from tlcli.model import metadata
from tlcli.model.backbone import Backbone, preprocess
from tlcli.model.graph import call_layers, tensors_at
from tlcli.model.head import HEAD_PREFIX, POOLED, attach_head
from tlcli.paths import replacing
from tlcli.recipe.fields import Resize
from tlcli.recipe.schema import HeadSpec
from tlcli.zoo.sources import keras_file


@dataclass(frozen=True)
class Classifier:
    """A backbone and its head in one flat Keras model.

    Attributes:
        model: Maps float32 (batch, any height, any width, 3), RGB 0–255, to float32 (batch, classes), 0–1.
        classes: Class names in the order of the probabilities.
        size: Height and width to which the model resizes images, pixels.
        resize: How it resizes them: crop, pad or stretch.
        features: The lower part: from images of `size` to the features of the backbone. None if loaded from a file.
        head: The upper part: from the features of the backbone to probabilities. None if loaded from a file.
    """

    model: keras.Model
    classes: tuple[str, ...]
    size: tuple[int, int]
    resize: Resize
    features: keras.Model | None = field(default=None, repr=False)
    head: keras.Model | None = field(default=None, repr=False)

    @property
    def head_layers(self) -> list[keras.layers.Layer]:
        """The layers of the head, bottom to top."""
        return [layer for layer in self.model.layers if layer.name.startswith(HEAD_PREFIX)]


def assemble(backbone: Backbone, head: HeadSpec, *, classes: tuple[str, ...], resize: Resize) -> Classifier:
    """Put resizing, preprocessing, the backbone and a new head into one model.

    The layers of the backbone are shared, not copied, and applied one by one, so the classifier is flat: every layer
    stays visible.
    """
    image = keras.Input((None, None, 3), name="image")
    taken = {layer.name for layer in backbone.network.layers}
    resized = _resizing(backbone.size, resize, taken)(image, training=False)
    channels = backbone.network.inputs[0].shape[-1]
    x = preprocess(resized, backbone.card.preprocessing or "none", channels=channels)
    features = call_layers(backbone.network, x)
    top_input = keras.Input(features.shape[1:], dtype=features.dtype, name="backbone_features")
    top = keras.Model(top_input, attach_head(top_input, head, len(classes)), name="head")
    return Classifier(
        model=keras.Model(image, call_layers(top, features), name="classifier"),
        classes=classes,
        size=backbone.size,
        resize=resize,
        features=keras.Model(resized, features, name="features"),
        head=top,
    )


def _resizing(size: tuple[int, int], resize: Resize, taken: Set[str]) -> keras.layers.Layer:
    # A backbone taken from another classifier may already contain a layer of this name.
    name = "resize"
    while name in taken:
        name += "_outer"
    return keras.layers.Resizing(
        *size,
        interpolation="bilinear",
        antialias=True,
        crop_to_aspect_ratio=resize == "crop",
        pad_to_aspect_ratio=resize == "pad",
        dtype="float32",
        name=name,
    )


@dataclass(frozen=True)
class Cut:
    """The parts of a classifier, which share its layers. Each part reads the output of the part below.

    Attributes:
        lower: From images, float32 (batch, height, width, 3), 0–255, to the cut point; None without a cut point.
        upper: From the cut point to the features of the backbone; None if the cut point is at or above these.
        top: From the features of the backbone, or the pooled features, to probabilities, float32 (batch, classes).
    """

    lower: keras.Model | None
    upper: keras.Model | None
    top: keras.Model


def cut_at(classifier: Classifier, cut_point: str | None) -> Cut:
    """Cut a classifier into parts at a cut point; None for no cut.

    Args:
        classifier: An assembled classifier; one loaded from a file cannot be cut.
        cut_point: A backbone layer, two layers joined by a slash (`LayerGroup.cut_point`), or `POOLED`.

    Raises:
        ModelError: The backbone has no such layer.
    """
    features, head = _parts(classifier)
    if cut_point is None:
        return Cut(None, features, head)
    lower = lower_model(classifier, [cut_point])
    if cut_point == POOLED:
        return Cut(lower, None, keras.Model(tensors_at(head, [_pooling(head)])[0], head.output, name="head_above"))
    tensors = _tensors_at(features, cut_point)
    if tensors[0] is features.output:
        return Cut(lower, None, head)
    stored = lower.output
    upper_input = keras.Input(stored.shape[1:], dtype=stored.dtype, name="cut_point")
    # keras.Model would take every use of the layers of `tensors` for its input, keras.Function only these tensors.
    output = keras.Function(tensors, features.output).call(_unpack(upper_input, tensors))
    return Cut(lower, keras.Model(upper_input, output, name="upper"), head)


def lower_model(classifier: Classifier, cut_points: Sequence[str]) -> keras.Model:
    """A model from images to one or several cut points, in one pass.

    Args:
        classifier: An assembled classifier.
        cut_points: As for `cut_at`.

    Returns:
        A model that maps float32 (batch, height, width, 3), 0–255, of the classifier's size, to one tensor for one cut
        point and to a list of tensors for several. Two layers joined by a slash become one tensor (batch, values).
    """
    features, head = _parts(classifier)
    outputs = []
    for cut_point in cut_points:
        if cut_point == POOLED:
            pooling = keras.Model(head.input, tensors_at(head, [_pooling(head)])[0], name="pooling")
            outputs.append(pooling(features.output))
        else:
            outputs.append(_pack(_tensors_at(features, cut_point)))
    return keras.Model(features.input, outputs if len(outputs) > 1 else outputs[0], name="lower")


def _tensors_at(features: keras.Model, cut_point: str) -> list[keras.KerasTensor]:
    # Layer names contain no slash.
    return tensors_at(features, cut_point.split("/"))


def _pack(tensors: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
    if len(tensors) == 1:
        return tensors[0]
    return ops.concatenate([ops.reshape(tensor, (-1, _size(tensor))) for tensor in tensors], axis=1)


def _unpack(packed: keras.KerasTensor, tensors: Sequence[keras.KerasTensor]) -> list[keras.KerasTensor]:
    if len(tensors) == 1:
        return [packed]
    parts = ops.split(packed, list(itertools.accumulate(map(_size, tensors[:-1]))), axis=1)
    return [ops.reshape(part, (-1, *tensor.shape[1:])) for part, tensor in zip(parts, tensors, strict=True)]


def _size(tensor: keras.KerasTensor) -> int:
    return math.prod(tensor.shape[1:])


def _parts(classifier: Classifier) -> tuple[keras.Model, keras.Model]:
    if classifier.features is None or classifier.head is None:
        raise RuntimeError("a classifier loaded from a file cannot be cut")
    return classifier.features, classifier.head


def _pooling(head: keras.Model) -> str:
    """Name of the last pooling layer."""
    return str([layer.name for layer in head.layers if layer.name.startswith(POOLED)][-1])


def save(
    classifier: Classifier,
    path: Path,
    origin: metadata.NetworkOrigin | None = None,
    training: metadata.TrainingFacts | None = None,
) -> None:
    """Write one `.keras` file that also holds class names, size, resize mode, origin and training; atomic.

    In the file every BatchNorm layer is frozen, so that it uses its stored statistics however the model is called, also
    within another model whose layers pass `training=True` on.
    """
    with replacing(path) as temporary:
        with _frozen_batch_norm(classifier.model):
            classifier.model.save(temporary)
        contents = metadata.ClassifierMetadata(
            classes=classifier.classes,
            size=classifier.size,
            resize=classifier.resize,
            origin=origin,
            training=training,
        )
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(metadata.MEMBER, contents.to_json())


@contextmanager
def _frozen_batch_norm(model: keras.Model) -> Iterator[None]:
    """A context in which no BatchNorm layer of the model is trainable."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    trained = [norm for norm in norms if norm.trainable]
    for norm in trained:
        norm.trainable = False
    try:
        yield
    finally:
        for norm in trained:
            norm.trainable = True


def load(path: Path) -> Classifier:
    """Read a classifier written by `save`.

    Raises:
        ModelError: The file is damaged, or tlcli did not write it.
    """
    contents = metadata.read_metadata(path)
    model = keras_file.load(path)
    outputs = getattr(model, "outputs", None) or [None]
    if len(outputs) > 1 or getattr(outputs[0], "shape", ()) != (None, len(contents.classes)):
        message = f"the model does not output one probability for each of its {len(contents.classes)} classes"
        raise ModelError(message, where=str(path), hint=metadata.RESTORE)
    return Classifier(model, contents.classes, contents.size, contents.resize)
