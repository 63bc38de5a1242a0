"""`tlcli inspect` and `tlcli doctor`: looking without changing anything."""

import csv
import sys
from typing import Any

import click

from tlcli.cli.options import as_json, examples, state


@click.command(epilog=examples("inspect resnet50", "inspect mobilenet_v2 --train top:30%", "inspect runs/first"))
@click.argument("model", metavar="MODEL|RUN|FILE")
@click.option(
    "--by", type=click.Choice(["group", "layer"]), default="group", show_default=True, help="One row per what."
)
@click.option("--train", "selection", metavar="SELECTION", help="Show what a selection would train, for example top:3.")
@click.option("--size", nargs=2, type=int, metavar="H W", help="Input height and width. [default: the network's own]")
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="For example model.arguments.alpha=0.35.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@state
def inspect(
    model: str,
    by: str,
    selection: str | None,
    size: tuple[int, int] | None,
    settings: tuple[str, ...],
    form: str,
    as_json: bool,
) -> None:
    """Show the layer groups of a network, bottom to top."""
    from tlcli.cli import console, show
    from tlcli.inspection import look_at
    from tlcli.model.selection import select

    form = "json" if as_json else form
    groups = look_at(model, size=size, settings=settings)
    chosen = None if selection is None else select(selection, groups)
    if form == "table" and by == "group":
        out = console.out()
        height, width = groups.input_size
        title = f"{groups.name}, {console.count(groups.parameters)} parameters without top, input {height} × {width}"
        out.print(console.safe(title, "bold"))
        show.print_groups(out, groups, trained=None if chosen is None else chosen.layers)
        if chosen is not None:
            trained = sum(layer.trainable_parameters for layer in groups.layers if layer.name in chosen.layers)
            head = " and the head" if chosen.head else ""
            out.print(console.safe(f"{selection} trains {console.count(trained)} parameters of the network{head}"))
        return
    from tlcli.inspection import report

    found = report(groups, chosen, by_layer=by == "layer")
    rows: list[dict[str, Any]] = found["layers" if by == "layer" else "groups"]
    if form == "json":
        console.print_json(found)
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        names = ["group", "name", "kind", "parameters", "trainable_parameters", "output_shape", "flops"]
        console.out().print(console.table(names, [[_cell(row[name]) for name in names] for row in rows], left=3))


@click.command()
@as_json
@state
def doctor(as_json: bool) -> None:
    """Show versions, devices, folders and extras.

    What to look at first, and what to send with a bug report.
    """
    from tlcli.cli import console

    with console.quiet_import():
        from tlcli import checkup

        found = checkup.examine()
    if as_json:
        console.print_json(found)
        return
    out = console.out()
    for section, lines in found.items():
        out.print(console.safe(section.replace("_", " "), "bold"))
        items = lines.items() if isinstance(lines, dict) else ((str(line), "") for line in lines)
        for name, value in items:
            out.print(console.safe(f"  {name:<24} {value}".rstrip()))


COMMANDS = (inspect, doctor)


def _cell(value: Any) -> str:
    from tlcli.cli.console import count

    if isinstance(value, list):
        return " × ".join("?" if side is None else str(side) for side in value)
    return count(value) if isinstance(value, int) else str(value)
