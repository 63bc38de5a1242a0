"""Requests of `tlcli probe`, and the quick checks: without reading an image or loading Keras."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.errors import UsageError
from tlcli.paths import require_new_file
from tlcli.recipe.schema import RANDOM, Recipe
from tlcli.train.preparation import check_images
from tlcli.workflows.request import Request, load_recipe, placed
from tlcli.zoo.resolve import ResolvedRecipe, resolve

# The recipe of `tlcli probe`. Its only phase is a linear probe.
PROBE_RECIPE = "head-only"
# Sections of a recipe that change a probe; the others are about training.
PROBE_SECTIONS = ("data", "model", "head", "performance", "seed")
PLOT_FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class ProbeRequest:
    """A probe that a user requests.

    Attributes:
        data: Folder of class folders.
        models: Networks, as after `--model`; empty for the default network.
        weights: A weights file or `random`; None for the pretrained weights.
        settings: `KEY=VALUE` settings for the recipe, as after `--set`.
        size: Input height and width, pixels; None for the size of the network.
        plot: File for a plot of accuracy over depth.
        device: Where to compute, as after `--device`.
        exclude: A list of images to leave out.
        cut: Layer whose output becomes that of the network; None for the whole network.
    """

    data: Path
    models: tuple[str, ...] = ()
    weights: str | None = None
    settings: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    plot: Path | None = None
    device: str = "auto"
    exclude: Path | None = None
    cut: str | None = None


def check_probe(request: ProbeRequest) -> list[ResolvedRecipe]:
    """Check a request and resolve one recipe per network, without reading an image or loading Keras.

    Raises:
        TlcliError: For the first problem.
    """
    models: Sequence[str | None] = list(dict.fromkeys(request.models)) or [None]
    if len(models) > 1 and request.weights not in (None, RANDOM):
        raise UsageError(
            f"a weights file fits one network (got {len(models)} networks)",
            where="--weights",
            hint=f"Name one --model, or card files with their own weights, or use --weights {RANDOM}.",
        )
    if request.plot is not None:
        _check_plot(request.plot, request.data)
    requests = [_finetune_request(request, model) for model in models]
    recipes = [load_recipe(one) for one in requests]
    _require_effect(request.settings)
    check_images(recipes[0])
    return [_resolved(*pair) for pair in zip(requests, recipes, strict=True)]


def _resolved(request: Request, recipe: Recipe) -> ResolvedRecipe:
    with placed(request):
        return resolve(recipe)


def _require_effect(settings: Sequence[str]) -> None:
    """Refuse settings that a probe would ignore, the time budget among them."""
    for text in settings:
        key = text.partition("=")[0].strip()
        if key == "performance.budget":
            hint = "Every image passes every network once; fewer of them, or a smaller --size, take less time."
            raise UsageError("a probe has no time budget", where=f"--set {text}", hint=hint)
        if key.partition(".")[0].partition("[")[0] not in PROBE_SECTIONS:
            hint = f"It takes keys of {', '.join(PROBE_SECTIONS)}."
            raise UsageError("has no effect on a probe", where=f"--set {text}", hint=hint)


def _finetune_request(request: ProbeRequest, model: str | None) -> Request:
    """The request to fine-tune one network with the settings of a probe."""
    options: dict[str, Any] = {
        "data.path": str(request.data),
        "data.exclude": None if request.exclude is None else str(request.exclude),
        "data.size": None if request.size is None else list(request.size),
        "model.name": model,
        "model.weights": request.weights,
        "model.cut": request.cut,
    }
    options = {key: value for key, value in options.items() if value is not None}
    return Request(recipe=PROBE_RECIPE, settings=request.settings, options=options)


def _check_plot(path: Path, data: Path) -> None:
    if path.suffix.lower() not in PLOT_FORMATS:
        raise UsageError(f"must end in {', '.join(PLOT_FORMATS)} (got '{path.name}')", where="--plot")
    require_new_file(path, "--plot", outside=data)
