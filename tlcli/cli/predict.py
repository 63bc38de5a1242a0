"""`tlcli predict`."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from tlcli.cli.options import LOCAL, RUN, examples, global_options, json_option, trust_option, tta_option
from tlcli.text import encodable, spreadsheet_cell

Row = dict[str, Any]


@click.command(
    epilog=examples(
        "predict runs/first cat.jpg",
        "predict runs/first new/ 'more/**/*.png' --top 3 --csv",
        "predict runs/first-onnx new/ --min-confidence 0.8 --sort-into sorted/",
    )
)
@click.argument("run", type=RUN)
@click.argument("images", metavar="IMAGE…", nargs=-1, required=True)
@click.option("--top", "-k", type=click.IntRange(1), default=1, show_default=True, help="Number of classes per image.")
@click.option(
    "--min-confidence",
    metavar="P",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Below this probability, the label is 'unsure'.",
)
@tta_option
@click.option("--sort-into", metavar="DIR", type=LOCAL, help="Copy the images into one folder per class.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout.")
@click.option("--jsonl", "as_lines", is_flag=True, help="Print one JSON document per image on stdout.")
@json_option
@trust_option
@global_options
def predict(
    run: Path,
    images: tuple[str, ...],
    top: int,
    min_confidence: float,
    tta: int,
    sort_into: Path | None,
    as_csv: bool,
    as_lines: bool,
    as_json: bool,
) -> None:
    """Predict the classes of images.

    RUN is a run, a bundle of `tlcli export`, or a file of either. IMAGE is a file, a folder or a glob pattern. An image
    that cannot be read is named, and the exit code is 1.
    """
    if as_csv + as_lines + as_json > 1:
        raise click.UsageError("--csv, --jsonl and --json exclude each other.")
    from tlcli.cli import console
    from tlcli.evaluate.runtimes import import_keras_for, require_model

    require_model(run)
    with console.loading_keras():
        from tlcli.evaluate.predict import as_row
        from tlcli.workflows import predict as workflow

        import_keras_for(run)
    request = workflow.PredictRequest(run, images, top, min_confidence, tta, sort_into)
    with _progress(prints_while_running=not as_json) as advance:
        tally = Tally(map(as_row, workflow.predict(request, progress=advance)))
        if as_csv:
            _print_csv(tally)
        elif as_lines:
            _print_json_lines(tally)
        elif as_json:
            rows = list(tally)
        else:
            _print_lines(tally)
    if as_json:
        console.print_json(rows)
    if tally.unread:
        summary = f"{tally.total - tally.unread} of {tally.total} predicted, {tally.unread} not read"
        console.print_text(console.err(), console.safe(summary, "red"))
        raise click.exceptions.Exit(1)


class Tally:
    """Counts rows while they are printed."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self.rows = rows
        self.total = self.unread = 0

    def __iter__(self) -> Iterator[Row]:
        """The rows, counted."""
        for row in self.rows:
            self.total += 1
            self.unread += "error" in row
            yield row


def _progress(*, prints_while_running: bool) -> AbstractContextManager[Callable[[int, int], None]]:
    """The progress bar; none where its lines would mix with results on the same terminal."""
    from tlcli.cli import progress

    if prints_while_running and sys.stdout.isatty():
        return nullcontext(lambda done, total: None)
    return progress.bar("predicting")


def _print_csv(rows: Iterable[Row]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "label", "probability", "error", "unsure"])
    for row in rows:
        path = spreadsheet_cell(row["path"])
        for rank, prediction in enumerate(row.get("top", ()), start=1):
            label, unsure = spreadsheet_cell(prediction["label"]), str(row["label"] != row["top"][0]["label"]).lower()
            writer.writerow([path, rank, label, f"{prediction['probability']:.6f}", "", unsure])
        if "error" in row:
            writer.writerow([path, "", "", "", spreadsheet_cell(row["error"]), ""])


def _print_json_lines(rows: Iterable[Row]) -> None:
    for row in rows:
        sys.stdout.write(encodable(json.dumps(row, ensure_ascii=False)) + "\n")


def _print_lines(rows: Iterable[Row]) -> None:
    from tlcli.cli import console

    for row in rows:
        top = "  ".join(f"{prediction['label']} {prediction['probability']:.1%}" for prediction in row.get("top", ()))
        if top and row["label"] != row["top"][0]["label"]:
            top = f"{row['label']}  {top}"
        said = console.safe(top) if top else console.safe(f"error: {row['error']}", "red")
        console.out().print(console.safe(f"{row['path']}  ") + said)
