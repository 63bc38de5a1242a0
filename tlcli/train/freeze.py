"""Make exactly the chosen layers trainable. The BatchNorm rule lives here and only here."""

import hashlib
from collections.abc import Iterable, Iterator, Set
from typing import Any

import keras
import numpy as np

from tlcli.model.classifier import PREFIX, Classifier
from tlcli.recipe.fields import BatchNormPolicy

# Momentum of BatchNorm statistics that are trained.
TRAINED_MOMENTUM = 0.9


def apply(classifier: Classifier, layers: Set[str], *, batch_norm: BatchNormPolicy) -> list[Any]:
    """Make the named backbone layers and the head trainable and everything else frozen.

    BatchNorm inside trained layers follows `batch_norm`: `frozen` trains nothing of it, `affine` trains scale and
    offset while the statistics stay, `train` trains all of it. (Whether statistics move also hangs on how the
    backbone is called; see `Trainee`.) The head's own BatchNorm is new and always trained.

    Returns:
        The variables that are now trainable, as Keras reports them.

    Raises:
        RuntimeError: If Keras reports another set than was asked for; an internal error.
    """
    head = {layer.name for layer in classifier.head_layers}
    unknown = set(layers) - {layer.name for layer in classifier.model.layers}
    if unknown:
        raise RuntimeError(f"layers to train that the classifier does not have: {sorted(unknown)[:5]}")
    classifier.model.trainable = True
    for layer in classifier.model.layers:
        is_trained = layer.name in layers or layer.name in head
        for part in layer._flatten_layers(include_self=True, recursive=True):
            # On TensorFlow an assignment of the value already there does nothing, not even to the layers inside.
            part.trainable = not is_trained
            part.trainable = is_trained
        if is_trained and layer.name not in head:
            _settle_batch_norms(layer, batch_norm)
    return verify(classifier, layers, batch_norm=batch_norm)


def _settle_batch_norms(layer: keras.layers.Layer, batch_norm: BatchNormPolicy) -> None:
    for norm in batch_norms(layer):
        if batch_norm == "frozen":
            norm.trainable = False
        elif batch_norm == "train":
            # Some zoo networks say 0.999, which needs thousands of steps to follow; fine-tuning has hundreds.
            norm.momentum = min(norm.momentum, TRAINED_MOMENTUM)


def verify(classifier: Classifier, layers: Set[str], *, batch_norm: BatchNormPolicy) -> list[Any]:
    """Compare what Keras will train with what was asked for, variable by variable.

    Raises:
        RuntimeError: On any difference.
    """
    expected = {id(variable) for variable in _expected(classifier, layers, batch_norm)}
    reported = list(classifier.model.trainable_variables)
    if expected != {id(variable) for variable in reported}:
        odd = sorted(v.path for v in classifier.model.weights if (id(v) in expected) != any(v is r for r in reported))
        raise RuntimeError(f"Keras reports another trainable set than was asked for; first differing: {odd[:5]}")
    return reported


def frozen_variables(classifier: Classifier, moving: Iterable[Any]) -> list[Any]:
    """Every weight and statistic of the model that is not in `moving`."""
    moves = {id(variable) for variable in moving}
    return [variable for variable in classifier.model.weights if id(variable) not in moves]


def moving_variables(classifier: Classifier, trainable: Iterable[Any], *, statistics: bool) -> list[Any]:
    """All variables that a step may change: what is trained, and the statistics of trained BatchNorm layers."""
    moves = {id(variable) for variable in trainable}
    for layer in batch_norms(*classifier.model.layers):
        is_head = layer.name.startswith(PREFIX)
        if layer.trainable and (statistics or is_head):
            moves |= {id(variable) for variable in layer.non_trainable_variables}
    return [variable for variable in classifier.model.weights if id(variable) in moves]


def fingerprint(variables: Iterable[Any]) -> str:
    """Sha256 over the bytes of all values, in order: equal only if every bit is."""
    digest = hashlib.sha256()
    for variable in variables:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable.value)).tobytes())
    return digest.hexdigest()


def batch_norms(*layers: keras.layers.Layer) -> Iterator[keras.layers.BatchNormalization]:
    """The BatchNorm layers among and inside the given ones."""
    for layer in layers:
        for inner in layer._flatten_layers(include_self=True, recursive=True):
            if isinstance(inner, keras.layers.BatchNormalization):
                yield inner


def _expected(classifier: Classifier, layers: Set[str], batch_norm: BatchNormPolicy) -> Iterator[Any]:
    head = {layer.name for layer in classifier.head_layers}
    for layer in classifier.model.layers:
        if layer.name not in layers and layer.name not in head:
            continue
        left_out = set()
        if batch_norm == "frozen" and layer.name not in head:
            left_out = {id(variable) for norm in batch_norms(layer) for variable in norm.weights}
        # By nature, not by `variable.trainable`, which is what is being checked: statistics and the like are not there.
        for part in layer._flatten_layers(include_self=True, recursive=True):
            yield from (variable for variable in part._trainable_variables if id(variable) not in left_out)
