"""The layer report as one self-contained page: the network drawn as a column of groups."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tlcli.cli import layer_tables
from tlcli.cli.console import safe
from tlcli.report import pages
from tlcli.text import compact


def page(found: dict[str, Any]) -> str:
    """HTML without anything from elsewhere. `found`: a report with layers."""
    groups = found["groups"]
    height, width = found["input_size"]
    head = found.get("training", {}).get("head", False)
    return pages.render(
        "network.html",
        {
            "title": f"{found['name']}: {found['about']['title']}",
            "facts": {**_totals(found), **layer_tables.facts(found)},
            "column": [_drawn(found, number) for number in reversed(range(len(groups)))],
            "above": "new head, trained" if head else "features, a head goes on them",
            "picture": f"{height} × {width}",
            "notes": [
                layer_tables.norm_sentence(found),
                layer_tables.field_sentence(found),
                layer_tables.frontier_sentence(found),
                layer_tables.CONVENTION,
            ],
            "training": _training(found) if "training" in found else None,
            "groups": _table(*layer_tables.group_table(found)),
            "layers": [
                _layers(found, name, list(rows)) for name, rows in groupby(found["layers"], lambda r: r["group"])
            ],
        },
    )


def _totals(found: dict[str, Any]) -> dict[str, str]:
    layers_in = sum(each["layers"] for each in found["groups"])
    return {
        "parameters": f"{found['parameters']:,} without top, in {layers_in} layers of {len(found['groups'])} groups",
        "arithmetic": f"{compact(found['flops'])} multiply-adds for a picture of {layer_tables.shape(found['input_size'])}",
    }


def _drawn(found: dict[str, Any], number: int) -> dict[str, Any]:
    groups = found["groups"]
    group = groups[number]
    most = {key: max(each[key] for each in groups) or 1 for key in ("activation_bytes", "parameters")}
    return {
        "number": number,
        "name": group["name"],
        "state": group.get("state", "plain"),
        "is_cut_point": group["frontier"],
        # The lower half of the drawing opens its details upwards.
        "is_low": number < len(groups) / 2,
        # By the root: outputs of a network differ a hundredfold.
        "width": round(100 * math.sqrt(group["activation_bytes"] / most["activation_bytes"]), 1),
        "heat": round(8 + 92 * group["parameters"] / most["parameters"], 1),
        "parameters": compact(group["parameters"]),
        "facts": _facts(group),
    }


def _facts(group: dict[str, Any]) -> dict[str, str]:
    found = {
        "layers": f"{group['layers']} with weights, {group['layers_without_weights']} without",
        "from": group["first_layer"],
        "to": group["last_layer"],
        "output": f"{layer_tables.shape(group['output_shape'])}, {compact(group['activation_bytes'])}B",
        "all outputs": f"{compact(group['activation_bytes_inside'])}B",
        "stride": layer_tables.pair(group["stride"]),
        "field": layer_tables.field(group),
        "parameters": f"{group['parameters']:,} ({group['share']:.1%})",
        "multiply-adds": compact(group["flops"]),
        "BatchNorm": layer_tables.norms(group),
        "frontier": _frontier(group),
    }
    if "state" in group:
        found["state"] = f"{group['state']}, {group['trained_parameters']:,} parameters learn"
    return found


def _frontier(group: dict[str, Any]) -> str:
    if not group["frontier"]:
        return "no, some paths pass it by"
    also = (
        f" with the output of {group['second_output']}, {compact(group['stored_bytes'])}B in all"
        if group["second_output"]
        else ""
    )
    return f"yes, training can be cut here{also}"


def _training(found: dict[str, Any]) -> dict[str, Any]:
    told = found["training"]
    columns, rows = layer_tables.depth_table(told)
    chosen = [bool(each["is_selection"]) for each in layer_tables.depths(told)]
    return {
        "sentence": layer_tables.selection_sentence(told),
        "notes": [layer_tables.DEPTHS_TITLE, layer_tables.DEPTHS_LEGEND],
        "columns": columns,
        "rows": [
            {"cells": _cells(row), "is_chosen": is_chosen, "is_inside": False}
            for row, is_chosen in zip(rows, chosen, strict=True)
        ],
    }


def _layers(found: dict[str, Any], name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns, cells = layer_tables.layer_table({**found, "layers": rows})
    inside = [row["inside"] is not None for row in rows]
    table = _table(columns[1:], [row[1:] for row in cells])
    for row, is_inside in zip(table["rows"], inside, strict=True):
        row["is_inside"] = is_inside
    return {"name": name, "count": f"{len(rows)} layers", **table}


def _table(columns: Sequence[str], rows: Sequence[layer_tables.Row]) -> dict[str, Any]:
    return {
        "columns": columns,
        "rows": [{"cells": _cells(row), "is_chosen": False, "is_inside": False} for row in rows],
    }


def _cells(row: layer_tables.Row) -> list[str]:
    return [safe(cell).plain if isinstance(cell, str) else cell.plain for cell in row]
