"""Cut a classifier at a frontier: what lies below, computed once, and what lies above, trained on it.

A frontier is named by the layer of the backbone whose output it is, or by the two, `a/b`, where both are read above, as
between NASNet's cells. What is handed on there is one tensor in any case: two outputs are flattened, one after the
other. The pooled features are `POOLED`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
from keras import ops

from tlcli.model.classifier import Classifier
from tlcli.model.graph import tensors_at
from tlcli.model.head import POOLED


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


def cut(classifier: Classifier, at: str | None) -> Cut:
    """Cut at a frontier, or nowhere (None)."""
    features, head = _parts(classifier)
    if at is None:
        return Cut(None, features, head)
    lower = below(classifier, [at])
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


def below(classifier: Classifier, at: Sequence[str]) -> keras.Model:
    """Pixels to one or several frontiers, in one pass.

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
