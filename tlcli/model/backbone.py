"""Backbones: a network without its top, its weights, and the preprocessing of its images."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlcli.errors import ModelError, WeightsError
from tlcli.model.graph import fresh_names, weightless
from tlcli.recipe.schema import RANDOM
from tlcli.zoo import published
from tlcli.zoo.card import ModelCard, Preprocessing, require_arguments, verified_weights
from tlcli.zoo.restored import Restored
from tlcli.zoo.sources import applications, keras_file, weights_file
from tlcli.zoo.sources.initial_values import plain_initial_values
from tlcli.zoo.sources.source import CHECKPOINTS, WITH_CLASSIFIER, checkpoint_module, classifier_module, module_of

# Names of preprocessing layers start with this.
PREPROCESS = "preprocess_"


@dataclass(frozen=True)
class Backbone:
    """A network without its top, and the origin of its weights.

    Attributes:
        card: The card of the network.
        network: From float32 (batch, height, width, 3 or 1), preprocessed as the card says, to features: 4-D, or 2-D
            if the network pools them itself.
        size: Input height and width, pixels.
        weights_origin: `imagenet (keras)`, `card (NAME)`, `file:NAME`, `random`, or the source of the card.
        weights_sha256: Hash of all weights in order; independent of the file format they were read from.
        restored: Which variables a checkpoint gave; None if the weights are from no checkpoint.
        published_hash: The hash that the publisher of fetched weights states, `md5:…` or `sha256:…`, or a sentence that
            none is stated; empty for weights that were not fetched.
    """

    card: ModelCard
    network: keras.Model
    size: tuple[int, int]
    weights_origin: str
    weights_sha256: str
    restored: Restored | None = None
    published_hash: str = ""

    @property
    def weights_record(self) -> dict[str, Any]:
        """Where the weights are from, as JSON values."""
        record: dict[str, Any] = {"weights": self.weights_origin, "weights_sha256": self.weights_sha256}
        record |= {"published_hash": self.published_hash} if self.published_hash else {}
        return record if self.restored is None else record | {"restored": self.restored.to_json()}


def build(
    card: ModelCard, *, size: tuple[int, int], arguments: dict[str, Any], weights: str | None, cut: str | None = None
) -> Backbone:
    """Build the network of a card and load its weights.

    Args:
        card: A card of any source.
        size: Input height and width, pixels.
        arguments: Architecture arguments of a `keras:` network.
        weights: A path, `random`, or None for the weights of the card: a file it names, the download of Keras, or
            those inside the model file.
        cut: Layer whose output becomes the output of the network, below the cut of the card; None keeps all layers.

    Raises:
        ModelError: The network cannot be built from this card, size and arguments.
        WeightsError: The weights are missing, damaged or belong to another network.
    """
    restored = None
    # Keras numbers unnamed layers as in a new process, so the names match those of the stored layer groups.
    with nullcontext() if card.kind == "file" else fresh_names(), _initial_values(card, weights):
        if weights is None:
            network, origin = _with_own_weights(card, size, arguments)
        else:
            network, origin = _with_given_weights(card, size, arguments, weights)
    if weights is None and card.kind in CHECKPOINTS:
        restored = checkpoint_module(card.kind).restored(card, network, arguments)
    for layer in (card.cut, cut):
        network = network if layer is None else keras_file.cut_at(network, layer)
    _compute_in_float32(network)
    file = published.remote_file(card, arguments=arguments, size=size) if weights is None else None
    stated = "" if file is None else file.hash or published.NOT_STATED
    if weights is None and card.kind == "kerashub":
        stated = published.NOT_STATED
    return Backbone(card, network, size, origin, weights_sha256(network), restored, stated)


def set_batch_norm_epsilon(network: keras.Model, epsilon: float) -> None:
    """Set the number that each BatchNorm layer adds to the variance, nested ones included.

    Raises:
        ModelError: The network has no BatchNorm.
    """
    norms = [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        hint = "Leave model.batch_norm_epsilon out."
        raise ModelError(f"{network.name} has no BatchNorm", where="model.batch_norm_epsilon", hint=hint)
    for norm in norms:
        norm.epsilon = epsilon


def check_weights(card: ModelCard, *, size: tuple[int, int], arguments: dict[str, Any], weights: Path) -> None:
    """Check that a weights file fits the network of a card, without its values or memory for them.

    Raises:
        ModelError: The network cannot be built from this card, size and arguments.
        WeightsError: The file is missing, damaged or belongs to another network.
    """
    with nullcontext() if card.kind == "file" else weightless():
        network, with_top = _blank(card, size, arguments)
        weights_file.check(network, weights, with_top=with_top)


def preprocess(tensor: Any, mode: Preprocessing, *, channels: int = 3) -> Any:
    """Preprocess an image tensor as the weights expect it, with built-in Keras layers.

    For networks with one input channel, RGB becomes grey first: 0.2989 R + 0.587 G + 0.114 B, in effect the luma of
    ITU-R BT.601 that Pillow's mode L has. The layers compute in float32 under any dtype policy, because pixel values
    lose bits in half precision.

    Args:
        tensor: Symbolic float (batch, height, width, 3), RGB, 0–255.
        mode: See `ModelCard.preprocessing`.
        channels: Input channels of the network, 3 or 1.

    Returns:
        float32 tensor of the same shape, with `channels` in place of 3.

    Raises:
        ModelError: The preprocessing is for colours, and the network has one channel.
    """
    if channels == 1:
        if mode in ("torch", "caffe"):
            hint = "Set model.preprocessing to none (0-255), unit (0 to 1) or tf (-1 to 1)."
            what = f"'{mode}' is for colours, and the network takes grey images"
            raise ModelError(what, where="model.preprocessing", hint=hint)
        tensor = keras.ops.image.rgb_to_grayscale(tensor, data_format="channels_last")
    if mode == "unit":
        return keras.layers.Rescaling(1 / 255, dtype="float32", name=f"{PREPROCESS}scale")(tensor)
    if mode == "tf":
        return keras.layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name=f"{PREPROCESS}scale")(tensor)
    if mode == "lite":
        return keras.layers.Rescaling(1 / 128, offset=-127 / 128, dtype="float32", name=f"{PREPROCESS}scale")(tensor)
    if mode == "torch":
        unit = keras.layers.Rescaling(1 / 255, dtype="float32", name=f"{PREPROCESS}scale")(tensor)
        return _normalization((0.485, 0.456, 0.406), (0.229**2, 0.224**2, 0.225**2))(unit)
    if mode == "caffe":
        return _normalization((103.939, 116.779, 123.68), (1.0, 1.0, 1.0))(keras.ops.flip(tensor, axis=-1))
    return tensor


def weights_sha256(network: keras.Model) -> str:
    """Hash of the shapes, dtypes and values of all weights in order, not of their names."""
    digest = hashlib.sha256()
    for weight in network.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _initial_values(card: ModelCard, weights: str | None) -> AbstractContextManager[None]:
    """A context for building a network: without random values if every one of them is replaced."""
    is_replaced = weights != RANDOM and card.kind not in CHECKPOINTS
    return plain_initial_values() if is_replaced else nullcontext()


def _with_own_weights(card: ModelCard, size: tuple[int, int], arguments: dict[str, Any]) -> tuple[keras.Model, str]:
    """The network with the weights of its card, and where they are from."""
    if card.kind == "file":
        path = Path(card.source.partition(":")[2])
        _require_no_arguments(arguments)
        return _at_size(keras_file.without_top(keras_file.load(path), card.cut), size), f"file:{path.name}"
    if card.kind != "keras":
        return module_of(card.kind).network(card, size=size, arguments=arguments, weights=True), card.source
    if card.weights is None:
        return applications.pretrained(card, size=size, arguments=arguments), "imagenet (keras)"
    network, with_top = _blank(card, size, arguments)
    require_arguments(card, arguments, defaults=applications.defaults(card))
    weights_file.load(network, verified_weights(card), with_top=with_top)
    return applications.as_published(card, network), f"card ({card.name})"


def _with_given_weights(
    card: ModelCard, size: tuple[int, int], arguments: dict[str, Any], weights: str
) -> tuple[keras.Model, str]:
    """The network with random weights or those of a file, and where they are from."""
    network, with_top = _blank(card, size, arguments)
    origin = RANDOM
    if weights != RANDOM:
        path = _weights_path(weights)
        weights_file.load(network, path, with_top=with_top)
        network, origin = applications.as_published(card, network), f"file:{path.name}"
    return _at_size(network, size), origin


def _blank(
    card: ModelCard, size: tuple[int, int], arguments: dict[str, Any]
) -> tuple[keras.Model, Callable[[], keras.Model]]:
    """The network of a card with random weights, and a function that builds it with its original top.

    That of a model file has the size of the file.
    """
    if card.kind == "file":
        _require_no_arguments(arguments)
        whole = keras_file.load(Path(card.source.partition(":")[2]))
        network = keras_file.resized(keras_file.without_top(whole, card.cut), None, copy_weights=False)
        return network, lambda: keras.models.clone_model(whole)
    if card.kind != "keras":
        network = module_of(card.kind).network(card, size=size, arguments=arguments, weights=False)
        if card.kind in WITH_CLASSIFIER:
            return network, lambda: classifier_module(card.kind).whole(card)
        return network, lambda: network
    # A top with a Flatten layer works only at the size it was trained at.
    options: dict[str, Any] = {"size": (card.size, card.size), "arguments": arguments, "include_top": True}
    return applications.architecture(card, size=size, arguments=arguments), lambda: applications.architecture(
        card, **options
    )


def _require_no_arguments(arguments: dict[str, Any]) -> None:
    if arguments:
        raise ModelError(
            f"a model file takes no arguments (got {arguments})", where="model.arguments", hint="Remove the key."
        )


def _at_size(network: keras.Model, size: tuple[int, int]) -> keras.Model:
    """The network, copied for images of another size if it has one of its own."""
    return network if tuple(network.inputs[0].shape[1:3]) == size else keras_file.resized(network, size)


def _compute_in_float32(network: keras.Model) -> None:
    """Let layers that a file saved in mixed precision compute in the dtype of their weights."""
    for layer in network._flatten_layers():
        if layer.dtype_policy.name.startswith("mixed_"):
            layer.dtype_policy = keras.DTypePolicy("float32")


def _weights_path(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        hint = "Give the path of a .h5 or .keras file, or: random"
        raise WeightsError(f"there is no file '{text}'", where="model.weights", hint=hint)
    return path


def _normalization(mean: tuple[float, ...], variance: tuple[float, ...]) -> Callable[[Any], Any]:
    layer: Callable[[Any], Any] = keras.layers.Normalization(
        mean=list(mean), variance=list(variance), dtype="float32", name=f"{PREPROCESS}normalize"
    )
    return layer
