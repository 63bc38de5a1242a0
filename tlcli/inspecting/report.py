"""The layer report as plain values, a row a group and a row a layer; every form of output is made from it."""

from collections.abc import Iterator
from typing import Any

from tlcli.inspecting.about import about
from tlcli.inspecting.target import Target
from tlcli.inspecting.training import Trained
from tlcli.model.groups import Layer, LayerGroup
from tlcli.train import plan


def report(target: Target, trained: Trained | None, *, by_layer: bool) -> dict[str, Any]:
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
        "about": about(target),
        "groups": [_group(group, max(groups.parameters, 1), trained) for group in groups],
    }
    if trained is not None:
        found["training"] = trained.to_json()
    if by_layer:
        found["layers"] = [row for group in groups for row in _layers(group, trained)]
    return found


def _group(group: LayerGroup, total: int, trained: Trained | None) -> dict[str, Any]:
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


def _layers(group: LayerGroup, trained: Trained | None) -> Iterator[dict[str, Any]]:
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


def _layer(group: LayerGroup, layer: Layer, inside: str, trained: Trained | None, *, is_chosen: bool) -> dict[str, Any]:
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
