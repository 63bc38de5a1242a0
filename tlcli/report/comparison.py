"""Finished runs side by side, and the candidates of a comparison."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlcli.errors import RunError, TlcliError, UsageError
from tlcli.evaluate import run_folder
from tlcli.paths import write_json, write_text
from tlcli.recipe import baseline
from tlcli.recipe.load import load, render
from tlcli.recipe.schema import Recipe
from tlcli.recipe.space import as_yaml
from tlcli.report import record
from tlcli.report.folder import USAGE_EXIT_CODE, own_folder
from tlcli.report.record import RunRecord
from tlcli.text import why_unreadable
from tlcli.zoo import own

# Recipe keys that describe a run and do not affect it.
DESCRIPTIVE_KEYS = ("name", "description", "report")


def side_by_side(runs: Sequence[Path]) -> dict[str, Any]:
    """The JSON shape of `tlcli compare --json`: one row per run in the given order, the best run and the differences.

    The best run has the lowest validation loss, by which rounds and depths are chosen too; ties go to the highest
    validation accuracy. Test scores do not count.
    Runs with different splits are not ranked.

    Raises:
        UsageError: If a folder is not a complete run.
    """
    for run in runs:
        run_folder.require_complete(run)
    records = [record.read(run) for run in runs]
    splits = {_split_hash(run) for run in runs}
    rows = [summary_row(run_record, run) for run_record, run in zip(records, runs, strict=True)]
    return {
        "runs": rows,
        "same_split": len(splits) == 1,
        "best": rows[best_row(rows)]["run"] if len(splits) == 1 and rows[0]["val_accuracy"] is not None else None,
        "differences": differences([_with_card_name(run_record) for run_record in records]),
    }


def choose_complete(folders: Sequence[Path]) -> tuple[list[Path], dict[str, str]]:
    """The complete runs of several folders, as a pattern like runs/photos-* names them.

    Returns:
        The runs, and the other folders with reasons: bundles, searches, runs that are not complete.

    Raises:
        UsageError: If a folder does not exist, a record is damaged, or fewer than two runs are complete.
    """
    runs: list[Path] = []
    problems: dict[Path, UsageError] = {}
    for folder in folders:
        try:
            run_folder.require_complete(folder)
            runs.append(folder)
        except UsageError as error:
            # A record that is damaged is named itself.
            if not folder.is_dir() or error.where != str(folder):
                raise
            problems[folder] = error
    if problems and len(runs) < 2:
        raise next(iter(problems.values()))
    return runs, {str(folder): error.message for folder, error in problems.items()}


def summary_row(run: RunRecord, folder: Path) -> dict[str, Any]:
    """The main numbers of a run: accuracies (0-1), losses, seconds. Scores of an empty split are None."""
    kept = [step for step in run.phases if step["kept"]]
    scores = {name: run.scores.get(name, {}) for name in ("val", "test")}
    return {
        "run": str(folder),
        "recipe": run.recipe["name"],
        "model": run.model["name"],
        "trained_groups": max((step["trained_groups"] for step in kept), key=len, default=[]),
        "epochs": sum(step["epochs"] for step in run.phases),
        "val_accuracy": scores["val"].get("accuracy"),
        "val_loss": scores["val"].get("loss"),
        "test_accuracy": scores["test"].get("accuracy"),
        "test_loss": scores["test"].get("loss"),
        "test_count": scores["test"].get("count"),
        "seconds": run.seconds["total"],
    }


def best_row(rows: Sequence[dict[str, Any]]) -> int:
    """Index of the row with the lowest validation loss; ties go to the highest validation accuracy."""
    scored = [index for index, row in enumerate(rows) if row["val_loss"] is not None]
    return min(scored, key=lambda index: (rows[index]["val_loss"], -rows[index]["val_accuracy"]), default=0)


def differences(recipes: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Dotted keys whose values differ, each with one value per recipe; None for a recipe without the key."""
    flat = [dict(flattened(recipe)) for recipe in recipes]
    keys = dict.fromkeys(key for values in flat for key in values if key not in DESCRIPTIVE_KEYS)
    by_key = {key: [values.get(key) for values in flat] for key in keys}
    return {key: values for key, values in by_key.items() if any(value != values[0] for value in values)}


def flattened(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Dotted paths of all values in a recipe. Lists of plain values count as values."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in flattened(item, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [pair for index, item in enumerate(value) for pair in flattened(item, f"{path}.{index}")]
    return [(path, value)]


def brief(value: Any, limit: int) -> str:
    """A value of a recipe as YAML writes it, in at most `limit` characters; a dash for null or a missing key.

    >>> brief(True, 9), brief(["30%", "20%"], 12), brief(None, 9), brief(["30%", "20%"], 9)
    ('true', '[30%, 20%]', '–', '[30%, 20…')
    """
    text = "–" if value is None else as_yaml(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _with_card_name(run: RunRecord) -> dict[str, Any]:
    """The recipe of a run with the name of the card for the network, which has several spellings.

    Paths and addresses stay: other files may have the same name.
    """
    model = run.recipe.get("model", {})
    name = str(model.get("name"))
    same = [own.plain_name(str(run.model.get(key))) for key in ("name", "source")]
    same.append(same[1].partition(":")[2])
    if "/" in name or own.plain_name(name) not in same:
        return run.recipe
    return {**run.recipe, "model": {**model, "name": run.model.get("name")}}


def _split_hash(run: Path) -> str:
    """The sha256 of splits.csv: equal for equal images, classes and splits, wherever the image folder is."""
    return hashlib.sha256((run / "splits.csv").read_bytes()).hexdigest()


# Subfolders of the run folder of a comparison: for its runs and for their recipes.
RUNS, RECIPES = "compared", "recipes"
# Name of the recipe that a ladder was asked for.
ASKED = "asked"


@dataclass(frozen=True)
class Candidates:
    """The recipes that are compared in one run folder. Their names also name their recipe files and run folders.

    Attributes:
        out: The run folder of the comparison.
        names: Names of the recipes.
        strict: The option `--strict`.
        device: The option `--device`.
        is_ladder: True for the rungs of a ladder, which come one by one: recipes/asked.yaml is what was asked for.
        chosen_from: The networks that the network of the ladder was chosen from, for run.json.
    """

    out: Path
    names: tuple[str, ...]
    strict: bool
    device: str
    is_ladder: bool = False
    chosen_from: tuple[dict[str, Any], ...] = ()

    def folder(self, name: str) -> Path:
        """The run folder of a candidate."""
        return self.out / RUNS / name

    def is_complete(self, name: str) -> bool:
        """True if the run of a candidate is complete."""
        folder = self.folder(name)
        return (folder / "run.json").is_file() and record.read(folder).status == "complete"

    def split_source(self) -> Path | None:
        """The run folder whose split the other runs keep: the first that has one; None before that."""
        return next((run for run in map(self.folder, self.names) if (run / "splits.csv").is_file()), None)

    def recipe(self, name: str) -> str:
        """The file with the resolved recipe of a candidate."""
        return str(self.out / RECIPES / f"{name}.yaml")


def holds_candidates(folder: Path) -> bool:
    """True if a folder holds an unfinished comparison."""
    return (folder / run_folder.COMPARISON).is_file() and not (folder / "run.json").is_file()


def read_candidates(out: Path) -> Candidates:
    """Read the candidates of an unfinished comparison.

    Raises:
        RunError: If compare.json is damaged.
    """
    try:
        listed = json.loads((out / run_folder.COMPARISON).read_text(encoding="utf-8"))
        names, chosen_from = tuple(listed["recipes"]), tuple(listed.get("chosen_from", ()))
        return Candidates(out, names, listed["strict"], listed["device"], listed["ladder"], chosen_from)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"is damaged ({why_unreadable(error)})",
            where=str(out / run_folder.COMPARISON),
            hint="Start a new comparison.",
        ) from error


def add_candidate(ladder: Candidates, name: str, settings: Sequence[str]) -> Candidates:
    """Write the recipe of another rung: that of the ladder with these settings, `KEY=VALUE`. Returns all rungs."""
    write_text(Path(ladder.recipe(name)), render(load(ladder.recipe(ASKED), settings=settings)))
    longer = replace(ladder, names=(*ladder.names, name))
    _list(longer)
    return longer


def _list(candidates: Candidates) -> None:
    """Write compare.json."""
    listed = {"recipes": candidates.names, "strict": candidates.strict, "device": candidates.device}
    listed |= {"ladder": candidates.is_ladder, "chosen_from": candidates.chosen_from}
    write_json(candidates.out / run_folder.COMPARISON, listed)


@contextmanager
def write_candidates(candidates: Candidates, recipes: Sequence[Recipe], files: Sequence[Path] = ()) -> Iterator[None]:
    """Create the run folder of a comparison and write its candidates, so that it can be resumed.

    If the comparison is refused before a run has begun, the folder is removed.

    Args:
        candidates: The candidates.
        recipes: Their recipes.
        files: The files of the recipes, whose baselines go along; none for a ladder.

    Raises:
        OutputError: If the folder cannot be created or is already in use.
    """
    with own_folder(candidates.out, resume=False):
        try:
            (candidates.out / RECIPES).mkdir()
            names = (ASKED,) if candidates.is_ladder else candidates.names
            for name, recipe in zip(names, recipes, strict=True):
                write_text(Path(candidates.recipe(name)), render(recipe))
            for name, file in zip(candidates.names, files, strict=False):
                baseline.carry(file, Path(candidates.recipe(name)))
            _list(candidates)
            yield
        except TlcliError as error:
            if error.exit_code == USAGE_EXIT_CODE and not list(candidates.out.glob(f"{RUNS}/*/run.json")):
                shutil.rmtree(candidates.out / RUNS, ignore_errors=True)
                shutil.rmtree(candidates.out / RECIPES)
            raise
