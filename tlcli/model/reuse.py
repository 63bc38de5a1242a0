"""The network inside a finished classifier, without resizing, preprocessing and head, to start other runs from."""

import re
from pathlib import Path
from typing import Any

import keras

from tlcli.errors import ModelError
from tlcli.model import classifier
from tlcli.model.backbone import PREPROCESS
from tlcli.model.graph import layer_calls
from tlcli.model.head import HEAD_PREFIX
from tlcli.zoo.card import GroupPattern
from tlcli.zoo.sources import keras_file

# Operations of `backbone.preprocess` that are not layers.
_OPERATIONS = ("Flip", "RGBToGrayscale")


def network_of(path: Path, size: tuple[int, int]) -> keras.Model:
    """The fine-tuned network of a classifier file, as the card of its origin describes it.

    Args:
        path: A classifier that `classifier.save` wrote.
        size: Input height and width of the classifier, pixels.

    Returns:
        From float32 (batch, height, width, channels), preprocessed as the card says, to features. Layers keep their
        names, so layer groups do too.

    Raises:
        ModelError: The file is no classifier, or its network cannot be separated.
    """
    model = classifier.load(path).model
    below = _first_tensor(model)
    head = next((call for call in layer_calls(model) if call.operation.name.startswith(HEAD_PREFIX)), None)
    if head is None:
        raise ModelError("has no head of tlcli", where=str(path), hint="Add the model file itself.")
    features = head.input_tensors[0]
    if features is below:
        raise ModelError("has no layers between preprocessing and head", where=str(path))
    inner = keras.Model(below, features, name="network")
    return keras_file.resized(inner, size)


def fitting(patterns: tuple[GroupPattern, ...], network: keras.Model) -> tuple[GroupPattern, ...]:
    """The patterns that match a layer of a network; those of layer groups that a run left out match none."""
    names = [layer.name for layer in network.layers]
    return tuple(pattern for pattern in patterns if any(re.fullmatch(pattern.pattern, name) for name in names))


def _first_tensor(model: keras.Model) -> Any:
    """The output of the last preparing layer above the input: what the network itself reads."""
    calls = layer_calls(model)
    position = next(number for number, call in enumerate(calls) if not _prepares(call.operation, is_first=number <= 1))
    return calls[position].input_tensors[0]


def _prepares(operation: Any, *, is_first: bool) -> bool:
    """True for the input, the resizing right above it, and what `backbone.preprocess` adds."""
    kind = type(operation).__name__
    if is_first:
        return kind in ("InputLayer", "Resizing")
    return str(operation.name).startswith(PREPROCESS) or kind in _OPERATIONS
