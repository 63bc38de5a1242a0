"""The classifier: backbone and head in one model; build, cut, save and load it."""

import itertools
import math
import zipfile
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
from keras import ops

from tlcli.errors import ModelError
from tlcli.model import metadata
from tlcli.model.backbone import Backbone, preprocess
from tlcli.model.graph import tensors_at
from tlcli.paths import replacing
from tlcli.recipe.fields import Resize
from tlcli.recipe.schema import HeadSpec, HiddenSpec
from tlcli.zoo.sources import keras_file

PREFIX = "head_"
OUTPUT = "head_probabilities"
# Layers that pool the features; the last of them gives what the rest of the head sees.
POOLED = "head_pool"


def pool(features: Any, kind: str) -> Any:
    """`(batch, height, width, channels)` to `(batch, channels)`, or twice the channels for `avg_max`."""
    pools = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}
    pooled = [pools[name](name=f"{POOLED}_{name}")(features) for name in kind.split("_")]
    return pooled[0] if len(pooled) == 1 else keras.layers.Concatenate(name=f"{POOLED}")(pooled)


def attach_head(features: Any, spec: HeadSpec, classes: int) -> Any:
    """Put a head on `(batch, height, width, channels)` features.

    Returns:
        The probabilities `float32 (batch, classes)`, 0-1; rows sum to 1.
    """
    x = pool(features, spec.pooling)
    for number, hidden in enumerate(spec.hidden, start=1):
        x = _hidden(x, hidden, spec, number)
    if spec.dropout:
        x = keras.layers.Dropout(spec.dropout, name=f"{PREFIX}dropout")(x)
    # float32 whatever the policy: a softmax over half-precision logits loses the small probabilities.
    output = _dense(classes, spec, name=OUTPUT, initializer=spec.initializer, activation="softmax", dtype="float32")
    return output(x)


def _hidden(x: Any, hidden: HiddenSpec, spec: HeadSpec, number: int) -> Any:
    x = _dense(hidden.units, spec, name=f"{PREFIX}dense_{number}", initializer=hidden.initializer)(x)
    if hidden.batch_norm:
        # The zoo's 0.999 is too slow for the few hundred steps a head is trained.
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"{PREFIX}bn_{number}")(x)
    x = keras.layers.Activation(hidden.activation, name=f"{PREFIX}activation_{number}")(x)
    if hidden.dropout:
        x = keras.layers.Dropout(hidden.dropout, name=f"{PREFIX}dropout_{number}")(x)
    return x


def _dense(
    units: int,
    spec: HeadSpec,
    *,
    name: str,
    initializer: str,
    activation: str = "linear",
    dtype: str | None = None,
) -> keras.layers.Dense:
    penalty = keras.regularizers.L1L2(spec.l1, spec.l2) if spec.l1 or spec.l2 else None
    limit = keras.constraints.MaxNorm(spec.max_norm) if spec.max_norm else None
    return keras.layers.Dense(
        units,
        activation=activation,
        kernel_initializer=initializer,
        kernel_regularizer=penalty,
        kernel_constraint=limit,
        dtype=dtype,
        name=name,
    )


@dataclass(frozen=True)
class Classifier:
    """A backbone and its head as one flat Keras model.

    Attributes:
        model: `float32 (batch, any height, any width, 3)`, RGB 0-255, to `float32 (batch, classes)`, 0-1.
        classes: Class names in the order of the probabilities.
        size: Height and width the pictures are resized to, pixels.
        resize: How: crop, pad or stretch.
        features: The lower part alone: pictures of `size` to backbone features. None when loaded from a file.
        head: The upper part alone: backbone features to probabilities. None when loaded from a file.
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
        return [layer for layer in self.model.layers if layer.name.startswith(PREFIX)]


def assemble(backbone: Backbone, head: HeadSpec, *, classes: tuple[str, ...], resize: Resize) -> Classifier:
    """Resize, preprocessing, backbone and head in one model. Layers of the backbone are shared, not copied."""
    image = keras.Input((None, None, 3), name="image")
    taken = {layer.name for layer in backbone.network.layers}
    resized = _resizing(backbone.size, resize, taken)(image)
    x = preprocess(resized, backbone.card.preprocessing or "none")
    # Functional.call applies the inner layers one by one, so the classifier is flat: every layer stays visible.
    features = backbone.network.call(x)
    top_input = keras.Input(features.shape[1:], dtype=features.dtype, name="backbone_features")
    top = keras.Model(top_input, attach_head(top_input, head, len(classes)), name="head")
    return Classifier(
        model=keras.Model(image, top.call(features), name="classifier"),
        classes=classes,
        size=backbone.size,
        resize=resize,
        features=keras.Model(resized, features, name="features"),
        head=top,
    )


def save(classifier: Classifier, path: Path, *, origin: metadata.NetworkOrigin | None = None) -> None:
    """Write one `.keras` file with labels, size, resize and what is known of its origin inside, atomically."""
    with replacing(path) as temporary:
        classifier.model.save(temporary)
        said = metadata.ClassifierMetadata(
            classes=classifier.classes, size=classifier.size, resize=classifier.resize, origin=origin
        )
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(metadata.MEMBER, said.written())


def load(path: Path) -> Classifier:
    """Read a classifier written by `save`.

    Raises:
        ModelError: If the file is damaged or was not written by this program.
    """
    said = metadata.read_metadata(path)
    model = keras_file.load(path)
    outputs = getattr(model, "outputs", None) or [None]
    if len(outputs) > 1 or getattr(outputs[0], "shape", ()) != (None, len(said.classes)):
        message = f"does not answer with its {len(said.classes)} classes"
        raise ModelError(message, where=str(path), hint=metadata.RESTORE)
    return Classifier(model, said.classes, said.size, said.resize)


def _resizing(size: tuple[int, int], resize: Resize, taken: Set[str]) -> keras.layers.Layer:
    """The resize layer; a backbone cut out of another classifier has one of the same name already."""
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
    """A classifier in parts that share its layers. All take a batch of what the part below gives.

    Attributes:
        lower: Pixels, float32 (batch, height, width, 3), 0-255, to the frontier; None where nothing is below.
        upper: The frontier to the features of the backbone; None where the frontier is those, or above them.
        top: Features of the backbone, pooled or not, to probabilities float32 (batch, classes).
    """

    lower: keras.Model | None
    upper: keras.Model | None
    top: keras.Model


def cut_at(classifier: Classifier, at: str | None) -> Cut:
    """Cut at a frontier, or nowhere (None)."""
    features, head = _parts(classifier)
    if at is None:
        return Cut(None, features, head)
    lower = lower_model(classifier, [at])
    if at == POOLED:
        return Cut(lower, None, keras.Model(tensors_at(head, [_pooling(head)])[0], head.output, name="head_above"))
    tensors = _tensors(features, at)
    if tensors[0] is features.output:
        return Cut(lower, None, head)
    handed = lower.output
    above = keras.Input(handed.shape[1:], dtype=handed.dtype, name="frontier")
    # A model from the tensors themselves would take every use of the layers that give them for the input.
    output = keras.Function(tensors, features.output).call(_unpacked(above, tensors))
    return Cut(lower, keras.Model(above, output, name="upper"), head)


def lower_model(classifier: Classifier, at: Sequence[str]) -> keras.Model:
    """Pixels to one or several cut_points, in one pass.

    Takes float32 (batch, height, width, 3), 0-255, of the classifier's size; gives a tensor for one name, else a list.
    """
    features, head = _parts(classifier)
    outputs = []
    for name in at:
        if name == POOLED:
            pooling = keras.Model(head.input, tensors_at(head, [_pooling(head)])[0], name="pooling")
            outputs.append(pooling(features.output))
        else:
            outputs.append(_packed(_tensors(features, name)))
    return keras.Model(features.input, outputs if len(outputs) > 1 else outputs[0], name="lower")


def _tensors(features: keras.Model, at: str) -> list[keras.KerasTensor]:
    # No name of a layer holds a slash.
    return tensors_at(features, at.split("/"))


def _packed(tensors: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
    if len(tensors) == 1:
        return tensors[0]
    return ops.concatenate([ops.reshape(tensor, (-1, _size(tensor))) for tensor in tensors], axis=1)


def _unpacked(packed: keras.KerasTensor, tensors: Sequence[keras.KerasTensor]) -> list[keras.KerasTensor]:
    if len(tensors) == 1:
        return [packed]
    parts = ops.split(packed, list(itertools.accumulate(map(_size, tensors[:-1]))), axis=1)
    return [ops.reshape(part, (-1, *tensor.shape[1:])) for part, tensor in zip(parts, tensors, strict=True)]


def _size(tensor: keras.KerasTensor) -> int:
    return math.prod(tensor.shape[1:])


def _parts(classifier: Classifier) -> tuple[keras.Model, keras.Model]:
    if classifier.features is None or classifier.head is None:
        raise RuntimeError("a classifier loaded from a file is in one part")
    return classifier.features, classifier.head


def _pooling(head: keras.Model) -> str:
    """The layer that ends the pooling."""
    return str([layer.name for layer in head.layers if layer.name.startswith(POOLED)][-1])
