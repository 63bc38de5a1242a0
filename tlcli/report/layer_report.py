"""The layer report: one row per group and per layer, and what a selection would train."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tlcli.features import placement
from tlcli.model.groups import Layer, LayerGroup, LayerGroups
from tlcli.model.selection import Selection, select
from tlcli.recipe.fields import BatchNormPolicy
from tlcli.recipe.schema import AugmentSpec, Recipe
from tlcli.report.target import Target, network_facts
from tlcli.train import budget, plan


@dataclass(frozen=True)
class SelectionEffect:
    """A selection as it would take effect.

    Attributes:
        selection: The layers that were chosen.
        batch_norm: What BatchNorm of chosen layers does.
        recipe: What else decides about memory and storing: batch, cache, head.
    """

    groups: LayerGroups
    selection: Selection
    batch_norm: BatchNormPolicy
    recipe: Recipe

    def parameters(self, layers: Collection[Layer]) -> int:
        """Parameters of these layers that would change."""
        has_norms = self.batch_norm != "frozen"
        return sum(layer.trained_parameters(norms=has_norms) for layer in layers if layer.name in self.selection.layers)

    def state(self, group: LayerGroup) -> str:
        """`trained`, `partly` or `frozen`, by the parameters that would change."""
        changing = self.parameters(group.layers)
        if not changing:
            return "frozen"
        has_norms = self.batch_norm != "frozen"
        could = sum(layer.trained_parameters(norms=has_norms) for layer in group.layers)
        return "trained" if changing == could else "partly"

    def norm_mode(self, layers: Collection[Layer]) -> str | None:
        """What BatchNorm among these layers would do: a policy's name, `mixed`, or None where there is none."""
        modes = {self._mode(layer) for layer in layers if layer.batch_norms}
        return None if not modes else modes.pop() if len(modes) == 1 else "mixed"

    def _mode(self, layer: Layer) -> str:
        return self.batch_norm if layer.name in self.selection.layers else "frozen"

    @property
    def batch(self) -> int:
        """Images a step; where the recipe leaves that to their number, what it takes with many."""
        return 32 if self.recipe.performance.batch == "auto" else self.recipe.performance.batch

    @cached_property
    def head_parameters(self) -> int:
        """Of a head for one class."""
        return plan.head_parameters_of(self.recipe.head, self.groups, 1)

    def to_json(self) -> dict[str, Any]:
        """The `training` part of `tlcli inspect --format json`."""
        chosen = self._costs(self.selection.layers)
        return {
            "selection": self.selection.text,
            "batch_norm": self.batch_norm,
            "batch": self.batch,
            "head": self.selection.head,
            "head_parameters_per_class": self.head_parameters,
            **chosen,
            "depths": [self._depth(count) for count in range(len(self.groups) + 1)],
        }

    def _depth(self, count: int) -> dict[str, Any]:
        """The costs of training so many groups from the top."""
        groups = self.groups.groups[len(self.groups) - count :]
        layers = frozenset(layer.name for group in groups for layer in group.layers)
        return {
            "train": f"top:{count}" if count else "head",
            "from": groups[0].name if groups else "head",
            "is_selection": layers == self.selection.layers,
            **self._costs(layers),
        }

    def _costs(self, layers: frozenset[str]) -> dict[str, Any]:
        place = placement.placement_of(
            self._plain, self._plain.phases[0], layers, self.groups, placement.ImageCounts(1, 1)
        )
        below = self.groups.names.index(place.group.name) + 1 if place.group else 0
        frozen, above = (
            sum(group.flops for group in part) for part in (self.groups.groups[:below], self.groups.groups[below:])
        )
        # An epoch of training everything, from the pixels.
        whole = max(budget.epoch_flops(0, frozen + above, train=1, val=0, stored=False), 1)
        memory = budget.memory_bytes(
            self.groups, layers, batch=self.batch, stored=place.is_stored, batch_norm=self.batch_norm
        )
        return {
            "trained_parameters": plan.trained_parameters(self.groups, layers, batch_norm=self.batch_norm),
            "frontier": place.name,
            "stored_bytes": place.bytes,
            "memory_bytes": memory,
            "epoch_cached": budget.epoch_flops(frozen, above, train=1, val=0, stored=place.is_stored) / whole,
            "epoch_uncached": budget.epoch_flops(frozen, above, train=1, val=0, stored=False) / whole,
        }

    @cached_property
    def _plain(self) -> Recipe:
        """One rendering of each image: what is stored of it."""
        return self.recipe.model_copy(update={"augment": AugmentSpec(preset="none")})


def selection_effect(target: Target, selection: str, batch_norm: BatchNormPolicy | None) -> SelectionEffect:
    """A selection on what is looked at. `batch_norm`: None for what the network's card asks for.

    Raises:
        ModelError: If the selection matches nothing.
    """
    chosen = select(selection, target.groups, where="--train")
    return SelectionEffect(target.groups, chosen, batch_norm or target.card.fine_tuning.batch_norm, target.recipe)


def layer_report(target: Target, trained: SelectionEffect | None, *, by_layer: bool) -> dict[str, Any]:
    """The JSON shape of `tlcli inspect --format json`; docs/inspect.md is its description."""
    groups = target.groups
    found: dict[str, Any] = {
        "name": groups.name,
        "parameters": groups.parameters,
        "trainable_parameters": groups.trainable_parameters,
        "flops": sum(group.flops for group in groups),
        "activation_bytes_inside": sum(_activations(group) for group in groups),
        "batch_norm": sum(group.batch_norms for group in groups),
        "batch_norm_policy": trained.batch_norm if trained else target.card.fine_tuning.batch_norm,
        "input_size": list(groups.input_size),
        "about": network_facts(target),
        "groups": [_group(group, max(groups.parameters, 1), trained) for group in groups],
    }
    if trained is not None:
        found["training"] = trained.to_json()
    if by_layer:
        found["layers"] = [row for group in groups for row in _layers(group, trained)]
    return found


def _group(group: LayerGroup, total: int, trained: SelectionEffect | None) -> dict[str, Any]:
    inside = [layer for layer in group.members if layer.kind != "InputLayer"] or list(group.layers)
    row = plan.group_json(group) | {
        "share": group.parameters / total,
        "first_layer": inside[0].name,
        "last_layer": group.boundary,
        "layers_without_weights": sum(not layer.is_weighted for layer in inside),
        "activation_bytes_inside": _activations(group),
        **_sight(group.end),
    }
    if trained is not None:
        row |= {
            "state": trained.state(group),
            "trained_layers": sum(trained.parameters([layer]) > 0 for layer in group.layers),
            "trained_parameters": trained.parameters(group.layers),
            "batch_norm_mode": trained.norm_mode(group.layers),
        }
    return row


def _layers(group: LayerGroup, trained: SelectionEffect | None) -> Iterator[dict[str, Any]]:
    for layer in group.members or group.layers:
        is_chosen = trained is not None and layer.name in trained.selection.layers
        yield _layer(group, layer, "", trained, is_chosen=is_chosen)
        for part in _nested(layer):
            yield _layer(group, part[1], part[0], trained, is_chosen=is_chosen)


def _nested(layer: Layer) -> Iterator[tuple[str, Layer]]:
    """What is inside a layer, however deep, each with the name of what it is in."""
    for part in layer.parts:
        yield layer.name, part
        yield from _nested(part)


def _layer(
    group: LayerGroup, layer: Layer, inside: str, trained: SelectionEffect | None, *, is_chosen: bool
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "group": group.name,
        "name": layer.name,
        "inside": inside or None,
        "kind": layer.kind,
        "parameters": layer.parameters,
        "trainable_parameters": layer.trainable_parameters,
        "output_shape": list(layer.output_shape),
        "flops": layer.flops,
        "activation_bytes": layer.activation_bytes,
        "batch_norm": layer.batch_norms,
        "boundary": layer.name == group.boundary and not inside,
        **_sight(layer),
    }
    if trained is not None:
        changing = layer.trained_parameters(norms=trained.batch_norm != "frozen") if is_chosen else 0
        mode = (trained.batch_norm if is_chosen else "frozen") if layer.batch_norms else None
        row |= {"trained": changing > 0, "trained_parameters": changing, "batch_norm_mode": mode}
    return row


def _sight(layer: Layer | None) -> dict[str, Any]:
    """What a place of a layer's output sees, and how far the next is away."""
    stride, field = (None, None) if layer is None else (layer.stride, layer.receptive_field)
    return {
        "stride": None if stride is None else [_whole(side) for side in stride],
        "receptive_field": None if field is None else list(field),
        "sees_all": layer is not None and layer.sees_all,
    }


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value


def _activations(group: LayerGroup) -> int:
    """Bytes of all outputs of a group's layers for one image."""
    return sum(layer.activation_bytes for layer in group.members if layer.kind != "InputLayer")


def as_json(value: Any) -> str:
    """One JSON document; not-a-number is refused."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a row under a line of names; shapes as `7x7x320`, an open side as `?`, what is not known as nothing."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "x".join("?" if side is None else str(side) for side in value)
    return value
