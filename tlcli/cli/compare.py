"""`tlcli compare`."""

from pathlib import Path

import click

from tlcli.cli.options import RUN, examples, global_options, json_option


@click.command(epilog=examples("compare runs/first runs/second", "compare runs/photos-*"))
@click.argument("runs", metavar="RUN…", type=RUN, nargs=-1, required=True)
@json_option
@global_options
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Compare finished runs side by side.

    If all runs have the same split, the one with the lowest validation loss is marked. Folders that are not complete
    runs are left out.
    """
    from tlcli.cli import console, tables
    from tlcli.workflows import compare as workflow

    comparison = workflow.compare(runs)
    tables.warn_of_skipped(comparison["skipped"])
    if as_json:
        console.print_json(comparison)
    else:
        tables.print_comparison(comparison)
