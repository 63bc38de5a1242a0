"""Which weights differ between two networks, and by how much."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlcli.errors import ModelError, WeightsError
from tlcli.model import backbone
from tlcli.model.classifier import PREFIX
from tlcli.model.groups import Layer
from tlcli.recipe.schema import RANDOM
from tlcli.report.target import Target, unrelated
from tlcli.zoo.sources import keras_file

SHOWN = 5
HEAD = "head"


@dataclass(frozen=True)
class Weight:
    """One weight of a network.

    Attributes:
        layer: The layer it is in.
        name: Its name there.
        value: Any shape and dtype.
        is_statistic: Whether training moves it by other means than gradients, as BatchNorm's mean and variance.
    """

    layer: str
    name: str
    value: np.ndarray
    is_statistic: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others of the network."""
        return self.layer, self.name


@dataclass(frozen=True)
class Change:
    """What became of a weight.

    Attributes:
        moved: Sum of squares of the difference.
        before: Sum of squares of what it was.
    """

    weight: Weight
    is_identical: bool
    moved: float
    before: float


def compare_weights(
    a: Sequence[Weight], b: Sequence[Weight], homes: Mapping[str, str], *, names: tuple[str, str], by_layer: bool
) -> dict[str, Any]:
    """The JSON shape of `tlcli inspect --diff A B --format json`, less what says what A and B are.

    Args:
        a: Weights of the one network.
        b: Weights of the other.
        homes: The layer group of each layer; layers in none are listed as such.
        names: What to call the two in messages.
        by_layer: Whether to tell of every layer.

    Raises:
        ModelError: They have nothing in common, or weights of one name but other shapes below the head.
    """
    theirs = {weight.key: weight for weight in b}
    shared = [(weight, theirs[weight.key]) for weight in a if weight.key in theirs]
    differing = [(one, other) for one, other in shared if one.value.shape != other.value.shape]
    _require_same_shapes(shared, [pair for pair in differing if homes.get(pair[0].layer) != HEAD], names)
    # Heads for other classes are two heads.
    apart = {one.key for one, _ in differing}
    changes = [_change(one, other) for one, other in shared if one.key not in apart]
    common = {change.weight.key for change in changes}
    groups = list(dict.fromkeys([*homes.values(), HEAD, ""]))
    homed = [(homes.get(change.weight.layer, ""), change) for change in changes]
    rows = [_row({"name": group or "other"}, [each for home, each in homed if home == group]) for group in groups]
    found: dict[str, Any] = {
        **{key: value for key, value in _row({}, changes).items() if key != "most_changed_layer"},
        "groups": [row for row in rows if row["weights"]],
        "only_a": _one_sided([weight for weight in a if weight.key not in common], homes),
        "only_b": _one_sided([weight for weight in b if weight.key not in common], homes),
    }
    if by_layer:
        found["layers"] = [
            _row(
                {"group": homes.get(layer, "") or "other", "name": layer},
                [c for c in changes if c.weight.layer == layer],
            )
            for layer in dict.fromkeys(change.weight.layer for change in changes)
        ]
    return found


def _require_same_shapes(
    shared: Sequence[tuple[Weight, Weight]], differing: Sequence[tuple[Weight, Weight]], names: tuple[str, str]
) -> None:
    if not shared:
        raise unrelated(names)
    if differing:
        listed = "; ".join(
            f"{one.layer}/{one.name} {_shape(one)} and {_shape(other)}" for one, other in differing[:SHOWN]
        )
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise ModelError(
            f"weights of {names[0]} and {names[1]} differ in shape: {listed}{more}",
            where="--diff",
            hint="They are of other architectures or widths (model.arguments) and cannot be subtracted.",
        )


def _change(one: Weight, other: Weight) -> Change:
    is_identical = one.value.dtype == other.value.dtype and one.value.tobytes() == other.value.tobytes()
    before = one.value.astype(np.float64)
    moved = 0.0 if is_identical else float(np.sum(np.square(other.value.astype(np.float64) - before)))
    return Change(one, is_identical, moved, float(np.sum(np.square(before))))


def _row(named: dict[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    statistics = [change for change in changes if change.weight.is_statistic]
    # Moving variances can be a hundred times larger than kernels, and would hide what those did.
    learnt = [change for change in changes if not change.weight.is_statistic] or statistics
    return {
        **named,
        "weights": len(changes),
        "changed_weights": sum(not change.is_identical for change in changes),
        "identical": all(change.is_identical for change in changes),
        "statistics_identical": all(change.is_identical for change in statistics) if statistics else None,
        "parameters": sum(change.weight.value.size for change in changes),
        "relative_change": relative(learnt),
        "relative_change_statistics": relative(statistics) if statistics else None,
        "most_changed_layer": _most_changed(changes),
    }


def relative(changes: Iterable[Change]) -> float | None:
    """||B - A|| / ||A|| (L2) of the weights that differ; None where A is all zeros or something is not a number.

    Frozen scales of BatchNorm beside a kernel would hide what training did to it.
    """
    changes = [change for change in changes if not change.is_identical]
    moved, before = (math.fsum(getattr(change, name) for change in changes) for name in ("moved", "before"))
    if moved == 0:
        return 0.0
    found = math.sqrt(moved / before) if before > 0 and math.isfinite(moved / before) else None
    return found


def _most_changed(changes: Sequence[Change]) -> str | None:
    layers = {change.weight.layer for change in changes if not change.is_identical}
    shares = {
        layer: relative(change for change in changes if change.weight.layer == layer) or 0.0 for layer in sorted(layers)
    }
    return max(shares, key=lambda layer: shares[layer], default=None)


def _one_sided(weights: Sequence[Weight], homes: Mapping[str, str]) -> list[dict[str, Any]]:
    layers = dict.fromkeys(weight.layer for weight in weights)
    return [
        {
            "group": homes.get(layer, "") or "other",
            "layer": layer,
            "parameters": sum(weight.value.size for weight in weights if weight.layer == layer),
        }
        for layer in layers
    ]


def _shape(weight: Weight) -> str:
    return "×".join(str(side) for side in weight.value.shape) or "a number"


def compare_networks(a: Target, b: Target, *, by_layer: bool) -> dict[str, Any]:
    """What changed from `a` to `b`; see `changes.compare`.

    Raises:
        ModelError: They cannot be compared.
        WeightsError: A card's weights are not to be had.
    """
    ours, theirs = _weights(_loaded(a)), _weights(_loaded(b))
    homes = _homes(b) | _homes(a)
    homes |= {weight.layer: HEAD for weight in (*ours, *theirs) if weight.layer.startswith(PREFIX)}
    found = compare_weights(ours, theirs, homes, names=(a.text, b.text), by_layer=by_layer)
    return {"a": _named(a), "b": _named(b), **found}


def _named(target: Target) -> dict[str, Any]:
    return {"name": target.text, "kind": target.kind, "model": target.card.name}


def _loaded(target: Target) -> keras.Model:
    if target.file is not None:
        return keras_file.load(target.file)
    weights = target.recipe.model.weights
    # Of a network that a run began at random there is nothing left; what is known by its name are the card's weights.
    weights = None if weights == RANDOM else weights
    try:
        built = backbone.build(target.card, size=target.size, arguments=target.arguments, weights=weights)
    except WeightsError as error:
        hint = "A file with its weights can be named: --set model.weights=FILE"
        raise WeightsError(error.message, where=f"--diff {target.text}", hint=hint) from error
    return built.network


def _weights(model: keras.Model) -> list[Weight]:
    layers = {id(layer): layer for layer in model._flatten_layers(include_self=True, recursive=True)}
    owners = [layer for layer in layers.values() if layer._trainable_variables or layer._non_trainable_variables]
    names = Counter(layer.name for layer in owners)
    found = []
    for layer in owners:
        # In nested models two layers may share a name; then the way to them tells them apart.
        name = layer.name if names[layer.name] == 1 else layer.path
        for variables, is_statistic in ((layer._trainable_variables, False), (layer._non_trainable_variables, True)):
            for variable in variables:
                value = keras.ops.convert_to_numpy(variable)
                found.append(Weight(name, variable.name, value, is_statistic))
    return found


def _homes(target: Target) -> dict[str, str]:
    """The group of each layer, those inside others too."""
    return {
        layer.name: group.name
        for group in target.groups
        for member in group.members or group.layers
        for layer in _with_parts(member)
    }


def _with_parts(layer: Layer) -> Iterator[Layer]:
    yield layer
    for part in layer.parts:
        yield from _with_parts(part)
