"""The classifier as it is exported: whole images in, or images of the network's own size."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.errors import ModelError
from tlcli.model.classifier import Classifier
from tlcli.recipe.fields import Resize

# Part of the name of the resize in every exported graph. Its numbers must not be quantised.
NAME = "image_resize"


class ImageResize(keras.layers.Layer):
    """Casts and resizes images as `keras.layers.Resizing` with antialias does, with operations that all formats have.

    Bilinear scaling with antialias is linear along each axis: a matrix of triangles, one triangle per new row or
    column, as wide as the scale. TensorFlow has an operation of its own for it, which LiteRT and OpenVINO lack. Takes
    uint8 (batch, any height, any width, 3), 0-255; returns float32 (batch, height, width, 3).
    """

    def __init__(self, size: tuple[int, int], resize: Resize, name: str = NAME) -> None:
        super().__init__(name=name, dtype="float32", trainable=False)
        self.size, self.resize = size, resize

    def call(self, images: Any) -> Any:
        """Resize images."""
        images = ops.cast(images, "float32")
        shape = ops.shape(images)
        height, width = shape[1], shape[2]
        if self.resize == "crop":
            images, height, width = self._crop(images, height, width)
        elif self.resize == "pad":
            images, height, width = self._pad(images, height, width)
        rows = ops.matmul(_triangles(height, self.size[0]), ops.reshape(images, (-1, height, width * 3)))
        columns = ops.transpose(ops.reshape(rows, (-1, self.size[0], width, 3)), (0, 1, 3, 2))
        scaled = ops.matmul(columns, ops.transpose(_triangles(width, self.size[1])))
        return ops.transpose(scaled, (0, 1, 3, 2))

    def _crop(self, images: Any, height: Any, width: Any) -> tuple[Any, Any, Any]:
        new_height, new_width = self.size
        box_width = ops.maximum(ops.minimum(width, height * new_width // new_height), 1)
        box_height = ops.maximum(ops.minimum(height, width * new_height // new_width), 1)
        left, top = (width - box_width) // 2, (height - box_height) // 2
        return images[:, top : top + box_height, left : left + box_width, :], box_height, box_width

    def _pad(self, images: Any, height: Any, width: Any) -> tuple[Any, Any, Any]:
        new_height, new_width = self.size
        beside = ops.maximum(height * new_width // new_height - width, 0) // 2
        above = ops.maximum(width * new_height // new_width - height, 0) // 2
        padded = ops.pad(images, [[0, 0], [above, above], [beside, beside], [0, 0]])
        return padded, height + 2 * above, width + 2 * beside

    def compute_output_spec(self, images: Any) -> Any:
        """The symbolic output; tracing `call` would need sizes."""
        return keras.KerasTensor((images.shape[0], *self.size, 3), "float32")


def _triangles(old: Any, new: int) -> Any:
    """The matrix float32 (new, old) that scales an axis; its rows sum to 1."""
    scale = ops.cast(old, "float32") / new
    centres = (ops.arange(new, dtype="float32") + 0.5) * scale - 0.5
    positions = ops.cast(ops.arange(old), "float32")
    weights = ops.maximum(1 - ops.abs(positions[None, :] - centres[:, None]) / ops.maximum(scale, 1.0), 0.0)
    return weights / ops.sum(weights, axis=1, keepdims=True)


def exported_model(classifier: Classifier, *, is_raw: bool) -> keras.Model:
    """The model to export.

    Args:
        classifier: A classifier.
        is_raw: True for a model that takes float32 (batch, height, width, 3) of the classifier's size, 0-255; False for
            one that takes uint8 (batch, any height, any width, 3).

    Returns:
        A model that outputs probabilities, float32 (batch, classes), 0-1.

    Raises:
        ModelError: The classifier has no resize at its input.
    """
    resized = _resized(classifier.model)
    if is_raw:
        source = pixels = keras.Input((*classifier.size, 3), dtype="float32", name="image")
    else:
        source = keras.Input((None, None, 3), dtype="uint8", name="image")
        pixels = ImageResize(classifier.size, classifier.resize)(source)
    # keras.Model would take every use of the layer for its input, keras.Function only this one.
    output = keras.Function(resized, classifier.model.outputs[0]).call(pixels)
    model = keras.Model(source, output, name="classifier")
    # Keras exports only models that were called.
    model(np.zeros((1, *classifier.size, 3), source.dtype), training=False)
    return model


def _resized(model: keras.Model) -> Any:
    """The symbolic output of the resize at the input of a model."""
    (source,) = model.inputs
    for layer in model.layers:
        for node in layer._inbound_nodes:
            if isinstance(layer, keras.layers.Resizing) and any(tensor is source for tensor in node.input_tensors):
                return node.outputs[0]
    raise ModelError("the classifier has no resize at its input", hint="Train it again with this version of tlcli.")
