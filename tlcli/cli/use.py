"""`tlcli evaluate`, `tlcli predict` and `tlcli compare`: what finished runs are good for."""

import csv
import sys
from pathlib import Path

import click

from tlcli.cli.options import as_json, examples, state


@click.command(epilog=examples("evaluate runs/first", "evaluate runs/first other-photos/ --json"))
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", required=False, type=click.Path(path_type=Path))
@as_json
@state
def evaluate(run: Path, data: Path | None, as_json: bool) -> None:
    """Score the classifier of RUN.

    On its own test images, or on DATA, a folder of class folders.
    """
    from tlcli.cli import console, progress, show

    _check_first(run)
    with console.loading_keras():
        from tlcli import use
    with progress.bar("scoring") as advance:
        scores, what, warning = use.evaluate(run, data, progress=advance)
    if warning:
        console.say(console.err(), console.safe(f"warning: {warning}", "yellow"))
    if as_json:
        console.print_json(scores.to_json())
    else:
        show.scores(scores.to_json(), what)


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

    _check_first(run)
    with console.loading_keras():
        from tlcli import use
    with progress.bar("predicting") as advance:
        rows = use.as_rows(list(use.predict_all(run, images, top=top, progress=advance)))
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


@click.command(epilog=examples("compare runs/first runs/second", "compare runs/photos-*"))
@click.argument("runs", metavar="RUN…", type=click.Path(path_type=Path), nargs=-1, required=True)
@as_json
@state
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Put finished runs side by side.

    The best by validation images is marked where all saw the same split.
    """
    from tlcli.cli import console, show
    from tlcli.report.compare import side_by_side

    found = side_by_side(runs)
    if as_json:
        console.print_json(found)
    else:
        show.comparison(found)


COMMANDS = (evaluate, predict, compare)


def _check_first(run: Path) -> None:
    """Tell at once, before Keras is loaded, that there is nothing to use."""
    from tlcli.report import record

    if not run.is_file():
        record.classifier_file(run)
