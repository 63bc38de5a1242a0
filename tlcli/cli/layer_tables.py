"""Tables of the layer report and of weight changes."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlcli.cli import console
from tlcli.cli.console import safe, say
from tlcli.model.groups import listing
from tlcli.text import compact

Row = list[str | Text]
CONVENTION = "FLOPs are multiply-adds: a multiplication with its addition counts as one."
# Where a terminal is too narrow, columns go in this order.
SPARE_OF_GROUPS = ("first", "last", "layers", "BatchNorm", "cut", "stride", "share", "bytes")
SPARE_OF_LAYERS = ("bytes", "stride", "BatchNorm", "kind", "field", "FLOPs", "group")
SPARE_OF_DEPTHS = ("stored at", "stored", "from")
CLASSES_SHOWN = 10
DEPTHS_TITLE = "100% is an epoch that trains everything from the pixels."
DEPTHS_LEGEND = (
    "* the selection. stored: bytes an image at the frontier. cached, uncached: an epoch with these or without; storing"
    " takes one pass through what is frozen. memory: rough, of the process, on a CPU."
)


def print_layers(found: dict[str, Any]) -> None:
    """Everything, in the order in which it is asked for."""
    out = console.out()
    header(out, found)
    out.print()
    if "layers" in found:
        _print_table(out, *layer_table(found), left=3, spare=SPARE_OF_LAYERS)
    else:
        _print_table(out, *group_table(found), left=3, spare=SPARE_OF_GROUPS)
    _legend(out, found)
    if "training" in found:
        out.print()
        _training(out, found)


def header(out: Console, found: dict[str, Any]) -> None:
    """Where the network comes from and what it expects."""
    height, width = found["input_size"]
    title = f"{found['name']}: {found['about']['title']}, {compact(found['parameters'])} parameters without top"
    out.print(safe(f"{title}, input {height} × {width}", "bold"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts(found).items():
        grid.add_row(safe(name, "dim"), safe(value))
    out.print(grid)


def facts(found: dict[str, Any]) -> dict[str, str]:
    """The header's lines by their names, in words; what nobody states is said to be so."""
    about = found["about"]
    arguments = ", ".join(f"{name} {value}" for name, value in about["arguments"].items())
    paper = f", arXiv {about['paper']}" if about["paper"] else ""
    minimum = about["min_size"]
    least = f"at least {minimum} × {minimum}" if minimum else "smallest size not stated"
    expects = about["expects"] or "not stated; a recipe must name it: model.preprocessing"
    own = shape(about["own_size"])
    run = about.get("run")
    lines = {
        "run": f"{run['status']}, begun {run['started']}" if run else None,
        "source": f"{about['source']}{f' ({arguments})' if arguments else ''}{paper}",
        "licence": about["licence"],
        "trained on": about["trained_on"] or "not stated",
        "weights from": about["weights"],
        "sha256": about["sha256"] or "not stated",
        "accuracy": _accuracy(about),
        "input": f"made for {own}, {least}",
        "expects": f"{expects} (tlcli gives it that)" if about["expects"] else expects,
        "classes": _classes(about),
    }
    return {name: value for name, value in lines.items() if value is not None}


def _accuracy(about: dict[str, Any]) -> str:
    published, known = about["imagenet_top1"], about["scores"]
    stated = None if published is None else f"{published:.1%} top-1 on ImageNet, as published"
    if known is None:
        return stated or "not stated"
    parts = [f"{scores['accuracy']:.4f} on its {scores['count']:.0f} {name} images" for name, scores in known.items()]
    return "; ".join([*parts, *([f"the network it began with: {stated}"] if stated else [])]) or "not stated"


def _classes(about: dict[str, Any]) -> str:
    names, outputs = about["classes"], about["outputs"]
    run = about.get("run")
    head = f" (head of {compact(run['head_parameters'])} parameters)" if run and run["head_parameters"] else ""
    if names:
        rest = f" … and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else ""
        return f"{len(names)}: {', '.join(names[:CLASSES_SHOWN])}{rest}{head}"
    return f"{outputs}, their names not stated" if outputs else "none: it ends in features, a head is put on them"


def group_table(found: dict[str, Any]) -> tuple[list[str], list[Row]]:
    """A row a group, and what they come to."""
    columns = [
        "group", "first", "last", "layers", "output", "stride", "field", "parameters", "share", "FLOPs", "bytes",
        "BatchNorm", "cut",
    ]  # fmt: skip
    rows: list[Row] = [
        [
            each["name"],
            each["first_layer"],
            each["last_layer"],
            str(each["layers"]),
            shape(each["output_shape"]),
            pair(each["stride"]),
            field(each),
            compact(each["parameters"]),
            f"{each['share']:.1%}",
            compact(each["flops"]),
            compact(each["activation_bytes"]),
            norms(each),
            "yes" if each["frontier"] else "no",
        ]
        for each in found["groups"]
    ]
    layers = str(sum(each["layers"] for each in found["groups"]))
    total = ["all", "", "", layers, "", "", "", compact(found["parameters"]), "100%", compact(found["flops"]), ""]
    rows.append([safe(cell, "bold") for cell in (*total, str(found["batch_norm"] or "–"), "")])
    if "training" in found:
        columns.append("trains")
        for row, each in zip(rows, found["groups"], strict=False):
            row.append(_trains(each))
        trained = compact(found["training"]["trained_parameters"])
        rows[-1].append(safe(trained, "bold"))
    return columns, rows


def layer_table(found: dict[str, Any]) -> tuple[list[str], list[Row]]:
    """A row a layer; those inside another are set in."""
    columns = ["group", "layer", "kind", "output", "stride", "field", "parameters", "FLOPs", "bytes"]
    rows: list[Row] = [
        [
            each["group"],
            f"  {each['name']}" if each["inside"] else each["name"],
            each["kind"],
            shape(each["output_shape"]),
            pair(each["stride"]),
            field(each),
            compact(each["parameters"]) if each["parameters"] else "–",
            compact(each["flops"]) if each["flops"] else "–",
            compact(each["activation_bytes"]),
        ]
        for each in found["layers"]
    ]
    if "training" in found:
        columns += ["BatchNorm", "trains"]
        for row, each in zip(rows, found["layers"], strict=True):
            row += [each["batch_norm_mode"] or "–", _trains(each)]
    return columns, rows


def _training(out: Console, found: dict[str, Any]) -> None:
    told = found["training"]
    say(out, safe(selection_sentence(told), "bold"))
    say(out, norm_sentence(found))
    out.print()
    say(out, f"What each further group costs. {DEPTHS_TITLE}")
    _print_table(out, *depth_table(told), left=2, spare=SPARE_OF_DEPTHS)
    say(out, DEPTHS_LEGEND, "dim")


def selection_sentence(told: dict[str, Any]) -> str:
    """What a selection trains."""
    head = f" and a head of {compact(told['head_parameters_per_class'])} a class" if told["head"] else ""
    return (
        f"{told['selection']} trains {compact(told['trained_parameters'])} parameters of the network{head},"
        f" in batches of {told['batch']} with about {giga(told['memory_bytes'])} of memory."
    )


def depths(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The selection, where it is none of them, and all depths."""
    if any(each["is_selection"] for each in told["depths"]):
        return list(told["depths"])
    return [told | {"train": "selection", "from": "–", "is_selection": True}, *told["depths"]]


def depth_table(told: dict[str, Any]) -> tuple[list[str], list[Row]]:
    """What each depth would take."""
    columns = ["train", "from", "parameters", "stored at", "stored", "memory", "cached", "uncached"]
    return columns, [_depth(each) for each in depths(told)]


def _depth(each: dict[str, Any]) -> Row:
    style = "bold" if each["is_selection"] else ""
    cells = [
        f"{each['train']} *" if each["is_selection"] else each["train"],
        each["from"],
        compact(each["trained_parameters"]),
        each["frontier"],
        compact(each["stored_bytes"]) if each["stored_bytes"] else "–",
        giga(each["memory_bytes"]),
        percent(each["epoch_cached"]),
        percent(each["epoch_uncached"]),
    ]
    return [safe(cell, style) for cell in cells]


def norm_sentence(found: dict[str, Any]) -> str:
    """How the network's BatchNorm layers behave."""
    many, policy = found["batch_norm"], found["batch_norm_policy"]
    if not many:
        return "No BatchNorm."
    frozen = "frozen groups run theirs on stored statistics"
    trained = {
        "frozen": "so do trained ones, and nothing of it is trained",
        "affine": "so do trained ones, whose scale and offset learn",
        "train": "trained ones on statistics of the batch, and all of it learns",
    }[policy]
    return f"{many} BatchNorm layers, policy {policy}: {frozen}; {trained}."


def _legend(out: Console, found: dict[str, Any]) -> None:
    say(out, field_sentence(found), "dim")
    say(out, f"bytes: of the output for one image, float32. {CONVENTION}", "dim")
    say(out, safe(frontier_sentence(found), "dim"))
    if "training" not in found:
        say(out, norm_sentence(found), "dim")


def frontier_sentence(found: dict[str, Any]) -> str:
    """Where training can begin."""
    closed = [each["name"] for each in found["groups"] if not each["frontier"]]
    double = [each["name"] for each in found["groups"] if each["second_output"]]
    told = "cut: every group ends at a frontier, where training can begin."
    if closed:
        told = f"cut: training can begin at the end of each group but {listing(closed)}, which some paths pass by."
    if double:
        told += f" Above {listing(double)} the output below is read, too: both are stored there."
    return told


def field_sentence(found: dict[str, Any]) -> str:
    """What the column says."""
    rows = found.get("layers", found["groups"])
    gates = " +: and of all of it by way of gates." if any(each["sees_all"] for each in rows) else ""
    return f"field: pixels of the picture that one place of the output sees.{gates}"


def _print_table(out: Console, columns: list[str], rows: list[Row], *, left: int, spare: Sequence[str]) -> None:
    """The table, and what of it had to be left out."""
    spare = [name for name in spare if name in columns]
    kept = console.fitting(columns, rows, spare=spare)
    out.print(console.table(columns, rows, left=left, spare=spare))
    if missing := [name for name in columns if name not in kept]:
        needed = f"at {out.width} columns, where {console.width(columns, rows, columns)} are needed"
        text = f"Left out {needed}: {', '.join(missing)}. --format csv and html have all."
        say(out, text, "yellow")


def norms(each: dict[str, Any]) -> str:
    """How many BatchNorm layers, and what they would do."""
    if not each["batch_norm"]:
        return "–"
    mode = each.get("batch_norm_mode")
    return f"{each['batch_norm']} {mode}" if mode else str(each["batch_norm"])


def _trains(each: dict[str, Any]) -> Text:
    return safe(compact(each["trained_parameters"]), "green") if each["trained_parameters"] else safe("no", "dim")


def shape(sides: Sequence[int | None]) -> str:
    """Sides of a tensor."""
    return " × ".join("?" if side is None else str(side) for side in sides) or "–"


def pair(sides: Sequence[float] | None) -> str:
    """A number, or two where height and width differ."""
    if sides is None:
        return "–"
    return f"{sides[0]:g}" if sides[0] == sides[1] else f"{sides[0]:g} × {sides[1]:g}"


def field(each: dict[str, Any]) -> str:
    """A receptive field: its side, `all` without any, and a plus where gates let the whole picture in."""
    if each["receptive_field"] is None:
        return "all" if each["sees_all"] else "?"
    return pair(each["receptive_field"]) + ("+" if each["sees_all"] else "")


def giga(size: int) -> str:
    """Bytes of memory."""
    return f"{size / 1e9:.1f} GB"


def percent(share: float) -> str:
    """A share; what is not nothing is not shown as nothing."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


SPARE_OF_CHANGES = ("most changed layer", "parameters", "weights", "statistics")


def print_changes(found: dict[str, Any]) -> None:
    """A line a group or a layer, what is on one side only, and what it comes to."""
    out, a, b = console.out(), found["a"]["name"], found["b"]["name"]
    out.print(safe(f"from {a} to {b}", "bold"))
    by_layer = "layers" in found
    columns = [*(["group", "layer"] if by_layer else ["group"]), "weights", "parameters", "change", "statistics"]
    columns += [] if by_layer else ["most changed layer"]
    rows = [_change_row(each, by_layer=by_layer) for each in found["layers" if by_layer else "groups"]]
    spare = [name for name in SPARE_OF_CHANGES if name in columns]
    kept = console.fitting(columns, rows, spare=spare)
    out.print(console.table(columns, rows, left=2 if by_layer else 1, spare=spare))
    if missing := [name for name in columns if name not in kept]:
        say(out, safe(f"Left out for want of room: {', '.join(missing)}. --format csv shows all.", "yellow"))
    for side, name in (("only_a", a), ("only_b", b)):
        if found[side]:
            layers = ", ".join(f"{each['layer']} ({compact(each['parameters'])})" for each in found[side][:8])
            more = f" and {len(found[side]) - 8} more layers" if len(found[side]) > 8 else ""
            say(out, safe(f"only in {name}: {layers}{more}"))
    say(
        out,
        "change: ‖B - A‖ / ‖A‖ over the weights of a row; statistics: the same of BatchNorm's mean and variance.",
        "dim",
    )
    _sum_up(found)


def _sum_up(found: dict[str, Any]) -> None:
    out = console.out()
    same = [each["name"] for each in found["groups"] if each["identical"]]
    if found["identical"]:
        say(out, safe(f"All {found['weights']} weights that both have are bit-identical.", "bold"))
        return
    changed = [each["name"] for each in found["groups"] if not each["identical"]]
    say(out, safe(f"bit-identical: {', '.join(same) or 'no group'}", "green" if same else ""))
    say(out, safe(f"changed: {', '.join(changed)}", "bold"))


def _change_row(each: dict[str, Any], *, by_layer: bool) -> list[str | Text]:
    named = [each["group"], each["name"]] if by_layer else [each["name"]]
    changed = f"{each['changed_weights']} of {each['weights']}" if each["changed_weights"] else str(each["weights"])
    kept = each["statistics_identical"]
    row = [
        *named,
        changed,
        compact(each["parameters"]),
        safe("identical", "green") if each["identical"] else safe(amount(each["relative_change"])),
        "–" if kept is None else "identical" if kept else amount(each["relative_change_statistics"]),
    ]
    return row if by_layer else [*row, each["most_changed_layer"] or "–"]


def amount(share: float | None) -> str:
    """A relative change.

    >>> [amount(share) for share in (0.0, 0.123456, 3e-7, None)]
    ['0%', '12.3%', '3e-05%', 'from zero']
    """
    return "from zero" if share is None else f"{100 * share:.3g}%"
