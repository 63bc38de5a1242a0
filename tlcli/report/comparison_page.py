"""A page that compares finished runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlcli.evaluate.reliability import wilson
from tlcli.paths import write_text
from tlcli.report import record
from tlcli.report.comparison import brief, side_by_side
from tlcli.report.pages import render
from tlcli.report.score_sections import measure, percent

# Most classes in the table of recalls.
MAX_CLASSES = 40
# Longest value of a recipe, characters.
MAX_VALUE = 60


def write_comparison_page(runs: Sequence[Path], file: Path) -> None:
    """Write a page with the scores, the recalls of each class and the different settings of finished runs.

    Raises:
        UsageError: If a folder is not a complete run.
    """
    comparison = side_by_side(runs)
    rows = comparison["runs"]
    best = next((row for row in rows if row["run"] == comparison["best"]), None)
    values = {
        "title": f"Comparison of {len(rows)} runs",
        "rows": rows,
        "best": comparison["best"],
        "result": _result(best, comparison["same_split"]),
        "same_split": comparison["same_split"],
        "accuracies": [_accuracy(row) for row in rows],
        "names": [Path(row["run"]).name for row in rows],
        "recalls": _recalls(runs),
        "differences": [
            (key, [brief(value, MAX_VALUE) for value in found]) for key, found in comparison["differences"].items()
        ],
    }
    write_text(file, render("comparison.html", values))


def _result(best: dict[str, Any] | None, same_split: bool) -> str:
    if best is None:
        reason = "no run has validation images" if same_split else "their images or splits differ"
        return f"The runs cannot be ranked: {reason}."
    test = "" if best["test_accuracy"] is None else f", {percent(best['test_accuracy'])} on test images"
    loss = f"the lowest validation loss, {best['val_loss']:.4f}"
    return f"{Path(best['run']).name} is best by {loss}: {percent(best['val_accuracy'])} on validation images{test}."


def _accuracy(row: dict[str, Any]) -> dict[str, Any]:
    """The test accuracy of a run with its interval in percent; None for a run without test images."""
    name, accuracy, count = Path(row["run"]).name, row["test_accuracy"], row["test_count"]
    interval = None if accuracy is None else wilson(round(accuracy * count), count)
    return {"name": name, "measure": measure(accuracy, interval, digits=1)}


def _recalls(runs: Sequence[Path]) -> list[tuple[str, list[str]]]:
    """The recall of each class in percent, one per run, the most different first; test images, or else validation."""
    by_class: dict[str, list[float | None]] = {}
    for position, run in enumerate(runs):
        scores = record.read(run).scores
        for row in (scores.get("test") or scores.get("val") or {"per_class": []})["per_class"]:
            found = by_class.setdefault(row["name"], [None] * len(runs))
            found[position] = row["recall"] if row["support"] else None
    ordered = sorted(by_class.items(), key=lambda item: (-_spread(item[1]), item[0]))
    return [(name, [_percent(value) for value in found]) for name, found in ordered[:MAX_CLASSES]]


def _spread(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else 0.0


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}"
