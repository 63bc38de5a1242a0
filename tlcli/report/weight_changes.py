"""Weight changes: which weights of two networks differ, and by how much."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlcli.errors import ModelError, WeightsError
from tlcli.model import backbone
from tlcli.model.head import HEAD_PREFIX
from tlcli.model.layer_groups import Layer
from tlcli.recipe.schema import RANDOM
from tlcli.report.target import Target, unrelated_error
from tlcli.zoo.sources import keras_file

# At most this many weights are listed in a message.
MAX_LISTED = 5
HEAD = "head"


@dataclass(frozen=True)
class Weight:
    """One weight of a network.

    Attributes:
        layer: Name of its layer.
        name: Its name in the layer.
        value: The array, of any shape and dtype.
        is_statistic: True if it is not trained by gradients, such as mean and variance of BatchNorm.
    """

    layer: str
    name: str
    value: np.ndarray
    is_statistic: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Layer and name, unique in the network."""
        return self.layer, self.name


@dataclass(frozen=True)
class Change:
    """The difference between a weight in two networks, A and B.

    Attributes:
        weight: The weight in A.
        is_identical: True if dtype and bytes are equal.
        squared_change: Sum of the squares of B - A.
        squared_norm: Sum of the squares of A.
    """

    weight: Weight
    is_identical: bool
    squared_change: float
    squared_norm: float


def compare_weights(
    a: Sequence[Weight], b: Sequence[Weight], group_of: Mapping[str, str], *, names: tuple[str, str], by_layer: bool
) -> dict[str, Any]:
    """The JSON shape of `tlcli inspect --diff A B --format json`, without the entries `a` and `b`.

    Args:
        a: Weights of network A.
        b: Weights of network B.
        group_of: The layer group of each layer. Layers without one are in the group `other`.
        names: Names of A and B for messages.
        by_layer: True to add a row per layer.

    Raises:
        ModelError: If A and B share no weight, or weights below the head differ in shape.
    """
    b_by_key = {weight.key: weight for weight in b}
    shared = [(weight, b_by_key[weight.key]) for weight in a if weight.key in b_by_key]
    reshaped = [pair for pair in shared if pair[0].value.shape != pair[1].value.shape]
    _require_same_shapes(shared, [pair for pair in reshaped if group_of.get(pair[0].layer) != HEAD], names)
    # Heads for different numbers of classes are different heads.
    excluded = {weight.key for weight, _ in reshaped}
    changes = [_change(*pair) for pair in shared if pair[0].key not in excluded]
    common = {change.weight.key for change in changes}
    by_group: dict[str, list[Change]] = {group: [] for group in (*group_of.values(), HEAD, "")}
    for change in changes:
        by_group[group_of.get(change.weight.layer, "")].append(change)
    result: dict[str, Any] = {
        **{key: value for key, value in _row({}, changes).items() if key != "most_changed_layer"},
        "groups": [_row({"name": group or "other"}, members) for group, members in by_group.items() if members],
        "only_a": _one_sided([weight for weight in a if weight.key not in common], group_of),
        "only_b": _one_sided([weight for weight in b if weight.key not in common], group_of),
    }
    if by_layer:
        result["layers"] = _layer_rows(changes, group_of)
    return result


def _layer_rows(changes: Sequence[Change], group_of: Mapping[str, str]) -> list[dict[str, Any]]:
    by_layer: dict[str, list[Change]] = {}
    for change in changes:
        by_layer.setdefault(change.weight.layer, []).append(change)
    return [
        _row({"group": group_of.get(layer, "") or "other", "name": layer}, members)
        for layer, members in by_layer.items()
    ]


def _require_same_shapes(
    shared: Sequence[tuple[Weight, Weight]], reshaped: Sequence[tuple[Weight, Weight]], names: tuple[str, str]
) -> None:
    if not shared:
        raise unrelated_error(names)
    if reshaped:
        listed = "; ".join(f"{a.layer}/{a.name} {_shape(a)} and {_shape(b)}" for a, b in reshaped[:MAX_LISTED])
        more = f" and {len(reshaped) - MAX_LISTED} more" if len(reshaped) > MAX_LISTED else ""
        raise ModelError(
            f"weights of {names[0]} and {names[1]} differ in shape: {listed}{more}",
            where="--diff",
            hint="Compare two networks of the same architecture and width (model.arguments).",
        )


def _change(a: Weight, b: Weight) -> Change:
    is_identical = a.value.dtype == b.value.dtype and a.value.tobytes() == b.value.tobytes()
    before = a.value.astype(np.float64)
    squared_change = 0.0 if is_identical else float(np.sum(np.square(b.value.astype(np.float64) - before)))
    return Change(a, is_identical, squared_change, float(np.sum(np.square(before))))


def _row(labels: dict[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    """Labels, then counts and relative changes of some weights."""
    statistics = [change for change in changes if change.weight.is_statistic]
    # Separate, because moving variances can be a hundred times larger than kernels and would hide their changes.
    trained = [change for change in changes if not change.weight.is_statistic] or statistics
    return {
        **labels,
        "weights": len(changes),
        "changed_weights": sum(not change.is_identical for change in changes),
        "identical": all(change.is_identical for change in changes),
        "statistics_identical": all(change.is_identical for change in statistics) if statistics else None,
        "parameters": sum(change.weight.value.size for change in changes),
        "relative_change": relative_change(trained),
        "relative_change_statistics": relative_change(statistics) if statistics else None,
        "most_changed_layer": _most_changed(changes),
    }


def relative_change(changes: Iterable[Change]) -> float | None:
    """||B - A|| / ||A|| (L2) of the weights that differ; None if A is all zeros or the result is not finite.

    Identical weights do not count: frozen BatchNorm scales would hide the change of a kernel.
    """
    differing = [change for change in changes if not change.is_identical]
    squared_change = math.fsum(change.squared_change for change in differing)
    squared_norm = math.fsum(change.squared_norm for change in differing)
    if squared_change == 0:
        return 0.0
    if squared_norm > 0 and math.isfinite(squared_change / squared_norm):
        return math.sqrt(squared_change / squared_norm)
    return None


def _most_changed(changes: Sequence[Change]) -> str | None:
    layers = {change.weight.layer for change in changes if not change.is_identical}
    by_layer = {
        layer: relative_change(change for change in changes if change.weight.layer == layer) or 0.0
        for layer in sorted(layers)
    }
    return max(by_layer, key=lambda layer: by_layer[layer], default=None)


def _one_sided(weights: Sequence[Weight], group_of: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per layer for the weights that only one of the networks has."""
    layers = dict.fromkeys(weight.layer for weight in weights)
    return [
        {
            "group": group_of.get(layer, "") or "other",
            "layer": layer,
            "parameters": sum(weight.value.size for weight in weights if weight.layer == layer),
        }
        for layer in layers
    ]


def _shape(weight: Weight) -> str:
    return "×".join(str(side) for side in weight.value.shape) or "a number"


def compare_networks(a: Target, b: Target, *, by_layer: bool) -> dict[str, Any]:
    """The JSON shape of `tlcli inspect --diff A B --format json`.

    Args:
        a: Network A.
        b: Network B.
        by_layer: True to add a row per layer.

    Raises:
        ModelError: If the networks cannot be compared.
        WeightsError: If the pretrained weights of a card are not available.
    """
    a_weights, b_weights = _weights(_load(a)), _weights(_load(b))
    group_of = _groups_by_layer(b) | _groups_by_layer(a)
    group_of |= {weight.layer: HEAD for weight in (*a_weights, *b_weights) if weight.layer.startswith(HEAD_PREFIX)}
    changes = compare_weights(a_weights, b_weights, group_of, names=(a.text, b.text), by_layer=by_layer)
    return {"a": _description(a), "b": _description(b), **changes}


def _description(target: Target) -> dict[str, Any]:
    return {"name": target.text, "kind": target.kind, "model": target.card.name}


def _load(target: Target) -> keras.Model:
    """The network of a target, with its weights."""
    if target.file is not None:
        return keras_file.load(target.file)
    weights = target.recipe.model.weights
    # The random weights at the start of a run are not stored. The card stands for its pretrained weights.
    weights = None if weights == RANDOM else weights
    try:
        built = backbone.build(target.card, size=target.size, arguments=target.arguments, weights=weights)
    except WeightsError as error:
        hint = "Name a file with its weights: --set model.weights=FILE"
        raise WeightsError(error.message, where=f"--diff {target.text}", hint=hint) from error
    return built.network


def _weights(model: keras.Model) -> list[Weight]:
    """All weights of a model, including those of nested layers."""
    layers = {id(layer): layer for layer in model._flatten_layers(include_self=True, recursive=True)}
    weighted = [layer for layer in layers.values() if layer._trainable_variables or layer._non_trainable_variables]
    names = Counter(layer.name for layer in weighted)
    weights = []
    for layer in weighted:
        # Two layers in nested models may have the same name. Their paths differ.
        name = layer.name if names[layer.name] == 1 else layer.path
        for variables, is_statistic in ((layer._trainable_variables, False), (layer._non_trainable_variables, True)):
            for variable in variables:
                value = keras.ops.convert_to_numpy(variable)
                weights.append(Weight(name, variable.name, value, is_statistic))
    return weights


def _groups_by_layer(target: Target) -> dict[str, str]:
    """The name of the group of each layer, including nested layers."""
    return {
        layer.name: group.name
        for group in target.groups
        for member in group.members or group.layers
        for layer in _with_parts(member)
    }


def _with_parts(layer: Layer) -> Iterator[Layer]:
    """The layer, then all layers inside it."""
    yield layer
    for part in layer.parts:
        yield from _with_parts(part)
