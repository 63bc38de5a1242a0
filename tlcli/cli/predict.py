"""`tlcli predict`."""

import csv
import sys
from pathlib import Path

import click

from tlcli.cli.options import as_json, examples, state


@click.command(epilog=examples("predict runs/first cat.jpg", "predict runs/first new/ 'more/**/*.png' --top 3 --csv"))
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE…", nargs=-1, required=True)
@click.option("--top", "-k", type=click.IntRange(1), default=1, show_default=True, help="Classes to name per picture.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout.")
@as_json
@state
def predict(run: Path, images: tuple[str, ...], top: int, as_csv: bool, as_json: bool) -> None:
    """Name the class of pictures: paths, folders and globs.

    Exit code 1 if any could not be read.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    from tlcli.cli import console, progress
    from tlcli.report.record import require_classifier

    require_classifier(run)
    with console.loading_keras():
        from tlcli.evaluate.predict import as_rows
        from tlcli.workflows import predict as workflow
    with progress.bar("predicting") as advance:
        rows = as_rows(list(workflow.predict(run, images, top=top, progress=advance)))
    if as_json:
        console.print_json(rows)
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["path", "rank", "label", "probability", "error"])
        for row in rows:
            for rank, guess in enumerate(row.get("top", ()), start=1):
                writer.writerow([row["path"], rank, guess["label"], f"{guess['probability']:.6f}", ""])
            if "error" in row:
                writer.writerow([row["path"], "", "", "", row["error"]])
    else:
        for row in rows:
            guesses = "  ".join(f"{guess['label']} {guess['probability']:.1%}" for guess in row.get("top", ()))
            line = console.safe(f"{row['path']}  ") + console.safe(guesses or row["error"], "" if guesses else "red")
            console.out().print(line)
    if any("error" in row for row in rows):
        raise click.exceptions.Exit(1)
