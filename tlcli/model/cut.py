"""Cut a classifier at a frontier: what lies below, computed once, and what lies above, trained on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras

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
    """Cut at the output of a layer of the backbone, at the pooled features (`POOLED`), or nowhere (None)."""
    features, head = _parts(classifier)
    if at is None:
        return Cut(None, features, head)
    lower = below(classifier, [at])
    if at == POOLED:
        return Cut(lower, None, keras.Model(tensors_at(head, [_pooling(head)])[0], head.output, name="head_above"))
    (frontier,) = tensors_at(features, [at])
    if frontier is features.output:
        return Cut(lower, None, head)
    # A model from the tensor itself would take every use of the layer that gives it for the input.
    above = keras.Input(frontier.shape[1:], dtype=frontier.dtype, name="frontier")
    return Cut(lower, keras.Model(above, keras.Function(frontier, features.output).call(above), name="upper"), head)


def below(classifier: Classifier, at: Sequence[str]) -> keras.Model:
    """Pixels to one or several frontiers, in one pass.

    Takes float32 (batch, height, width, 3), 0-255, of the classifier's size; gives a tensor for one name, else a list.
    """
    features, head = _parts(classifier)
    inner = iter(tensors_at(features, [name for name in at if name != POOLED]))
    outputs = []
    for name in at:
        if name == POOLED:
            pooling = keras.Model(head.input, tensors_at(head, [_pooling(head)])[0], name="pooling")
            outputs.append(pooling(features.output))
        else:
            outputs.append(next(inner))
    return keras.Model(features.input, outputs if len(outputs) > 1 else outputs[0], name="lower")


def _parts(classifier: Classifier) -> tuple[keras.Model, keras.Model]:
    if classifier.features is None or classifier.head is None:
        raise RuntimeError("a classifier loaded from a file is in one part")
    return classifier.features, classifier.head


def _pooling(head: keras.Model) -> str:
    """The layer that ends the pooling."""
    return str([layer.name for layer in head.layers if layer.name.startswith(POOLED)][-1])
