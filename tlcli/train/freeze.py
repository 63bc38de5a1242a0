"""Freezing: exactly the selected layers are trainable. THE RULE for BatchNorm lives here and nowhere else.

The `batch_norm` policy of a phase applies to BatchNorm layers inside trained layers of the backbone:

- `frozen`: scale, offset and statistics stay as they are.
- `affine`: scale and offset are trained, statistics stay.
- `train`: scale and offset are trained, statistics follow the batches at the momentum of the phase, or else at that of
  the network, but at most `BATCH_NORM_MOMENTUM`.

BatchNorm in frozen layers never changes. BatchNorm in the head is new and is always trained completely.

Setting `trainable` is not enough to keep statistics: the backbone must also be called with `training=False`, see
`stage.Trainee`. `has_batch_statistics` decides that.
"""

import hashlib
from collections.abc import Iterable, Iterator, Set
from typing import Any

import keras
import numpy as np

from tlcli.model.classifier import Classifier
from tlcli.model.head import HEAD_PREFIX
from tlcli.recipe.fields import BatchNormPolicy

# Highest momentum of trained BatchNorm statistics. Some zoo networks have 0.999, which takes thousands of steps to
# adapt; fine-tuning has hundreds.
BATCH_NORM_MOMENTUM = 0.9


def set_trainable(
    classifier: Classifier, layers: Set[str], *, batch_norm: BatchNormPolicy, momentum: float | None = None
) -> list[Any]:
    """Make the named backbone layers and the head trainable, and freeze everything else.

    BatchNorm follows the rule of this module.

    Args:
        classifier: The classifier.
        layers: Names of the backbone layers.
        batch_norm: The policy of the phase.
        momentum: Momentum of trained statistics, 0-1; None for that of the network, at most `BATCH_NORM_MOMENTUM`.

    Returns:
        The trainable variables, as Keras reports them.

    Raises:
        RuntimeError: If the classifier lacks a layer or Keras reports other variables; an internal error.
    """
    head = {layer.name for layer in classifier.head_layers}
    unknown = set(layers) - {layer.name for layer in classifier.model.layers}
    if unknown:
        raise RuntimeError(f"layers to train that the classifier does not have: {sorted(unknown)[:5]}")
    classifier.model.trainable = True
    for layer in classifier.model.layers:
        is_trained = layer.name in layers or layer.name in head
        for part in layer._flatten_layers(include_self=True, recursive=True):
            # On TensorFlow, assigning the current value has no effect, not even on inner layers. So assign both.
            part.trainable = not is_trained
            part.trainable = is_trained
        if is_trained and layer.name not in head:
            apply_batch_norm_rule(layer, batch_norm, momentum)
    return verify(classifier, layers, batch_norm=batch_norm)


def apply_batch_norm_rule(
    layer: keras.layers.Layer, batch_norm: BatchNormPolicy, momentum: float | None = None
) -> None:
    """Apply the rule of this module to the BatchNorm layers inside a trained backbone layer."""
    for norm in batch_norms(layer):
        if batch_norm == "frozen":
            norm.trainable = False
        elif batch_norm == "train":
            # A resumed run starts with the momentum of the network, whatever earlier phases set.
            norm.own_momentum = getattr(norm, "own_momentum", norm.momentum)
            norm.momentum = min(norm.own_momentum, BATCH_NORM_MOMENTUM) if momentum is None else momentum


def has_batch_statistics(batch_norm: BatchNormPolicy) -> bool:
    """True if BatchNorm in trained backbone layers normalises by the batch and updates its statistics."""
    return batch_norm == "train"


def verify(classifier: Classifier, layers: Set[str], *, batch_norm: BatchNormPolicy) -> list[Any]:
    """Compare the trainable variables that Keras reports with the expected ones, one by one.

    Returns:
        The trainable variables, as Keras reports them.

    Raises:
        RuntimeError: On any difference.
    """
    expected = {id(variable) for variable in _expected_variables(classifier, layers, batch_norm)}
    reported = list(classifier.model.trainable_variables)
    reported_ids = {id(variable) for variable in reported}
    if expected != reported_ids:
        wrong = sorted(v.path for v in classifier.model.weights if (id(v) in expected) != (id(v) in reported_ids))
        raise RuntimeError(f"Keras reports another trainable set than expected; first differences: {wrong[:5]}")
    return reported


def frozen_variables(classifier: Classifier, moving: Iterable[Any]) -> list[Any]:
    """All weights and statistics of the model that are not in `moving`."""
    moving_ids = {id(variable) for variable in moving}
    return [variable for variable in classifier.model.weights if id(variable) not in moving_ids]


def moving_variables(classifier: Classifier, trainable: Iterable[Any], *, batch_norm: BatchNormPolicy) -> list[Any]:
    """All variables that a step may change: the trainable ones, and statistics of BatchNorm by the rule."""
    moving_ids = {id(variable) for variable in trainable}
    for layer in batch_norms(*classifier.model.layers):
        is_head = layer.name.startswith(HEAD_PREFIX)
        if layer.trainable and (is_head or has_batch_statistics(batch_norm)):
            moving_ids |= {id(variable) for variable in layer.non_trainable_variables}
    for layer in classifier.model.layers:
        # Opaque layers, such as SavedModels, say themselves whether they have statistics.
        if layer.trainable and has_batch_statistics(batch_norm) and getattr(layer, "has_statistics", False):
            moving_ids |= {id(variable) for variable in layer.non_trainable_variables}
    return [variable for variable in classifier.model.weights if id(variable) in moving_ids]


def fingerprint(variables: Iterable[Any]) -> str:
    """The SHA-256 of the bytes of all values, in order. Equal fingerprints mean bit-identical values."""
    digest = hashlib.sha256()
    for variable in variables:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable.value)).tobytes())
    return digest.hexdigest()


def batch_norms(*layers: keras.layers.Layer) -> Iterator[keras.layers.BatchNormalization]:
    """The BatchNorm layers among and inside the given layers."""
    for layer in layers:
        for inner in layer._flatten_layers(include_self=True, recursive=True):
            if isinstance(inner, keras.layers.BatchNormalization):
                yield inner


def _expected_variables(classifier: Classifier, layers: Set[str], batch_norm: BatchNormPolicy) -> Iterator[Any]:
    head = {layer.name for layer in classifier.head_layers}
    for layer in classifier.model.layers:
        if layer.name not in layers and layer.name not in head:
            continue
        frozen = set()
        if batch_norm == "frozen" and layer.name not in head:
            frozen = {id(variable) for norm in batch_norms(layer) for variable in norm.weights}
        # `_trainable_variables` are those that can be trained. Unlike `variable.trainable`, they do not depend on the
        # flags that are being verified.
        for part in layer._flatten_layers(include_self=True, recursive=True):
            yield from (variable for variable in part._trainable_variables if id(variable) not in frozen)
