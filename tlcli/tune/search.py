"""A search and its folder: what was asked for, where its files lie, and tune.json."""

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tlcli.data.manifest import is_manifest
from tlcli.errors import TlcliError, UsageError
from tlcli.paths import write_json, write_text
from tlcli.recipe import load, space
from tlcli.recipe.schema import Recipe
from tlcli.recipe.space import Space
from tlcli.report.folder import RUNS, USAGE_EXIT_CODE, own_folder
from tlcli.text import why_unreadable

Sampler = Literal["tpe", "random", "grid"]
Metric = Literal["val_loss", "val_accuracy"]
# Trials that keep the files of their classifier.
KEPT = 3
RECORD = "tune.json"


@dataclass(frozen=True)
class Search:
    """A search that a user requests.

    Attributes:
        out: Its folder.
        trials: Most trials.
        sampler: How values are chosen: by a model of earlier trials (`tpe`), at random, or every combination.
        metric: What the best trial has the best of.
        seed: Start of all random numbers.
        jobs: Number of processes.
        budget_s: Time after which no trial starts, seconds; None for no limit.
        device: Where to train, as after `--device`.
        strict: True to refuse unreadable images instead of skipping them.
    """

    out: Path
    trials: int = 30
    sampler: Sampler = "tpe"
    metric: Metric = "val_loss"
    seed: int = 0
    jobs: int = 1
    budget_s: float | None = None
    device: str = "auto"
    strict: bool = False

    @property
    def recipe(self) -> Path:
        """The recipe of all trials, with the images of the search."""
        return self.out / "recipe.yaml"

    @property
    def best(self) -> Path:
        """The recipe of the best trial."""
        return self.out / "best.yaml"

    @property
    def best_run(self) -> Path:
        """The run folder of the best recipe, with its test scores."""
        return self.out / "best"

    @property
    def database(self) -> Path:
        """The study of Optuna."""
        return self.out / "study.db"

    def trial(self, number: int) -> Path:
        """The run folder of a trial, counted from 1."""
        return self.out / "trials" / f"{number:04}"

    def space(self) -> Space:
        """The search space."""
        return space.read(self.out / "space.yaml", load.load(str(self.recipe)))


def next_folder(data: Path) -> Path:
    """The folder `runs/<data>-tune-<n>` with `n` one above the highest in use."""
    name = data.resolve().stem if is_manifest(data) else data.resolve().name
    stem = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('-.')}-tune".lstrip("-")
    taken = (int(match[1]) for path in RUNS.glob(f"{stem}-*") if (match := re.fullmatch(r".*-(\d+)", path.name)))
    return RUNS / f"{stem}-{max(taken, default=0) + 1}"


@contextmanager
def begin(search: Search, recipe: Recipe, varied: Space) -> Iterator[None]:
    """Create the folder of a search and lock it. It is removed if the search is refused before a trial has ended.

    Raises:
        OutputError: If the folder cannot be created or is in use.
    """
    with own_folder(search.out, resume=False):
        try:
            write_text(search.recipe, load.render(recipe))
            write_text(search.out / "space.yaml", varied.text)
            write_record(search, {"status": "interrupted"})
            yield
        except TlcliError as error:
            if error.exit_code == USAGE_EXIT_CODE and not list(search.out.glob("trials/*/run.json")):
                shutil.rmtree(search.out / "trials", ignore_errors=True)
            raise


def write_record(search: Search, result: dict[str, Any]) -> dict[str, Any]:
    """Write tune.json, what was asked for and the result, and return it."""
    asked = {key: value for key, value in asdict(search).items() if key != "out"}
    content = {"search": asked, **result}
    write_json(search.out / RECORD, content)
    return content


def read_record(out: Path) -> dict[str, Any]:
    """The content of tune.json.

    Raises:
        UsageError: If the folder has none, or it is damaged.
    """
    file = out / RECORD
    if not file.is_file():
        hint = "Name the folder that `tlcli tune` printed."
        raise UsageError(f"is not the folder of a search: it has no {RECORD}", where=str(out), hint=hint)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        known = {field.name for field in fields(Search)}
        if not isinstance(content, dict) or not {*content["search"]} <= known:
            raise ValueError("not a search")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"is damaged ({why_unreadable(error)})", where=str(file), hint="Start a new search."
        ) from error
    return content


def unfinished(out: Path) -> Search:
    """The search of a folder, to resume it.

    Raises:
        UsageError: If the folder is not that of an unfinished search.
    """
    record = read_record(out)
    if record.get("status") == "complete":
        hint = "Its winner was scored on the test images, which happens once. Start a new search with another --out."
        raise UsageError("the search is complete", where=f"--resume {out}", hint=hint)
    return Search(out=out, **record["search"])


def discard_files(search: Search, numbers: Iterable[int]) -> None:
    """Remove the classifiers and checkpoints of ended trials, counted from 1."""
    for number in numbers:
        (search.trial(number) / "model.keras").unlink(missing_ok=True)
        shutil.rmtree(search.trial(number) / "checkpoint", ignore_errors=True)


def deadline(search: Search) -> float | None:
    """The time after which no trial starts, seconds of `time.monotonic`; None for no limit.

    All processes of a machine share that clock, and nobody sets it back.
    """
    return None if search.budget_s is None else time.monotonic() + search.budget_s
