"""The classifier: raw pictures in, probabilities out; what is trained, saved and handed over."""

import zipfile
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path

import keras

from tlcli.errors import ModelError
from tlcli.model import contract
from tlcli.model.backbone import Backbone, preprocess
from tlcli.model.head import PREFIX, attach
from tlcli.paths import replacing
from tlcli.recipe.schema import HeadSpec
from tlcli.recipe.spec import Resize
from tlcli.zoo.sources import keras_file


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
    top = keras.Model(top_input, attach(top_input, head, len(classes)), name="head")
    return Classifier(
        model=keras.Model(image, top.call(features), name="classifier"),
        classes=classes,
        size=backbone.size,
        resize=resize,
        features=keras.Model(resized, features, name="features"),
        head=top,
    )


def save(classifier: Classifier, path: Path, *, origin: contract.Origin | None = None) -> None:
    """Write one `.keras` file with labels, size, resize and what is known of its origin inside, atomically."""
    with replacing(path) as temporary:
        classifier.model.save(temporary)
        said = contract.Contract(
            classes=classifier.classes, size=classifier.size, resize=classifier.resize, origin=origin
        )
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(contract.MEMBER, said.written())


def load(path: Path) -> Classifier:
    """Read a classifier written by `save`.

    Raises:
        ModelError: If the file is damaged or was not written by this program.
    """
    said = contract.read(path)
    model = keras_file.load(path)
    outputs = getattr(model, "outputs", None) or [None]
    if len(outputs) > 1 or getattr(outputs[0], "shape", ()) != (None, len(said.classes)):
        message = f"does not answer with its {len(said.classes)} classes"
        raise ModelError(message, where=str(path), hint=contract.RESTORE)
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
