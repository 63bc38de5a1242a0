"""`tlcli evaluate`."""

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlcli.cli.options import LOCAL, LOCATION, RUN, examples, global_options, json_option, trust_option, tta_option
from tlcli.text import spreadsheet_cell

if TYPE_CHECKING:
    from tlcli.evaluate.evaluation import Evaluation


@click.command(
    epilog=examples(
        "evaluate runs/first",
        "evaluate runs/first other-photos/ --json",
        "evaluate runs/first-onnx other-photos/ --html scores.html",
    )
)
@click.argument("run", type=RUN)
@click.argument("data", required=False, type=LOCATION)
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV line per image on stdout.")
@click.option("--html", metavar="FILE", type=LOCAL, help="Write a page with the wrong labels.")
@tta_option
@json_option
@trust_option
@global_options
def evaluate(run: Path, data: Path | None, as_csv: bool, html: Path | None, tta: int, as_json: bool) -> None:
    """Score the classifier of a run.

    Uses the test images of RUN, or those in DATA, a folder of class folders or a manifest, which need not have all
    classes. RUN may also be a bundle of `tlcli export`, or a classifier file. An image that cannot be read is named and
    left out, and the exit code is 1.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    from tlcli.cli import console, progress, tables
    from tlcli.evaluate.runtimes import import_keras_for, require_model
    from tlcli.paths import require_new_file

    if html is not None:
        require_new_file(html, "--html", outside=data)
    require_model(run)
    with console.loading_keras():
        from tlcli.workflows import evaluate as workflow

        import_keras_for(run)
    with progress.bar("scoring") as advance:
        evaluation = workflow.evaluate(run, data, html=html, tta=tta, progress=advance)
    if evaluation.trained:
        total = evaluation.scores.count
        text = f"warning: the run was trained on {evaluation.trained} of these {total} images: the scores are too high"
        console.print_text(console.err(), console.safe(text, "yellow"))
    for path, reason in evaluation.unreadable:
        console.print_text(console.err(), console.safe(f"warning: skipped {path}: {reason}", "yellow"))
    if as_json:
        console.print_json(evaluation.to_json())
    elif as_csv:
        _print_csv(evaluation)
    else:
        tables.print_scores(evaluation.to_json(), evaluation.title)
        if html is not None:
            console.out().print()
            console.out().print(console.safe(f"page       {html}"))
    if unread := len(evaluation.unreadable):
        summary = f"{evaluation.scores.count} of {evaluation.scores.count + unread} scored, {unread} not read"
        console.print_text(console.err(), console.safe(summary, "red"))
        raise click.exceptions.Exit(1)


def _print_csv(evaluation: "Evaluation") -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "label", "predicted", "probability", "correct"])
    for row in evaluation.rows:
        names = [spreadsheet_cell(row[key]) for key in ("path", "label", "predicted")]
        writer.writerow([*names, f"{row['probability']:.6f}", str(row["correct"]).lower()])
