"""Terminal tables of the layer report and of weight changes."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlcli.cli import console
from tlcli.cli.console import print_text, safe
from tlcli.model.layer_groups import shorten_names
from tlcli.text import compact

Row = list[str | Text]
# A narrow terminal leaves out these columns, in this order.
OPTIONAL_GROUP_COLUMNS = ("first", "last", "layers", "BatchNorm", "cut", "stride", "share", "bytes")
OPTIONAL_LAYER_COLUMNS = ("bytes", "stride", "BatchNorm", "kind", "field", "FLOPs", "group")
OPTIONAL_DEPTH_COLUMNS = ("cached at", "bytes", "from")
OPTIONAL_CHANGE_COLUMNS = ("most changed layer", "parameters", "weights", "statistics")
HINT = "--format csv and html show all."
# Maximum number of names in a list of classes, and of layers that only one network has.
MAX_CLASSES = 10
MAX_LAYERS = 8
DEPTHS_TITLE = "Cost of each depth (100%: an epoch that trains all groups)"
DEPTHS_LEGEND = (
    "*: the selection. cached at, bytes: cut point and size of the cached features of an image. cached, uncached: an"
    " epoch with and without them; filling the cache takes one pass. memory: rough, on a CPU."
)
CHANGES_LEGEND = (
    "change: ‖B - A‖ / ‖A‖ over the changed weights of a row; statistics: the same for BatchNorm mean and variance."
)


def print_layers(report: dict[str, Any]) -> None:
    """Print the header, the table of groups or layers, its legend, and the cost of training."""
    out = console.out()
    print_header(out, report)
    out.print()
    by_layer = "layers" in report
    columns, rows = layer_table(report) if by_layer else group_table(report)
    optional = OPTIONAL_LAYER_COLUMNS if by_layer else OPTIONAL_GROUP_COLUMNS
    console.print_table(out, columns, rows, text_columns=3, optional=optional, hint=HINT)
    print_text(out, column_legend(report), "dim")
    if "training" in report:
        print_text(out, safe(cut_point_sentence(report), "dim"))
        out.print()
        _print_training(out, report)
    else:
        print_text(out, safe(f"{cut_point_sentence(report)} {norm_sentence(report)}", "dim"))


def print_header(out: Console, report: dict[str, Any]) -> None:
    """Print the origin of the network and the input it expects."""
    height, width = report["input_size"]
    title = f"{report['name']}: {report['about']['title']}, {compact(report['parameters'])} parameters without top"
    out.print(safe(f"{title}, input {height} × {width}", "bold"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in header_facts(report).items():
        grid.add_row(safe(name, "dim"), safe(value))
    console.print_lines(out, grid)


def header_facts(report: dict[str, Any]) -> dict[str, str]:
    """The lines of the header, name to text. Unknown facts are "not stated"."""
    about = report["about"]
    run = about.get("run")
    arguments = ", ".join(f"{name} {value}" for name, value in about["arguments"].items())
    paper = f", arXiv {about['paper']}" if about["paper"] else ""
    min_size = about["min_size"]
    minimum = f"minimum {min_size} × {min_size}" if min_size else "minimum not stated"
    algorithm, _, digest = (about["published_hash"] or f"sha256:{about['sha256'] or 'not stated'}").partition(":")
    lines = {
        "run": f"{run['status']}, started {run['started']}" if run else None,
        "source": f"{about['source']}{f' ({arguments})' if arguments else ''}{paper}",
        "licence": about["licence"],
        "trained on": about["trained_on"] or "not stated",
        "weights from": about["weights"],
        algorithm: digest,
        "accuracy": _accuracy(about),
        "input": f"default {format_shape(about['own_size'])}, {minimum}",
        "expects": _expected_values(about),
        "classes": _classes(about),
    }
    return {name: value for name, value in lines.items() if value is not None}


def _accuracy(about: dict[str, Any]) -> str:
    published, scores_by_split = about["imagenet_top1"], about["scores"]
    imagenet = None if published is None else f"{published:.1%} top-1 on ImageNet (published)"
    if scores_by_split is None:
        return imagenet or "not stated"
    parts = [
        f"{scores['accuracy']:.4f} on {scores['count']:.0f} {split} images" for split, scores in scores_by_split.items()
    ]
    return "; ".join([*parts, *([f"pretrained network: {imagenet}"] if imagenet else [])]) or "not stated"


def _expected_values(about: dict[str, Any]) -> str:
    expected = about["expects"]
    return f"{expected} (tlcli converts images)" if expected else "not stated; set model.preprocessing"


def _classes(about: dict[str, Any]) -> str:
    names, outputs = about["classes"], about["outputs"]
    run = about.get("run")
    head = f" (head of {compact(run['head_parameters'])} parameters)" if run and run["head_parameters"] else ""
    if names:
        rest = f" … and {len(names) - MAX_CLASSES} more" if len(names) > MAX_CLASSES else ""
        return f"{len(names)}: {', '.join(names[:MAX_CLASSES])}{rest}{head}"
    return f"{outputs}, names not stated" if outputs else "none (the network has no head)"


def group_table(report: dict[str, Any]) -> tuple[list[str], list[Row]]:
    """Columns and rows: one row per group, and the totals."""
    columns = [
        "group", "first", "last", "layers", "output", "stride", "field", "parameters", "share", "FLOPs", "bytes",
        "BatchNorm", "cut",
    ]  # fmt: skip
    groups = report["groups"]
    rows: list[Row] = [
        [
            group["name"],
            group["first_layer"],
            group["last_layer"],
            str(group["layers"]),
            format_shape(group["output_shape"]),
            format_pair(group["stride"]),
            format_field(group),
            compact(group["parameters"]),
            f"{group['share']:.1%}",
            compact(group["flops"]),
            compact(group["activation_bytes"]),
            format_norms(group),
            "yes" if group["frontier"] else "no",
        ]
        for group in groups
    ]
    layers = str(sum(group["layers"] for group in groups))
    total = ["all", "", "", layers, "", "", "", compact(report["parameters"]), "100%", compact(report["flops"]), ""]
    rows.append([safe(cell, "bold") for cell in (*total, str(report["batch_norm"] or "–"), "")])
    if "training" in report:
        columns.append("trains")
        for row, group in zip(rows, groups, strict=False):
            row.append(_trained_parameters(group))
        rows[-1].append(safe(compact(report["training"]["trained_parameters"]), "bold"))
    return columns, rows


def layer_table(report: dict[str, Any]) -> tuple[list[str], list[Row]]:
    """Columns and rows: one row per layer. Layers inside another layer are indented."""
    columns = ["group", "layer", "kind", "output", "stride", "field", "parameters", "FLOPs", "bytes"]
    rows: list[Row] = [
        [
            layer["group"],
            f"  {layer['name']}" if layer["inside"] else layer["name"],
            layer["kind"],
            format_shape(layer["output_shape"]),
            format_pair(layer["stride"]),
            format_field(layer),
            compact(layer["parameters"]) if layer["parameters"] else "–",
            compact(layer["flops"]) if layer["flops"] else "–",
            compact(layer["activation_bytes"]),
        ]
        for layer in report["layers"]
    ]
    if "training" in report:
        columns += ["BatchNorm", "trains"]
        for row, layer in zip(rows, report["layers"], strict=True):
            row += [layer["batch_norm_mode"] or "–", _trained_parameters(layer)]
    return columns, rows


def _print_training(out: Console, report: dict[str, Any]) -> None:
    training = report["training"]
    print_text(out, safe(selection_sentence(training), "bold"))
    print_text(out, norm_sentence(report))
    out.print()
    print_text(out, DEPTHS_TITLE)
    columns, rows = depth_table(training)
    console.print_table(out, columns, rows, text_columns=2, optional=OPTIONAL_DEPTH_COLUMNS, hint=HINT)
    print_text(out, DEPTHS_LEGEND, "dim")


def selection_sentence(training: dict[str, Any]) -> str:
    """A sentence about what the selection trains, and its memory."""
    head = f" and a head of {compact(training['head_parameters_per_class'])} per class" if training["head"] else ""
    return (
        f"{training['selection']} trains {compact(training['trained_parameters'])} parameters of the network{head};"
        f" about {format_gigabytes(training['memory_bytes'])} of memory at batch size {training['batch']}."
    )


def depth_costs(training: dict[str, Any]) -> list[dict[str, Any]]:
    """The costs of all depths, after those of the selection if it is not one of the depths."""
    depths: list[dict[str, Any]] = training["depths"]
    if any(depth["is_selection"] for depth in depths):
        return list(depths)
    return [training | {"train": "selection", "from": "–", "is_selection": True}, *depths]


def depth_table(training: dict[str, Any]) -> tuple[list[str], list[Row]]:
    """Columns and rows: the costs of each depth."""
    columns = ["train", "from", "parameters", "cached at", "bytes", "memory", "cached", "uncached"]
    return columns, [_depth_row(depth) for depth in depth_costs(training)]


def _depth_row(depth: dict[str, Any]) -> Row:
    style = "bold" if depth["is_selection"] else ""
    cells = [
        f"{depth['train']} *" if depth["is_selection"] else depth["train"],
        depth["from"],
        compact(depth["trained_parameters"]),
        depth["cut_point"],
        compact(depth["stored_bytes"]) if depth["stored_bytes"] else "–",
        format_gigabytes(depth["memory_bytes"]),
        format_percent(depth["epoch_cached"]),
        format_percent(depth["epoch_uncached"]),
    ]
    return [safe(cell, style) for cell in cells]


def norm_sentence(report: dict[str, Any]) -> str:
    """A sentence about the BatchNorm layers: their number, policy and behaviour."""
    count, policy = report["batch_norm"], report["batch_norm_policy"]
    if not count:
        return "No BatchNorm."
    behaviour = {
        "frozen": "all use stored statistics; none is trained",
        "affine": "all use stored statistics; trained groups learn scale and offset",
        "train": "trained groups use batch statistics and learn scale and offset; frozen groups use stored statistics",
    }[policy]
    return f"{count} BatchNorm layers, policy {policy}: {behaviour}."


def column_legend(report: dict[str, Any]) -> str:
    """The meaning and units of the columns of numbers."""
    rows = report.get("layers", report["groups"])
    gates = " (+: gates add the whole image)" if any(row["sees_all"] for row in rows) else ""
    return f"field: receptive field, pixels{gates}. FLOPs: multiply-adds. bytes: output for one image, float32."


def cut_point_sentence(report: dict[str, Any]) -> str:
    """A sentence about where training can start."""
    groups = report["groups"]
    bypassed = [group["name"] for group in groups if not group["frontier"]]
    with_second_output = [group["name"] for group in groups if group["second_output"]]
    but = f" but {shorten_names(bypassed)}" if bypassed else ""
    sentence = f"Every group{but} ends at a cut point, where training can start."
    if with_second_output:
        names = shorten_names(with_second_output)
        sentence += f" At {names}, an earlier output is cached too, because later layers read it."
    return sentence


def format_norms(row: dict[str, Any]) -> str:
    """The number of BatchNorm layers, and their mode if there is a selection."""
    if not row["batch_norm"]:
        return "–"
    mode = row.get("batch_norm_mode")
    return f"{row['batch_norm']} {mode}" if mode else str(row["batch_norm"])


def _trained_parameters(row: dict[str, Any]) -> Text:
    return safe(compact(row["trained_parameters"]), "green") if row["trained_parameters"] else safe("no", "dim")


def format_shape(sides: Sequence[int | None]) -> str:
    """The sides of a tensor; `?` if unknown.

    >>> [format_shape(sides) for sides in ((7, 7, 320), (None, 64), ())]
    ['7 × 7 × 320', '? × 64', '–']
    """
    return " × ".join("?" if side is None else str(side) for side in sides) or "–"


def format_pair(sides: Sequence[float] | None) -> str:
    """One number, or two if height and width differ.

    >>> [format_pair(sides) for sides in ((32, 32), (32, 16), None)]
    ['32', '32 × 16', '–']
    """
    if sides is None:
        return "–"
    return f"{sides[0]:g}" if sides[0] == sides[1] else f"{sides[0]:g} × {sides[1]:g}"


def format_field(row: dict[str, Any]) -> str:
    """A receptive field, pixels. A plus means that gates add the whole image; `all` means the whole image only."""
    if row["receptive_field"] is None:
        return "all" if row["sees_all"] else "?"
    return format_pair(row["receptive_field"]) + ("+" if row["sees_all"] else "")


def format_gigabytes(size: int) -> str:
    """Bytes as gigabytes.

    >>> format_gigabytes(1_860_000_000)
    '1.9 GB'
    """
    return f"{size / 1e9:.1f} GB"


def format_percent(fraction: float) -> str:
    """A fraction (0-1) in whole percent; `<1%` if it would be rounded to 0.

    >>> [format_percent(fraction) for fraction in (0.0, 0.001, 0.33)]
    ['0%', '<1%', '33%']
    """
    return "<1%" if 0 < fraction < 0.005 else f"{fraction:.0%}"


def print_changes(changes: dict[str, Any]) -> None:
    """Print one row per group or layer, the layers that only one network has, and a summary."""
    out, a, b = console.out(), changes["a"]["name"], changes["b"]["name"]
    out.print(safe(f"from {a} to {b}", "bold"))
    by_layer = "layers" in changes
    columns = [*(["group", "layer"] if by_layer else ["group"]), "weights", "parameters", "change", "statistics"]
    columns += [] if by_layer else ["most changed layer"]
    rows = [_change_row(row, by_layer=by_layer) for row in changes["layers" if by_layer else "groups"]]
    console.print_table(
        out,
        columns,
        rows,
        text_columns=2 if by_layer else 1,
        optional=OPTIONAL_CHANGE_COLUMNS,
        hint="--format csv shows all.",
    )
    for key, name in (("only_a", a), ("only_b", b)):
        if layers := changes[key]:
            names = ", ".join(f"{layer['layer']} ({compact(layer['parameters'])})" for layer in layers[:MAX_LAYERS])
            more = f" and {len(layers) - MAX_LAYERS} more layers" if len(layers) > MAX_LAYERS else ""
            print_text(out, safe(f"only in {name}: {names}{more}"))
    print_text(out, CHANGES_LEGEND, "dim")
    _print_summary(out, changes)


def _print_summary(out: Console, changes: dict[str, Any]) -> None:
    if changes["identical"]:
        print_text(out, safe(f"All {changes['weights']} shared weights are bit-identical.", "bold"))
        return
    identical = [group["name"] for group in changes["groups"] if group["identical"]]
    changed = [group["name"] for group in changes["groups"] if not group["identical"]]
    print_text(out, safe(f"bit-identical: {', '.join(identical) or 'no group'}", "green" if identical else ""))
    print_text(out, safe(f"changed: {', '.join(changed)}", "bold"))


def _change_row(row: dict[str, Any], *, by_layer: bool) -> Row:
    names = [row["group"], row["name"]] if by_layer else [row["name"]]
    is_statistics_identical = row["statistics_identical"]
    cells: Row = [
        *names,
        f"{row['changed_weights']} of {row['weights']}" if row["changed_weights"] else str(row["weights"]),
        compact(row["parameters"]),
        safe("identical", "green") if row["identical"] else safe(format_change(row["relative_change"])),
        "–"
        if is_statistics_identical is None
        else "identical"
        if is_statistics_identical
        else format_change(row["relative_change_statistics"]),
    ]
    return cells if by_layer else [*cells, row["most_changed_layer"] or "–"]


def format_change(fraction: float | None) -> str:
    """A relative change in percent; None: all weights were 0.

    >>> [format_change(fraction) for fraction in (0.0, 0.123456, 3e-7, None)]
    ['0%', '12.3%', '3e-05%', 'from zero']
    """
    return "from zero" if fraction is None else f"{100 * fraction:.3g}%"
