"""`tlcli inspect`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tlcli.cli.options import LOCAL, complete_model, cut_option, examples, global_options, trust_option
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
@click.argument("model", metavar="MODEL|RUN|FILE", required=False, shell_complete=complete_model)
@click.option(
    "--by",
    type=click.Choice(["group", "layer"]),
    default="group",
    show_default=True,
    help="Print one row per group or layer.",
)
@click.option("--train", "selection", metavar="SELECTION", help="Show what a selection trains, such as top:3.")
@click.option(
    "--batch-norm",
    type=click.Choice(["frozen", "affine", "train"]),
    help="With --train: BatchNorm policy. [default: the network's own]",
)
@click.option("--diff", nargs=2, metavar="A B", help="Compare the weights of two networks or runs.")
@click.option("--size", nargs=2, type=int, metavar="H W", help="Input height and width. [default: the network's own]")
@cut_option
@click.option(
    "--set",
    "settings",
    metavar="A.B=C",
    multiple=True,
    help="Set a value, such as model.arguments.alpha=0.35; repeatable.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "html"]),
    default="table",
    show_default=True,
    help="Output format.",
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("--out", "-o", type=LOCAL, help="Write json, csv or html to a file.")
@trust_option
@global_options
def inspect(
    model: str | None,
    by: str,
    selection: str | None,
    batch_norm: Literal["frozen", "affine", "train"] | None,
    diff: tuple[str, str] | None,
    size: tuple[int, int] | None,
    cut: str | None,
    settings: tuple[str, ...],
    form: str,
    as_json: bool,
    out: Path | None,
) -> None:
    """Show the layer groups of a network, bottom to top.

    Lists outputs, receptive fields, parameters and FLOPs (multiply-adds). With --train also the cost of each depth.
    """
    if as_json and form not in ("table", "json"):
        raise UsageError(f"cannot be combined with --format {form}", where="--json", hint="Give one of them.")
    form = "json" if as_json else form
    if batch_norm is not None and selection is None:
        raise UsageError("needs --train", where="--batch-norm", hint="For example: --train top:3.")
    if (model is None) == (diff is None):
        raise UsageError("give either MODEL or --diff A B")
    if out is not None and form == "table":
        raise UsageError("a table cannot be written to a file", where="--out", hint="Add --format html, csv or json.")
    if out is not None:
        require_new_file(out, "--out")
    from tlcli.report.target import InspectOptions

    options = InspectOptions(size, settings if cut is None else (*settings, f"model.cut={cut}"))
    if diff is not None:
        for option, is_given in (("--train", selection is not None), ("--format html", form == "html")):
            if is_given:
                hint = "--diff compares all groups, as table, json or csv."
                raise UsageError("cannot be combined with --diff", where=option, hint=hint)
        _print_changes(diff, options, by_layer=by == "layer", form=form, out=out)
        return
    from tlcli.workflows import inspect as workflow

    report = workflow.inspect(
        str(model), options, selection=selection, batch_norm=batch_norm, by_layer=by == "layer" or form == "html"
    )
    _print_report(report, "layers" if by == "layer" else "groups", form=form, out=out)


def _print_report(report: dict[str, Any], csv_rows: str, *, form: str, out: Path | None) -> None:
    """Print or write a layer report. `csv_rows`: the key of the rows for CSV, `groups` or `layers`."""
    if form == "table":
        from tlcli.cli import layer_tables

        layer_tables.print_layers(report)
        return
    if form == "html":
        from tlcli.cli import layer_page

        text = layer_page.render_page(report)
    else:
        from tlcli.report import layer_report

        text = layer_report.as_json(report) if form == "json" else layer_report.as_csv(report[csv_rows])
    _print_or_write(text, out)


def _print_or_write(text: str, out: Path | None) -> None:
    if out is None:
        click.echo(text, nl=False)
        return
    from tlcli.cli import console
    from tlcli.paths import write_text

    write_text(out, text)
    console.print_text(console.err(), console.safe(f"wrote {out}"))


def _print_changes(
    names: tuple[str, str], options: "InspectOptions", *, by_layer: bool, form: str, out: Path | None
) -> None:
    """Print or write the weight changes between two networks."""
    from tlcli.cli import console, layer_tables
    from tlcli.report.layer_report import as_csv, as_json
    from tlcli.workflows import inspect as workflow

    changes = workflow.compare_weights(names, options, by_layer=by_layer, loading=console.loading_keras)
    if form == "table":
        layer_tables.print_changes(changes)
    else:
        text = as_json(changes) if form == "json" else as_csv(changes.get("layers", changes["groups"]))
        _print_or_write(text, out)
