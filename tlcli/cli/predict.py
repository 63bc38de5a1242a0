"""`tlcli predict`."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tlcli.cli.options import examples, global_options, json_option, trust_option


@click.command(epilog=examples("predict runs/first cat.jpg", "predict runs/first new/ 'more/**/*.png' --top 3 --csv"))
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE…", nargs=-1, required=True)
@click.option("--top", "-k", type=click.IntRange(1), default=1, show_default=True, help="Number of classes per image.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout.")
@json_option
@trust_option
@global_options
def predict(run: Path, images: tuple[str, ...], top: int, as_csv: bool, as_json: bool) -> None:
    """Predict the classes of images.

    IMAGE is a file, a folder or a glob pattern. An image that cannot be read is named, and the exit code is 1.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    from tlcli.cli import console, progress
    from tlcli.evaluate.runtimes import require_model

    require_model(run)
    with console.loading_keras():
        from tlcli.evaluate.predict import as_rows
        from tlcli.workflows import predict as workflow
    with progress.bar("predicting") as advance:
        rows = as_rows(list(workflow.predict(run, images, top=top, progress=advance)))
    if as_json:
        console.print_json(rows)
    elif as_csv:
        _print_csv(rows)
    else:
        _print_lines(rows)
    if unread := sum("error" in row for row in rows):
        summary = f"{len(rows) - unread} of {len(rows)} predicted, {unread} not read"
        console.print_text(console.err(), console.safe(summary, "red"))
        raise click.exceptions.Exit(1)


def _print_csv(rows: Sequence[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "label", "probability", "error"])
    for row in rows:
        for rank, prediction in enumerate(row.get("top", ()), start=1):
            writer.writerow([row["path"], rank, prediction["label"], f"{prediction['probability']:.6f}", ""])
        if "error" in row:
            writer.writerow([row["path"], "", "", "", row["error"]])


def _print_lines(rows: Sequence[dict[str, Any]]) -> None:
    from tlcli.cli import console

    for row in rows:
        top = "  ".join(f"{prediction['label']} {prediction['probability']:.1%}" for prediction in row.get("top", ()))
        console.out().print(console.safe(f"{row['path']}  ") + console.safe(top or row["error"], "" if top else "red"))
