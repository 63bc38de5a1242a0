"""Requests of `tlcli tune`, and the quick checks: without reading an image or loading Keras."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tlcli.errors import UsageError
from tlcli.model.structure import measure_in_subprocess
from tlcli.recipe import fields, space
from tlcli.recipe.schema import Recipe
from tlcli.recipe.space import Space
from tlcli.report.folder import require_idle
from tlcli.train.preparation import data_root
from tlcli.tune.search import Search, begin, next_folder, unfinished
from tlcli.workflows.request import (
    Request,
    check_request,
    load_recipe,
    network_of,
    networks_of,
    refuse_best,
    with_network,
)


def begun(
    request: Request, file: Path | None, asked: Mapping[str, Any], budget: str | None
) -> tuple[Search, AbstractContextManager[None]]:
    """A new search, and the context that creates and locks its folder.

    Args:
        request: The recipe with its settings and options.
        file: The file of the search space; None for the default one.
        asked: Attributes of the search by name.
        budget: Time after which no trial starts, such as `30m`.

    Raises:
        TlcliError: For the first problem.
    """
    if models := networks_of(request):
        request = with_network(request, models[0])
    resolved = check_request(request)
    refuse_best(resolved.recipe, where="--quality")
    if resolved.recipe.data.val == 0 and not resolved.recipe.data.folds:
        hint = "Leave data.val at 0.15, or use --folds."
        raise UsageError("data.val is 0, but validation images choose the best trial", where="DATA", hint=hint)
    recipe = _of_trials(load_recipe(request), chosen=resolved.recipe.model.name)
    varied = _space(file, recipe)
    if models:
        if varied.has("model.name"):
            raise UsageError("the space has model as well", where="--model", hint="Name the networks once.")
        for name in models:
            check_request(with_network(request, name))
        varied = space.of_models(varied, models)
    search = Search(out=request.out or next_folder(data_root(recipe)), device=request.device, strict=request.strict)
    search = replace(search, **asked, budget_s=_seconds(budget))
    search = _within_grid(search, varied)
    # Last, because it may load Keras in another process.
    network_of(request, resolved.recipe, measure=measure_in_subprocess)
    return search, begin(search, recipe, varied)


def resumed(out: Path, asked: Mapping[str, Any], budget: str | None) -> Search:
    """The unfinished search of a folder, with other limits if asked for.

    Raises:
        UsageError: If there is no unfinished search.
        OutputError: If the search is in progress.
    """
    search = replace(unfinished(out), **asked)
    require_idle(out)
    search = _within_grid(search, search.space())
    return replace(search, budget_s=_seconds(budget)) if budget else search


def _within_grid(search: Search, varied: Space) -> Search:
    """The search with no more trials than its grid has combinations, if it has one."""
    if search.sampler != "grid":
        return search
    return replace(search, trials=min(search.trials, len(varied.grid())))


def _of_trials(recipe: Recipe, *, chosen: str) -> Recipe:
    """The recipe of all trials: without page, expectations and a budget of each; the search has its own."""
    performance = recipe.performance.model_copy(update={"budget": None})
    model = recipe.model.model_copy(update={"name": chosen})
    told = {"report": False, "expect": [], "performance": performance, "model": model}
    return recipe.model_copy(update=told)


def _space(file: Path | None, recipe: Recipe) -> Space:
    """The search space, checked with the recipe."""
    if file is None:
        return space.parse(space.default_text(recipe), recipe, origin="the default space")
    return space.read(file, recipe)


def _seconds(budget: str | None) -> float | None:
    """The seconds of a time such as `10m`; None without one.

    Raises:
        UsageError: If it is no time.
    """
    if budget is None:
        return None
    try:
        return fields.seconds_of(fields.checked_duration(budget))
    except ValueError as error:
        raise UsageError(str(error), where="--budget") from error
