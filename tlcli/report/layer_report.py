"""The layer report: one row per layer group or layer, and what training a selection would change and cost."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tlcli.features import placement
from tlcli.model.layer_groups import Layer, LayerGroup, LayerGroups
from tlcli.model.selection import Selection, select
from tlcli.recipe.augment import AugmentSpec
from tlcli.recipe.fields import BatchNormPolicy
from tlcli.recipe.schema import Recipe
from tlcli.report.target import Target, network_facts
from tlcli.train import budget, plan


@dataclass(frozen=True)
class SelectionEffect:
    """The effect of training a selection of layers: what changes, and what it costs.

    Attributes:
        groups: The layer groups of the network.
        selection: The selected layers.
        batch_norm: BatchNorm policy of the selected layers.
        recipe: The recipe. Its batch, cache and head affect memory and stored features.
    """

    groups: LayerGroups
    selection: Selection
    batch_norm: BatchNormPolicy
    recipe: Recipe

    def parameters(self, layers: Collection[Layer]) -> int:
        """Number of parameters of these layers that training would change."""
        has_norms = self.batch_norm != "frozen"
        return sum(layer.trained_parameters(norms=has_norms) for layer in layers if layer.name in self.selection.layers)

    def state(self, group: LayerGroup) -> str:
        """`trained`, `partly` or `frozen`: how many parameters of the group training would change."""
        changed = self.parameters(group.layers)
        if not changed:
            return "frozen"
        has_norms = self.batch_norm != "frozen"
        trainable = sum(layer.trained_parameters(norms=has_norms) for layer in group.layers)
        return "trained" if changed == trainable else "partly"

    def norm_mode(self, layers: Collection[Layer]) -> str | None:
        """BatchNorm policy of these layers: a policy name, `mixed`, or None without BatchNorm."""
        modes = {self._mode(layer) for layer in layers if layer.batch_norms}
        return None if not modes else modes.pop() if len(modes) == 1 else "mixed"

    def _mode(self, layer: Layer) -> str:
        return self.batch_norm if layer.name in self.selection.layers else "frozen"

    @property
    def batch(self) -> int:
        """Images per batch. For `auto`, the batch size for large image folders."""
        return 32 if self.recipe.performance.batch == "auto" else self.recipe.performance.batch

    @cached_property
    def head_parameters(self) -> int:
        """Parameters of a head for one class."""
        return plan.head_parameters_of(self.recipe.head, self.groups, 1)

    def to_json(self) -> dict[str, Any]:
        """The value of `training` in `tlcli inspect --format json`."""
        return {
            "selection": self.selection.text,
            "batch_norm": self.batch_norm,
            "batch": self.batch,
            "head": self.selection.trains_head,
            "head_parameters_per_class": self.head_parameters,
            **self._costs(self.selection.layers),
            "depths": [self._depth(count) for count in range(len(self.groups) + 1)],
        }

    def _depth(self, count: int) -> dict[str, Any]:
        """The costs of training the top `count` groups."""
        groups = self.groups.groups[len(self.groups) - count :]
        layers = frozenset(layer.name for group in groups for layer in group.layers)
        return {
            "train": f"top:{count}" if count else "head",
            "from": groups[0].name if groups else "head",
            "is_selection": layers == self.selection.layers,
            **self._costs(layers),
        }

    def _costs(self, layers: frozenset[str]) -> dict[str, Any]:
        """Parameters, bytes and relative epoch times of training these layers."""
        recipe, groups = self._unaugmented, self.groups
        cut = placement.placement_of(recipe, recipe.phases[0].max_epochs, layers, groups, placement.ImageCounts(1, 1))
        below = groups.names.index(cut.group.name) + 1 if cut.group else 0
        frozen, above = (sum(group.flops for group in part) for part in (groups.groups[:below], groups.groups[below:]))
        # The unit is an epoch that trains everything from the pixels.
        full_epoch = max(budget.epoch_flops(0, frozen + above, train=1, val=0, stored=False), 1)
        memory = budget.memory_bytes(groups, layers, batch=self.batch, stored=cut.is_stored, batch_norm=self.batch_norm)
        return {
            "trained_parameters": plan.trained_parameters(groups, layers, batch_norm=self.batch_norm),
            "cut_point": cut.name,
            "stored_bytes": cut.bytes,
            "memory_bytes": memory,
            "epoch_cached": budget.epoch_flops(frozen, above, train=1, val=0, stored=cut.is_stored) / full_epoch,
            "epoch_uncached": budget.epoch_flops(frozen, above, train=1, val=0, stored=False) / full_epoch,
        }

    @cached_property
    def _unaugmented(self) -> Recipe:
        """The recipe with one view per image, so that stored features are counted once per image."""
        return self.recipe.model_copy(update={"augment": AugmentSpec(preset="none")})


def selection_effect(target: Target, selection: str, batch_norm: BatchNormPolicy | None) -> SelectionEffect:
    """The effect of a selection on a network.

    Args:
        target: The network.
        selection: The layers to train, as after `--train`.
        batch_norm: BatchNorm policy of the selected layers; None for the policy of the network's card.

    Raises:
        ModelError: If the selection matches nothing.
    """
    selected = select(selection, target.groups, where="--train")
    return SelectionEffect(target.groups, selected, batch_norm or target.card.fine_tuning.batch_norm, target.recipe)


def layer_report(target: Target, effect: SelectionEffect | None, *, by_layer: bool) -> dict[str, Any]:
    """The JSON shape of `tlcli inspect --format json`, which docs/inspect.md describes.

    Args:
        target: The network.
        effect: The effect of a selection, if there is one.
        by_layer: True to add a row per layer.
    """
    groups = target.groups
    report: dict[str, Any] = {
        "name": groups.name,
        "parameters": groups.parameters,
        "trainable_parameters": groups.trainable_parameters,
        "flops": sum(group.flops for group in groups),
        "activation_bytes_inside": sum(_activation_bytes(group) for group in groups),
        "batch_norm": sum(group.batch_norms for group in groups),
        "batch_norm_policy": effect.batch_norm if effect else target.card.fine_tuning.batch_norm,
        "input_size": list(groups.input_size),
        "about": network_facts(target),
        "groups": [_group_row(group, max(groups.parameters, 1), effect) for group in groups],
    }
    if effect is not None:
        report["training"] = effect.to_json()
    if by_layer:
        report["layers"] = [row for group in groups for row in _layer_rows(group, effect)]
    return report


def _group_row(group: LayerGroup, total: int, effect: SelectionEffect | None) -> dict[str, Any]:
    """The row of a group. `total`: parameters of the network."""
    layers = [layer for layer in group.members if layer.kind != "InputLayer"] or list(group.layers)
    row = plan.group_json(group) | {
        "share": group.parameters / total,
        "first_layer": layers[0].name,
        "last_layer": group.boundary,
        "layers_without_weights": sum(not layer.is_weighted for layer in layers),
        "activation_bytes_inside": _activation_bytes(group),
        **_receptive_field(group.end),
    }
    if effect is not None:
        row |= {
            "state": effect.state(group),
            "trained_layers": sum(effect.parameters([layer]) > 0 for layer in group.layers),
            "trained_parameters": effect.parameters(group.layers),
            "batch_norm_mode": effect.norm_mode(group.layers),
        }
    return row


def _layer_rows(group: LayerGroup, effect: SelectionEffect | None) -> Iterator[dict[str, Any]]:
    for layer in group.members or group.layers:
        is_selected = effect is not None and layer.name in effect.selection.layers
        yield _layer_row(group, layer, "", effect, is_selected=is_selected)
        for parent, part in _nested(layer):
            yield _layer_row(group, part, parent, effect, is_selected=is_selected)


def _nested(layer: Layer) -> Iterator[tuple[str, Layer]]:
    """All layers inside a layer, at any depth, each with the name of its parent."""
    for part in layer.parts:
        yield layer.name, part
        yield from _nested(part)


def _layer_row(
    group: LayerGroup, layer: Layer, inside: str, effect: SelectionEffect | None, *, is_selected: bool
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
        **_receptive_field(layer),
    }
    if effect is not None:
        changed = layer.trained_parameters(norms=effect.batch_norm != "frozen") if is_selected else 0
        mode = (effect.batch_norm if is_selected else "frozen") if layer.batch_norms else None
        row |= {"trained": changed > 0, "trained_parameters": changed, "batch_norm_mode": mode}
    return row


def _receptive_field(layer: Layer | None) -> dict[str, Any]:
    """Receptive field and stride of a layer's output, pixels; None where unknown."""
    stride, field = (None, None) if layer is None else (layer.stride, layer.receptive_field)
    return {
        "stride": None if stride is None else [_integral(side) for side in stride],
        "receptive_field": None if field is None else list(field),
        "sees_all": layer is not None and layer.sees_all,
    }


def _integral(value: float) -> float:
    """The value, as an int if it is a whole number."""
    return int(value) if value == int(value) else value


def _activation_bytes(group: LayerGroup) -> int:
    """Bytes of all outputs of a group's layers for one image."""
    return sum(layer.activation_bytes for layer in group.members if layer.kind != "InputLayer")


def as_json(value: Any) -> str:
    """A value as an indented JSON document. NaN and infinity raise a ValueError."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header line. Shapes look like `7x7x320`, an unknown side is `?`, None is empty."""
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
