"""Requests with `quality: best`, and the quick checks: without reading an image or loading Keras."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlcli.errors import UsageError
from tlcli.recipe.load import load
from tlcli.recipe.schema import Recipe
from tlcli.report import comparison
from tlcli.report.comparison import ASKED, Candidates
from tlcli.report.folder import own_folder
from tlcli.workflows.request import Request, free_folder, load_recipe, require_validation


def begun(request: Request) -> tuple[Candidates, Recipe]:
    """The ladder of a request without its rungs, and the recipe that is asked for.

    Raises:
        UsageError: If the ladder cannot judge its rungs.
    """
    recipe = load_recipe(request)
    require_validation(recipe, "quality best", "Leave data.val at 0.15, or use quality balanced.")
    if recipe.data.folds:
        hint = "Leave one out."
        raise UsageError("folds and quality best are two ways to use the images", where="data.folds", hint=hint)
    out = request.out or free_folder(recipe)
    chosen_from = request.chosen_from
    return Candidates(out, (), request.strict, request.device, is_ladder=True, chosen_from=chosen_from), recipe


def asked(candidates: Candidates) -> Recipe:
    """The recipe that an unfinished ladder was asked for."""
    return load(candidates.recipe(ASKED))


@contextmanager
def owned(candidates: Candidates, recipe: Recipe, *, resume: Path | None) -> Iterator[None]:
    """Create the folder of a ladder, or open an unfinished one, and lock it.

    Raises:
        OutputError: If the folder cannot be created or is already in use.
    """
    with own_folder(candidates.out, resume=True) if resume else comparison.write_candidates(candidates, [recipe]):
        yield
