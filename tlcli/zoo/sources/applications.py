"""The networks of `keras.applications`, with random weights or with the ImageNet weights that Keras publishes."""

import inspect
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlcli.errors import ModelError, WeightsError, did_you_mean
from tlcli.zoo import download, published
from tlcli.zoo.card import ModelCard
from tlcli.zoo.download import RemoteFile
from tlcli.zoo.sources.weights_file import copy_weights, load

# Arguments that this program sets, or that have no effect on a network without top.
_NOT_OFFERED = {
    "include_top", "weights", "input_tensor", "input_shape", "pooling", "classes", "classifier_activation", "name",
    "include_preprocessing", "dropout", "dropout_rate",
}  # fmt: skip
_IMAGENET_VARIANCE = (0.229**2, 0.224**2, 0.225**2)


def architecture(
    card: ModelCard,
    *,
    size: tuple[int, int],
    arguments: dict[str, Any],
    include_top: bool = False,
    classes: int = 1000,
) -> keras.Model:
    """Build the card's network with random weights.

    Args:
        card: A card with source `keras:NAME`.
        size: Input height and width, pixels.
        arguments: Architecture arguments, such as `{"alpha": 0.35}`. They override those of the card.
        include_top: True to add the original classification top.
        classes: Number of outputs of that top.

    Raises:
        ModelError: An argument is unknown or invalid, or the images are too small.
    """
    build = _build_function(card)
    chosen = _merge_arguments(arguments, card, build)
    _require_size(card, size)
    try:
        return build(weights=None, input_shape=(*size, 3), include_top=include_top, classes=classes, **chosen)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"{card.name} cannot be built with {chosen} ({_first_line(error)})",
            where="model.arguments",
            hint=_arguments_hint(card, build),
        ) from error


def pretrained(card: ModelCard, *, size: tuple[int, int], arguments: dict[str, Any]) -> keras.Model:
    """Build the card's network without top, with ImageNet weights from this machine, the mirror or the server.

    Raises:
        ModelError: An argument is unknown, or the images are too small.
        WeightsError: No weights are published for these arguments, or they could not be fetched or read.
    """
    build = _build_function(card)
    chosen = _merge_arguments(arguments, card, build)
    _require_size(card, size)
    file = published.remote_file(card, arguments=arguments, size=size)
    if file is None:
        hint = "Use --weights FILE or --weights random."
        raise WeightsError(f"{card.name} has no published weights", where="model.weights", hint=hint)
    path = download.fetch(file)
    try:
        with warnings.catch_warnings():
            # For sizes without published weights, Keras uses those for 224 and warns.
            warnings.filterwarnings("ignore", message=".*Weights for input shape")
            network = build(weights=str(path), input_shape=(*size, 3), include_top=False, **chosen)
    except Exception:  # Keras and h5py raise many types for a damaged file, and for another format under this name.
        network = _by_content(card, path, size=size, arguments=arguments, file=file)
    return as_published(card, network)


def _by_content(
    card: ModelCard, path: Path, *, size: tuple[int, int], arguments: dict[str, Any], file: RemoteFile
) -> keras.Model:
    """The network with weights in another format than their name says, such as those of Keras 3.

    Raises:
        WeightsError: They are not weights of this network in any format.
    """
    network = architecture(card, size=size, arguments=arguments)

    def whole() -> keras.Model:
        return architecture(card, size=(card.size, card.size), arguments=arguments, include_top=True)

    try:
        load(network, path, with_top=whole)
    except WeightsError as error:
        place = os.environ.get("TLCLI_MIRROR", "").strip()
        also = f"; if it came from the mirror {place}, replace it there first" if place else ""
        raise WeightsError(
            f"is not the published file with {file.title}: {error.message}",
            where=str(path),
            hint=f"Delete it, and it is fetched again{also}. {download.ways_out(file)}",
        ) from error
    return network


def defaults(card: ModelCard) -> dict[str, Any]:
    """The architecture arguments of the card's network, with Keras's default values.

    Raises:
        ModelError: Keras has no such network.
    """
    return _offered(_build_function(card))


def as_published(card: ModelCard, network: keras.Model) -> keras.Model:
    """Add the scaling that an EfficientNet (B0-B7) with published ImageNet weights from a file needs.

    Keras builds these networks with another scaling after the normalisation, but only if it fetches the weights
    itself. Without it, the same weights get other colours. The variance in the normalisation identifies the weights.

    Args:
        card: Card of the network.
        network: Network without top, with loaded weights.

    Returns:
        The network as Keras builds it for a download. Other networks are returned as they are.
    """
    if not card.source.startswith("keras:EfficientNetB"):
        return network
    normalization = next(layer for layer in network.layers if isinstance(layer, keras.layers.Normalization))
    variance = keras.ops.convert_to_numpy(normalization.adapt_variance)
    if not np.allclose(variance, _IMAGENET_VARIANCE, rtol=1e-2):
        return network
    scale = [1.0 / math.sqrt(math.sqrt(value)) for value in _IMAGENET_VARIANCE]

    def call(layer: Any, *tensors: Any, **options: Any) -> Any:
        output = layer(*tensors, **options)
        if layer.name != normalization.name:
            return output
        return keras.layers.Rescaling(scale, name="published_scaling")(output)

    complete = keras.models.clone_model(network, call_function=call)
    copy_weights(network, complete)
    return complete


def _build_function(card: ModelCard) -> Callable[..., keras.Model]:
    if keras.config.image_data_format() != "channels_last":
        raise ModelError(
            "Keras is set to channels_first images",
            where="keras.json",
            hint='Set "image_data_format" to "channels_last" in the Keras configuration.',
        )
    kind, _, handle = card.source.partition(":")
    build = getattr(keras.applications, handle, None) if kind == "keras" else None
    if not callable(build):
        raise ModelError(f"keras.applications {keras.__version__} has no '{handle}'", where=card.name)
    return build


def _offered(build: Callable[..., keras.Model]) -> dict[str, Any]:
    """Arguments that a user may set, with their defaults."""
    parameters = inspect.signature(build).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in _NOT_OFFERED}


def _arguments_hint(card: ModelCard, build: Callable[..., keras.Model]) -> str:
    offered = [f"{name} (default {default})" for name, default in _offered(build).items()]
    return f"Arguments of {card.name}: {', '.join(offered) or 'none'}."


def _merge_arguments(arguments: dict[str, Any], card: ModelCard, build: Callable[..., keras.Model]) -> dict[str, Any]:
    """The card's arguments, overridden by the user's. Checks names and kinds of the user's arguments."""
    offered = _offered(build)
    for name, value in arguments.items():
        if name not in offered:
            hint = f"{did_you_mean(name, offered)} {_arguments_hint(card, build)}".strip()
            raise ModelError(f"{card.name} has no argument '{name}'", where=f"model.arguments.{name}", hint=hint)
        if not _is_like(value, offered[name]):
            raise ModelError(f"cannot be {value!r}", where=f"model.arguments.{name}", hint=_arguments_hint(card, build))
    return {**card.arguments, **arguments}


def _is_like(value: Any, default: Any) -> bool:
    """True if a value has the kind of the default. Numbers must also be above 0."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int):
        return isinstance(value, int) and value > 0
    if isinstance(default, float):
        return isinstance(value, (int, float)) and math.isfinite(value) and value > 0
    return True


def _require_size(card: ModelCard, size: tuple[int, int]) -> None:
    if min(size) < card.min_size:
        raise ModelError(
            f"{card.name} does not accept images of {size[0]}x{size[1]} pixels",
            where="data.size",
            hint=f"The smallest size is {card.min_size}x{card.min_size}, the default size {card.size}x{card.size}.",
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
