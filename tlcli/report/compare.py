"""Runs side by side: their scores, whether they saw the same images, and which of them is best."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlcli.report import record
from tlcli.report.record import RunRecord

# Recipe keys that name or describe a run instead of deciding it.
NAMES = ("name", "description")


def side_by_side(runs: Sequence[Path]) -> dict[str, Any]:
    """The JSON shape of `tlcli compare --json`: a row for each run in the order given, and what they have in common.

    One run alone that came out of a comparison stands for all that were compared.

    The best is the one of the highest validation accuracy, of several the one of the lowest validation loss; the test
    images have no say. Runs of different splits are not ranked.

    Raises:
        UsageError: If one is no complete run.
    """
    for run in runs:
        record.require_complete(run)
    if len(runs) == 1 and (compared := record.read(runs[0]).compared):
        inside = runs[0] / Path(compared[0]["run"]).parent.name
        return side_by_side([inside / Path(row["run"]).name for row in compared])
    notes = [record.read(run) for run in runs]
    splits = {_split_of(run) for run in runs}
    rows = [row(note, run) for note, run in zip(notes, runs, strict=True)]
    return {
        "runs": rows,
        "same_split": len(splits) == 1,
        "best": rows[best(rows)]["run"] if len(splits) == 1 and rows[0]["val_accuracy"] is not None else None,
        "differences": differences([note.recipe for note in notes]),
    }


def row(note: RunRecord, run: Path) -> dict[str, Any]:
    """One run in numbers: accuracies 0-1, losses, seconds; None where a run has no such images."""
    kept = [phase for phase in note.phases if phase["kept"]]
    scores = {name: note.scores.get(name, {}) for name in ("val", "test")}
    return {
        "run": str(run),
        "recipe": note.recipe["name"],
        "model": note.model["name"],
        "trained_groups": max((phase["trained_groups"] for phase in kept), key=len, default=[]),
        "epochs": sum(phase["epochs"] for phase in note.phases),
        "val_accuracy": scores["val"].get("accuracy"),
        "val_loss": scores["val"].get("loss"),
        "test_accuracy": scores["test"].get("accuracy"),
        "test_loss": scores["test"].get("loss"),
        "test_count": scores["test"].get("count"),
        "seconds": note.seconds["total"],
    }


def best(rows: Sequence[dict[str, Any]]) -> int:
    """Index of the row of the highest validation accuracy, of several the one of the lowest loss."""
    return max(
        range(len(rows)), key=lambda index: (rows[index]["val_accuracy"] or 0.0, -(rows[index]["val_loss"] or 0.0))
    )


def differences(recipes: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """By dotted key, the values of each recipe, where they are not all the same; None where it has no such key."""
    flat = [dict(_flat(recipe)) for recipe in recipes]
    keys = dict.fromkeys(key for each in flat for key in each if key not in NAMES)
    found = {key: [each.get(key) for each in flat] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, each in value.items() for pair in _flat(each, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return [pair for index, each in enumerate(value) for pair in _flat(each, f"{path}.{index}")]
    return [(path, value)]


def _split_of(run: Path) -> str:
    """What tells the splits of two runs apart: which content of which class is where, not where the folder lies."""
    return hashlib.sha256((run / "splits.csv").read_bytes()).hexdigest()
