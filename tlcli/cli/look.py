"""`tlcli inspect` and `tlcli doctor`: looking without changing anything."""

from pathlib import Path
from typing import Any, Literal

import click

from tlcli.cli.options import as_json, examples, state
from tlcli.errors import UsageError
from tlcli.output import require_new_file


@click.command(
    epilog=examples(
        "inspect resnet50",
        "inspect mobilenet_v2 --train top:30%",
        "inspect runs/first --format html --out layers.html",
        "inspect --diff mobilenet_v2 runs/first",
    )
)
@click.argument("model", metavar="MODEL|RUN|FILE", required=False)
@click.option(
    "--by", type=click.Choice(["group", "layer"]), default="group", show_default=True, help="One row per what."
)
@click.option("--train", "selection", metavar="SELECTION", help="Show what a selection would train, for example top:3.")
@click.option(
    "--batch-norm",
    type=click.Choice(["frozen", "affine", "train"]),
    help="With --train: what BatchNorm of trained groups does. [default: as the network's card asks]",
)
@click.option("--diff", nargs=2, metavar="A B", help="Show which weights differ between two networks or runs.")
@click.option("--size", nargs=2, type=int, metavar="H W", help="Input height and width. [default: the network's own]")
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="For example model.arguments.alpha=0.35.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv", "html"]), default="table", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Write json, csv or html into a file.")
@state
def inspect(
    model: str | None,
    by: str,
    selection: str | None,
    batch_norm: Literal["frozen", "affine", "train"] | None,
    diff: tuple[str, str] | None,
    size: tuple[int, int] | None,
    settings: tuple[str, ...],
    form: str,
    as_json: bool,
    out: Path | None,
) -> None:
    """Show the layer groups of a network, bottom to top.

    What decides on what to freeze: outputs, receptive fields, parameters, arithmetic; with --train, what each further
    group would cost. FLOPs are multiply-adds.
    """
    if as_json and form not in ("table", "json"):
        raise UsageError(f"--json and --format {form} are two forms", where="--json", hint="Give one of them.")
    form = "json" if as_json else form
    if batch_norm is not None and selection is None:
        raise UsageError("goes with --train: it is about what is trained", where="--batch-norm", hint="--train top:3")
    if (model is None) == (diff is None):
        raise UsageError("one network is looked at, or two are compared", hint="tlcli inspect MODEL, or --diff A B")
    if out is not None and form == "table":
        raise UsageError("a table is for the terminal", where="--out", hint="Add --format html, csv or json.")
    if out is not None:
        require_new_file(out, "--out")
    if diff is not None:
        for option, is_given in (("--train", selection is not None), ("--format html", form == "html")):
            if is_given:
                hint = "Leave it out: a comparison is of all groups, as a table, json or csv."
                raise UsageError("does not go with --diff", where=option, hint=hint)
        _show_diff(_diff(diff, size, settings, by_layer=by == "layer"), form=form, out=out)
        return
    from tlcli.inspecting import target, training
    from tlcli.inspecting.report import report

    found_at = target.find(str(model), target.Wish(size, settings))
    trained = None if selection is None else training.of(found_at, selection, batch_norm)
    found = report(found_at, trained, by_layer=by == "layer" or form == "html")
    _show(found, "layers" if by == "layer" else "groups", form=form, out=out)


def _show(found: dict[str, Any], rows: str, *, form: str, out: Path | None) -> None:
    if form == "table":
        from tlcli.cli import layers

        layers.tell(found)
        return
    if form == "html":
        from tlcli.cli import network

        text = network.page(found)
    else:
        from tlcli.inspecting import text as plain

        text = plain.as_json(found) if form == "json" else plain.as_csv(found[rows])
    _deliver(text, out)


def _deliver(text: str, out: Path | None) -> None:
    if out is None:
        click.echo(text, nl=False)
        return
    from tlcli.cli import console
    from tlcli.paths import write_text

    write_text(out, text)
    console.say(console.err(), console.safe(f"written: {out}"))


def _diff(
    named: tuple[str, str], size: tuple[int, int] | None, settings: tuple[str, ...], *, by_layer: bool
) -> dict[str, Any]:
    from tlcli.cli import console
    from tlcli.inspecting import target

    def measured(card: Any, arguments: Any, size: tuple[int, int]) -> Any:
        """In this process, since Keras will be needed anyway; but what is known needs none."""
        from tlcli.model import structure
        from tlcli.paths import cache_dir

        if (known := structure.find(card, dict(arguments), size, cache=cache_dir())) is not None:
            return known
        with console.loading_keras():
            from tlcli.model import measure
        return measure.layer_groups(card, arguments, size)

    sides = target.pair(named, target.Wish(size, settings, measured))
    with console.loading_keras():
        from tlcli.inspecting import difference
    return difference.between(*sides, by_layer=by_layer)


def _show_diff(found: dict[str, Any], *, form: str, out: Path | None) -> None:
    if form == "table":
        from tlcli.cli import changes

        changes.tell(found)
        return
    from tlcli.inspecting import text

    _deliver(text.as_json(found) if form == "json" else text.as_csv(found.get("layers", found["groups"])), out)


@click.command()
@as_json
@state
def doctor(as_json: bool) -> None:
    """Show versions, devices, folders and extras.

    What to look at first, and what to send with a bug report.
    """
    from tlcli.cli import console

    with console.loading_keras():
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
