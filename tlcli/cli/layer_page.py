"""The layer report as one self-contained HTML page: the network is a column of groups."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tlcli.cli import layer_tables
from tlcli.cli.console import safe
from tlcli.report import pages
from tlcli.text import compact


def render_page(report: dict[str, Any]) -> str:
    """The page as HTML that loads nothing. `report`: a layer report with layers."""
    groups = report["groups"]
    has_trained_head = report.get("training", {}).get("head", False)
    return pages.render(
        "network.html",
        {
            "title": f"{report['name']}: {report['about']['title']}",
            "facts": {**_totals(report), **layer_tables.header_facts(report)},
            "column": [_column_group(groups, number) for number in reversed(range(len(groups)))],
            "above": "new head, trained" if has_trained_head else "features",
            "input_size": layer_tables.format_shape(report["input_size"]),
            "notes": [
                layer_tables.norm_sentence(report),
                layer_tables.column_legend(report),
                layer_tables.cut_point_sentence(report),
            ],
            "training": _training(report["training"]) if "training" in report else None,
            "groups": _table(*layer_tables.group_table(report)),
            "layers": [
                _layers(report, name, list(layers))
                for name, layers in groupby(report["layers"], lambda layer: layer["group"])
            ],
        },
    )


def _totals(report: dict[str, Any]) -> dict[str, str]:
    groups = report["groups"]
    layers = sum(group["layers"] for group in groups)
    size = layer_tables.format_shape(report["input_size"])
    return {
        "parameters": f"{report['parameters']:,} without top, in {layers} layers of {len(groups)} groups",
        "FLOPs": f"{compact(report['flops'])} multiply-adds for one image of {size}",
    }


def _column_group(groups: Sequence[dict[str, Any]], number: int) -> dict[str, Any]:
    """Template values of the group at index `number`, which is 0 at the bottom."""
    group = groups[number]
    maximum = {key: max(row[key] for row in groups) or 1 for key in ("activation_bytes", "parameters")}
    return {
        "number": number,
        "name": group["name"],
        "state": group.get("state", "plain"),
        "is_cut_point": group["frontier"],
        # Details of groups in the lower half of the page open upwards.
        "is_low": number < len(groups) / 2,
        # Outputs of one network differ a hundredfold, so the width follows the square root.
        "width": round(100 * math.sqrt(group["activation_bytes"] / maximum["activation_bytes"]), 1),
        "heat": round(8 + 92 * group["parameters"] / maximum["parameters"], 1),
        "parameters": compact(group["parameters"]),
        "facts": _group_facts(group),
    }


def _group_facts(group: dict[str, Any]) -> dict[str, str]:
    facts = {
        "layers": f"{group['layers']} with weights, {group['layers_without_weights']} without",
        "from": group["first_layer"],
        "to": group["last_layer"],
        "output": f"{layer_tables.format_shape(group['output_shape'])}, {compact(group['activation_bytes'])}B",
        "all outputs": f"{compact(group['activation_bytes_inside'])}B",
        "stride": layer_tables.format_pair(group["stride"]),
        "field": layer_tables.format_field(group),
        "parameters": f"{group['parameters']:,} ({group['share']:.1%})",
        "multiply-adds": compact(group["flops"]),
        "BatchNorm": layer_tables.format_norms(group),
        "cut point": _cut_point(group),
    }
    if "state" in group:
        facts["state"] = f"{group['state']}, {group['trained_parameters']:,} parameters trained"
    return facts


def _cut_point(group: dict[str, Any]) -> str:
    if not group["frontier"]:
        return "no, some connections bypass the end"
    if not group["second_output"]:
        return "yes"
    return f"yes, with the output of {group['second_output']}, {compact(group['stored_bytes'])}B in total"


def _training(training: dict[str, Any]) -> dict[str, Any]:
    table = _table(*layer_tables.depth_table(training))
    for row, depth in zip(table["rows"], layer_tables.depth_costs(training), strict=True):
        row["is_selection"] = bool(depth["is_selection"])
    return {
        "title": layer_tables.DEPTHS_TITLE,
        "sentence": layer_tables.selection_sentence(training),
        "legend": layer_tables.DEPTHS_LEGEND,
        **table,
    }


def _layers(report: dict[str, Any], group: str, layers: list[dict[str, Any]]) -> dict[str, Any]:
    columns, rows = layer_tables.layer_table({**report, "layers": layers})
    table = _table(columns[1:], [row[1:] for row in rows])
    for row, layer in zip(table["rows"], layers, strict=True):
        row["is_inside"] = layer["inside"] is not None
    return {"name": group, "count": f"{len(layers)} layers", **table}


def _table(columns: Sequence[str], rows: Sequence[layer_tables.Row]) -> dict[str, Any]:
    return {
        "columns": columns,
        "rows": [{"cells": _cells(row), "is_selection": False, "is_inside": False} for row in rows],
    }


def _cells(row: layer_tables.Row) -> list[str]:
    return [safe(cell).plain if isinstance(cell, str) else cell.plain for cell in row]
