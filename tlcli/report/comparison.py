"""Runs side by side: their scores and differences, and the candidates of a comparison."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.errors import RunError, TlcliError
from tlcli.paths import write_json, write_text
from tlcli.recipe.load import render
from tlcli.recipe.schema import Recipe
from tlcli.report import record
from tlcli.report.folder import WRONG, own_folder
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
    rows = [summary_row(note, run) for note, run in zip(notes, runs, strict=True)]
    return {
        "runs": rows,
        "same_split": len(splits) == 1,
        "best": rows[best_row(rows)]["run"] if len(splits) == 1 and rows[0]["val_accuracy"] is not None else None,
        "differences": differences([note.recipe for note in notes]),
    }


def summary_row(note: RunRecord, run: Path) -> dict[str, Any]:
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


def best_row(rows: Sequence[dict[str, Any]]) -> int:
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


# Within the run folder of a comparison: the folder of all its runs, and that of their recipes.
RUNS, RECIPES = "compared", "recipes"


@dataclass(frozen=True)
class Candidates:
    """What is compared in a run folder: names of recipes, by which their files and run folders are called."""

    out: Path
    names: tuple[str, ...]
    strict: bool
    device: str

    def folder(self, name: str) -> Path:
        """The run folder of one."""
        return self.out / RUNS / name

    def is_complete(self, name: str) -> bool:
        """Whether one has run to its end."""
        folder = self.folder(name)
        return (folder / "run.json").is_file() and record.read(folder).status == "complete"

    def recipe(self, name: str) -> str:
        """The file with the recipe of one, as it was settled."""
        return str(self.out / RECIPES / f"{name}.yaml")


def holds_candidates(folder: Path) -> bool:
    """Whether a folder is that of a comparison which has not ended."""
    return (folder / record.COMPARISON).is_file() and not (folder / "run.json").is_file()


def read_candidates(out: Path) -> Candidates:
    """The candidates of a comparison that was begun.

    Raises:
        RunError: If its list is damaged.
    """
    try:
        found = json.loads((out / record.COMPARISON).read_text(encoding="utf-8"))
        return Candidates(out, tuple(found["recipes"]), found["strict"], found["device"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"is damaged ({error!r})", where=str(out / record.COMPARISON), hint="Start the comparison anew."
        ) from error


@contextmanager
def write_candidates(candidates: Candidates, recipes: Sequence[Recipe]) -> Iterator[None]:
    """Make the run folder and write down what is compared, so that it can be resumed; remove it if nothing began.

    Raises:
        OutputError: If it cannot be made, or belongs to something else.
    """
    with own_folder(candidates.out, resume=False):
        try:
            (candidates.out / RECIPES).mkdir()
            for name, recipe in zip(candidates.names, recipes, strict=True):
                write_text(Path(candidates.recipe(name)), render(recipe))
            listed = {"recipes": candidates.names, "strict": candidates.strict, "device": candidates.device}
            write_json(candidates.out / record.COMPARISON, listed)
            yield
        except TlcliError as error:
            if error.exit_code == WRONG and not list(candidates.out.glob(f"{RUNS}/*/run.json")):
                shutil.rmtree(candidates.out / RUNS, ignore_errors=True)
                shutil.rmtree(candidates.out / RECIPES)
            raise
