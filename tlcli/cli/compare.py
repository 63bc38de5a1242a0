"""`tlcli compare`."""

from pathlib import Path

import click

from tlcli.cli.options import as_json, examples, state


@click.command(epilog=examples("compare runs/first runs/second", "compare runs/photos-*"))
@click.argument("runs", metavar="RUN…", type=click.Path(path_type=Path), nargs=-1, required=True)
@as_json
@state
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Put finished runs side by side.

    The best by validation images is marked where all saw the same split.
    """
    from tlcli.cli import console, tables
    from tlcli.report.comparison import side_by_side

    found = side_by_side(runs)
    if as_json:
        console.print_json(found)
    else:
        tables.print_comparison(found)
