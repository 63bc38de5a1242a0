"""`tlcli inspect`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tlcli.cli.options import examples, state
from tlcli.errors import UsageError
from tlcli.paths import require_new_file

if TYPE_CHECKING:
    from tlcli.report.target import InspectOptions


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
    from tlcli.report.target import InspectOptions

    options = InspectOptions(size, settings)
    if diff is not None:
        for option, is_given in (("--train", selection is not None), ("--format html", form == "html")):
            if is_given:
                hint = "Leave it out: a comparison is of all groups, as a table, json or csv."
                raise UsageError("does not go with --diff", where=option, hint=hint)
        _show_changes(diff, options, by_layer=by == "layer", form=form, out=out)
        return
    from tlcli.workflows import inspect as workflow

    found = workflow.inspect(
        str(model), options, selection=selection, batch_norm=batch_norm, by_layer=by == "layer" or form == "html"
    )
    _show(found, "layers" if by == "layer" else "groups", form=form, out=out)


def _show(found: dict[str, Any], rows: str, *, form: str, out: Path | None) -> None:
    if form == "table":
        from tlcli.cli import layer_tables

        layer_tables.print_layers(found)
        return
    if form == "html":
        from tlcli.cli import layer_page

        text = layer_page.page(found)
    else:
        from tlcli.report import layer_report

        text = layer_report.as_json(found) if form == "json" else layer_report.as_csv(found[rows])
    _deliver(text, out)


def _deliver(text: str, out: Path | None) -> None:
    if out is None:
        click.echo(text, nl=False)
        return
    from tlcli.cli import console
    from tlcli.paths import write_text

    write_text(out, text)
    console.say(console.err(), console.safe(f"written: {out}"))


def _show_changes(
    names: tuple[str, str], options: "InspectOptions", *, by_layer: bool, form: str, out: Path | None
) -> None:
    from tlcli.cli import console, layer_tables
    from tlcli.report.layer_report import as_csv, as_json
    from tlcli.workflows import inspect as workflow

    found = workflow.compare_weights(names, options, by_layer=by_layer, loading=console.loading_keras)
    if form == "table":
        layer_tables.print_changes(found)
    else:
        _deliver(as_json(found) if form == "json" else as_csv(found.get("layers", found["groups"])), out)
