"""Backbones: a card turned into a network without its top, its weights, and what they expect of an image."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlcli.errors import ModelError, WeightsError
from tlcli.model.graph import fresh_names
from tlcli.recipe.schema import RANDOM
from tlcli.zoo.card import ModelCard, Preprocessing, require_arguments, verified_weights
from tlcli.zoo.sources import applications, keras_file, weights_file

# How the names of layers begin that prepare pixels for a network.
PREPROCESS = "preprocess_"


@dataclass(frozen=True)
class Backbone:
    """A network without top and where its weights come from.

    Attributes:
        card: The card it was built from.
        network: float32 (batch, height, width, 3), preprocessed as the card says → 4-D features.
        size: Input height and width, pixels.
        weights_origin: `imagenet (keras)`, `card (NAME)`, `file:NAME` or `random`.
        weights_sha256: Hash of all weights in order; the same for the same weights from any file format.
    """

    card: ModelCard
    network: keras.Model
    size: tuple[int, int]
    weights_origin: str
    weights_sha256: str


def build(
    card: ModelCard, *, size: tuple[int, int], arguments: dict[str, Any], weights: str | None, cut: str | None = None
) -> Backbone:
    """Build the network of a card and give it weights.

    Args:
        card: A card of `keras:` or `file:`.
        size: Input height and width, pixels.
        arguments: Architecture arguments of `keras:` networks.
        weights: None for the card's own (beside it, Keras's download, or what the file holds), a path, or `random`.
        cut: Layer whose output becomes that of the network; what lies above is dropped. None keeps all.

    Raises:
        ModelError: The network cannot be built so.
        WeightsError: The weights are missing, damaged, or made for another network.
    """
    kind, _, handle = card.source.partition(":")
    if kind == "keras":
        # Unnamed layers are numbered by Keras as in a new process, so that the names are those of the stored groups.
        with fresh_names():
            network, origin = _from_applications(card, size, arguments, weights)
    elif kind == "file":
        network, origin = _from_file(Path(handle), size, arguments, weights)
    else:
        raise ModelError(f"models from '{kind}:' are not taken", where=card.name, hint="Take a keras: or file: model.")
    if cut is not None:
        network = _cut(network, cut)
    return Backbone(card, network, size, origin, weights_sha256(network))


def preprocess(tensor: Any, mode: Preprocessing) -> Any:
    """Apply what the weights expect to an image tensor, in stock Keras layers.

    The layers compute in float32 also under a mixed precision policy, where pixel values would lose their last bits.

    Args:
        tensor: Symbolic float (batch, height, width, 3), RGB, 0–255.
        mode: See `ModelCard.preprocessing`.

    Returns:
        float32 tensor of the same shape.
    """
    if mode == "tf":
        return keras.layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name=f"{PREPROCESS}scale")(tensor)
    if mode == "torch":
        unit = keras.layers.Rescaling(1 / 255, dtype="float32", name=f"{PREPROCESS}scale")(tensor)
        return _normalization((0.485, 0.456, 0.406), (0.229**2, 0.224**2, 0.225**2))(unit)
    if mode == "caffe":
        return _normalization((103.939, 116.779, 123.68), (1.0, 1.0, 1.0))(keras.ops.flip(tensor, axis=-1))
    return tensor


def weights_sha256(network: keras.Model) -> str:
    """Hash over shape, dtype and content of all weights in order. Names do not count."""
    digest = hashlib.sha256()
    for weight in network.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _from_applications(
    card: ModelCard, size: tuple[int, int], arguments: dict[str, Any], weights: str | None
) -> tuple[keras.Model, str]:
    if weights is None and card.weights is None:
        return applications.pretrained(card, size=size, arguments=arguments), "imagenet (keras)"
    network = applications.architecture(card, size=size, arguments=arguments)
    if weights == RANDOM:
        return network, RANDOM

    def with_top() -> keras.Model:
        # Tops with a Flatten are bound to the size they were trained at.
        return applications.architecture(card, size=(card.size, card.size), arguments=arguments, include_top=True)

    if weights is None:
        require_arguments(card, arguments, defaults=applications.defaults(card))
        path, origin = verified_weights(card), f"card ({card.name})"
    else:
        path = _weights_path(weights)
        origin = f"file:{path.name}"
    weights_file.load(network, path, with_top=with_top)
    return applications.as_published(card, network), origin


def _from_file(
    model: Path, size: tuple[int, int], arguments: dict[str, Any], weights: str | None
) -> tuple[keras.Model, str]:
    if arguments:
        raise ModelError(f"a model file takes none (got {arguments})", where="model.arguments")
    whole = keras_file.load(model)
    network = keras_file.without_top(whole)
    if weights is not None:
        network = keras_file.resized(network, None, copy_weights=False)
    origin = f"file:{model.name}"
    if weights is not None and weights != RANDOM:
        path = _weights_path(weights)
        weights_file.load(network, path, with_top=lambda: keras.models.clone_model(whole))
        origin = f"file:{path.name}"
    if tuple(network.inputs[0].shape[1:3]) != size:
        network = keras_file.resized(network, size)
    return network, RANDOM if weights == RANDOM else origin


def _cut(network: keras.Model, layer: str) -> keras.Model:
    if layer not in {known.name for known in network.layers}:
        raise ModelError(f"has no layer '{layer}' to be cut at", where=network.name, hint="Layers: tlcli inspect")
    output = network.get_layer(layer).output
    return network if output is network.outputs[0] else keras.Model(network.inputs[0], output, name=network.name)


def _weights_path(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"there is no file '{text}'", where="model.weights", hint="Give a path of .h5 or .keras weights, or: random"
        )
    return path


def _normalization(mean: tuple[float, ...], variance: tuple[float, ...]) -> Callable[[Any], Any]:
    layer: Callable[[Any], Any] = keras.layers.Normalization(
        mean=list(mean), variance=list(variance), dtype="float32", name=f"{PREPROCESS}normalize"
    )
    return layer
