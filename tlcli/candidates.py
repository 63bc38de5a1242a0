"""Recipes that are to be compared: checked all before the first of them runs, and written down to be found again."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tlcli.errors import RecipeError, RunError, TlcliError, UsageError
from tlcli.paths import write_json, write_text
from tlcli.prepare import Request, Settled, check_first, choose, free_folder, groups_without_keras
from tlcli.recipe.load import render
from tlcli.report import compare, record
from tlcli.report import folder as folder_of_run

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

    def request(self, name: str) -> Request:
        """One as it is to be run now: anew, or taken up where it was interrupted.

        What a crash or a failure left of it before there was anything to resume is removed.
        """
        folder = self.folder(name)
        if (folder / "run.json").is_file() and record.read(folder).status == "interrupted":
            return Request(strict=self.strict, device=self.device, resume=folder)
        if self.is_complete(name):
            raise RuntimeError(f"{name} has run to its end")
        if folder.is_dir():
            shutil.rmtree(folder)
        return Request(recipe=self.recipe(name), strict=self.strict, device=self.device, out=folder)


def are_in(folder: Path) -> bool:
    """Whether a folder is that of a comparison which has not ended."""
    return (folder / record.COMPARISON).is_file() and not (folder / "run.json").is_file()


def find(out: Path) -> Candidates:
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


def check(request: Request, recipes: Sequence[str]) -> tuple[Candidates, list[Settled]]:
    """Check every recipe as if it were to run alone, and that all use the images alike and can be judged by them.

    Raises:
        TlcliError: For the first thing that is wrong.
    """
    names = _names(recipes)
    settled = [_settled(request, recipe) for recipe in recipes]
    first = settled[0].recipe
    if first.data.val == 0:
        raise UsageError(
            "the best is chosen by validation images, and data.val is 0",
            where="--compare",
            hint="Leave data.val at 0.15, or run the recipes one by one.",
        )
    for name, each in zip(names, settled, strict=True):
        wanted = [part.data.model_dump(mode="json") for part in (first, each.recipe)]
        if keys := list(compare.differences(wanted)):
            raise UsageError(
                f"{names[0]} and {name} use the images differently (data.{', data.'.join(keys)})",
                where="--compare",
                hint=f"Give all the same, for example: --set data.{keys[0]}={getattr(first.data, keys[0], '…')}",
            )
    out = request.out or free_folder(first)
    return Candidates(out, tuple(names), request.strict, request.device), settled


def _names(recipes: Sequence[str]) -> list[str]:
    """What the recipes are called by."""
    names = [Path(recipe).stem for recipe in recipes]
    if len(names) < 2:
        raise UsageError(
            f"takes two recipes or more (got {', '.join(recipes) or 'none'})",
            where="--compare",
            hint="For example: --compare head-only,two-phase,unfreeze-until-plateau,full",
        )
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"two recipes are called '{doubled}', and their runs are told apart by that",
            where="--compare",
            hint="Name each once; give one of two files another name.",
        )
    return names


def _settled(request: Request, recipe: str) -> Settled:
    try:
        settled = check_first(replace(request, recipe=recipe))
    except RecipeError as error:
        # Options and settings are for all of them: which one it is that does not take them?
        raise UsageError(str(error), where=f"--compare {recipe}") from error
    choose(settled.recipe, measure=groups_without_keras)
    return settled


@contextmanager
def written(candidates: Candidates, settled: Sequence[Settled]) -> Iterator[None]:
    """Make the run folder and write down what is compared, so that it can be resumed; remove it if nothing began.

    Raises:
        OutputError: If it cannot be made, or belongs to something else.
    """
    with folder_of_run.owned(candidates.out, resume=False):
        try:
            (candidates.out / RECIPES).mkdir()
            for name, each in zip(candidates.names, settled, strict=True):
                write_text(Path(candidates.recipe(name)), render(each.recipe))
            listed = {"recipes": candidates.names, "strict": candidates.strict, "device": candidates.device}
            write_json(candidates.out / record.COMPARISON, listed)
            yield
        except TlcliError as error:
            if error.exit_code == folder_of_run.WRONG and not list(candidates.out.glob(f"{RUNS}/*/run.json")):
                shutil.rmtree(candidates.out / RUNS, ignore_errors=True)
                shutil.rmtree(candidates.out / RECIPES)
            raise
