"""What `tlcli probe` is asked for, and everything that can be told of it before Keras is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli import prepare
from tlcli.errors import UsageError
from tlcli.output import require_new_file
from tlcli.prepare import Settled
from tlcli.recipe.schema import RANDOM

# Its one phase is a linear probe, so that what is set here means what it means to `finetune`.
RECIPE = "head-only"
FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Request:
    """What was asked for. None is: not said.

    Attributes:
        data: Folder of class folders.
        models: Networks, as after `--model` elsewhere; empty for the usual one.
        weights: A file, or `random`, instead of the network's own.
        settings: `KEY=VALUE` of a recipe, as after `--set` elsewhere.
        size: Input height and width, pixels.
        plot: Picture to draw.
        device: As after `--device` elsewhere.
        exclude: A list of images to leave out.
    """

    data: Path
    models: tuple[str, ...] = ()
    weights: str | None = None
    settings: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    plot: Path | None = None
    device: str = "auto"
    exclude: Path | None = None


def check(request: Request) -> list[Settled]:
    """One checked recipe for each network that was asked for: no image is read, no Keras loaded.

    Raises:
        TlcliError: For the first thing that is wrong.
    """
    models: Sequence[str | None] = list(dict.fromkeys(request.models)) or [None]
    if len(models) > 1 and request.weights not in (None, RANDOM):
        raise UsageError(
            f"one file fits one network (got {len(models)})",
            where="--weights",
            hint=f"Give one --model with it, card files with weights of their own, or: {RANDOM}.",
        )
    if request.plot is not None:
        _require_drawable(request.plot, request.data)
    recipes = [prepare.recipe_of(_as_finetune(request, model)) for model in models]
    prepare.check_images(recipes[0])
    return [prepare.settle(recipe) for recipe in recipes]


def _as_finetune(request: Request, model: str | None) -> prepare.Request:
    options: dict[str, Any] = {
        "data.path": str(request.data),
        "data.exclude": None if request.exclude is None else str(request.exclude),
        "data.size": None if request.size is None else list(request.size),
        "model.name": model,
        "model.weights": request.weights,
    }
    given = {key: value for key, value in options.items() if value is not None}
    return prepare.Request(recipe=RECIPE, settings=request.settings, options=given)


def _require_drawable(path: Path, data: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"the plot is one of {', '.join(FORMATS)} (got '{path.name}')", where="--plot")
    require_new_file(path, "--plot", outside=data)
