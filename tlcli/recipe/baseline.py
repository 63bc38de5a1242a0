"""The baseline of recipes: the numbers of an earlier run, committed beside them, that new runs are compared with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlcli.errors import Problem, RecipeError
from tlcli.paths import bundled, write_json
from tlcli.text import why_unreadable

FILE = "baseline.json"
# Scores with a number per pair of classes would make long differences in version control.
_LEFT_OUT = ("confusion", "classes")


def read(recipe: Path) -> dict[str, Any]:
    """The numbers of the baseline of a recipe file, in the form of run.json; empty if there is none.

    Raises:
        RecipeError: If baseline.json is damaged.
    """
    entry = _read_all(recipe.parent / FILE).get(recipe.name, {})
    return dict(entry)


def write(recipe: Path, record: Mapping[str, Any]) -> Path:
    """Put the numbers of a run into the baseline.json beside its recipe; those of other recipes stay.

    Args:
        recipe: The recipe file.
        record: The content of run.json.

    Returns:
        The file.

    Raises:
        RecipeError: If baseline.json is damaged, or the recipe is bundled with tlcli.
    """
    require_own(recipe)
    file = recipe.parent / FILE
    entries = _read_all(file)
    scores = {split: _kept(numbers) for split, numbers in record["scores"].items()}
    entries[recipe.name] = {"scores": scores, "seconds": {"total": record["seconds"]["total"]}}
    write_json(file, {"baseline": 1, "recipes": dict(sorted(entries.items()))})
    return file


def carry(recipe: Path, copy: Path) -> None:
    """Give a copy of a recipe, a file in another folder, the numbers of the recipe's baseline, if it has one.

    Raises:
        RecipeError: If a baseline.json is damaged.
    """
    if numbers := read(recipe):
        file = copy.parent / FILE
        write_json(file, {"baseline": 1, "recipes": {**_read_all(file), copy.name: numbers}})


def require_own(recipe: Path) -> None:
    """Refuse a bundled recipe, which has no folder of the user.

    Raises:
        RecipeError: If the recipe is bundled with tlcli.
    """
    if recipe.parent == bundled("recipes"):
        hint = f"Copy it first: tlcli recipe copy {recipe.stem}."
        raise RecipeError([Problem(recipe.stem, "a bundled recipe has no baseline of its own", hint)])


def _read_all(file: Path) -> dict[str, Any]:
    """The numbers of all recipes, by the names of their files."""
    hint = "Restore it, or remove it and run: tlcli recipe run RECIPE --update-baseline."
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["recipes"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecipeError([Problem(str(file), f"is not a baseline ({why_unreadable(error)})", hint)]) from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise RecipeError([Problem(str(file), "is not a baseline (its recipes must be keys and values)", hint)])
    return entries


def _kept(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores without those that are left out. Not rounded: an equal result must not be below the baseline."""
    return {name: value for name, value in scores.items() if name not in _LEFT_OUT}
