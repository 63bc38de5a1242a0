"""What a user asks of a training command, and everything that is checked in a moment."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tlcli.errors import OutputError, RecipeError, UsageError
from tlcli.model.structure import measure_in_subprocess
from tlcli.paths import require_new_file
from tlcli.recipe import load
from tlcli.recipe.schema import RANDOM, Recipe
from tlcli.report import comparison, folder, record
from tlcli.report.comparison import Candidates
from tlcli.train.plan import TrainPlan
from tlcli.train.preparation import check_images, choose_network, data_root
from tlcli.zoo import catalogue, default
from tlcli.zoo.resolve import ResolvedRecipe, resolve


@dataclass(frozen=True)
class Request:
    """What was asked for: a recipe by name or file, settings as typed, and values of named options by recipe key."""

    recipe: str = load.DEFAULT
    settings: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False
    out: Path | None = None
    resume: Path | None = None
    device: str = "auto"


def check_request(request: Request) -> ResolvedRecipe:
    """Everything that can be told in a moment: no image is read, no Keras loaded.

    Which network stands for `auto` is decided here, once; it takes a question to a server where nothing nearer answers.

    Raises:
        TlcliError: For the first thing that is wrong.
    """
    recipe = load_recipe(request)
    check_images(recipe)
    if request.resume is None:
        _require_outside(request.out, data_root(recipe))
        if request.out is not None:
            folder.require_new(request.out)
    return resolve(recipe, needs_weights=request.resume is None)


def _require_outside(out: Path | None, data: Path) -> None:
    """Nothing is written into the image folder: a run in there would be taken for a class the next time."""
    place = out or folder.RUNS
    if place.resolve().is_relative_to(data.resolve()):
        raise OutputError(
            "the run folder would lie among the images",
            where=str(place),
            hint=f"Choose an --out outside {data}.",
        )


def load_recipe(request: Request) -> Recipe:
    """The checked recipe with its options and settings applied; of an unfinished run, the recipe it began with.

    Raises:
        RecipeError: With every problem of the recipe.
        UsageError: If there is nothing to resume.
    """
    if request.resume is None:
        return _absolute(load.load(request.recipe, settings=request.settings, options=request.options))
    if request.settings or request.options or request.out or request.recipe != load.DEFAULT:
        raise UsageError(
            "a resumed run keeps the folder and the recipe it began with",
            where="--resume",
            hint="Leave out DATA and all options that change the recipe or --out, or start a new run.",
        )
    if record.read(request.resume).status == "complete":
        raise UsageError(
            "the run is complete", where=f"--resume {request.resume}", hint="Start a new one with another --out."
        )
    return load.load(str(request.resume / "recipe.yaml"))


def _absolute(recipe: Recipe) -> Recipe:
    """The recipe with paths that hold from anywhere: it is written down, to be run again and resumed."""
    data, model = recipe.data, recipe.model
    keys = ("path", "val", "test", "exclude")
    folders = {key: _path(value) for key in keys if isinstance(value := getattr(data, key), Path)}
    files: dict[str, str] = {}
    if model.name != default.AUTO and catalogue.is_path(model.name):
        files["name"] = str(_path(model.name))
    if model.weights not in (None, RANDOM):
        files["weights"] = str(_path(str(model.weights)))
    changed = {"data": data.model_copy(update=folders), "model": model.model_copy(update=files)}
    return recipe.model_copy(update=changed)


def _path(written: str | Path) -> Path:
    return Path(written).expanduser().resolve()


def output_folder(request: Request, made: TrainPlan) -> Path:
    """The run folder: the one to resume, the one asked for, or the next free one under runs/."""
    return request.resume or request.out or free_folder(made.recipe)


def free_folder(recipe: Recipe) -> Path:
    """The next free run folder for these images and this network."""
    return folder.default_folder(data_root(recipe), catalogue.find(recipe.model.name).name)


def candidate_request(candidates: Candidates, name: str) -> Request:
    """The request that runs one candidate: a new run, or the resumption of its interrupted one.

    What a crash or a failure left behind that cannot be resumed is removed.
    """
    out = candidates.folder(name)
    if candidates.is_complete(name):
        raise RuntimeError(f"{name} is complete")
    if (out / "run.json").is_file() and record.read(out).status == "interrupted":
        return Request(strict=candidates.strict, device=candidates.device, resume=out)
    if out.is_dir():
        shutil.rmtree(out)
    return Request(recipe=candidates.recipe(name), strict=candidates.strict, device=candidates.device, out=out)


def check_candidates(request: Request, recipes: Sequence[str]) -> tuple[Candidates, list[ResolvedRecipe]]:
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
        if keys := list(comparison.differences(wanted)):
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


def _settled(request: Request, recipe: str) -> ResolvedRecipe:
    try:
        settled = check_request(replace(request, recipe=recipe))
    except RecipeError as error:
        # Options and settings are for all of them: which one it is that does not take them?
        raise UsageError(str(error), where=f"--compare {recipe}") from error
    choose_network(settled.recipe, measure=measure_in_subprocess)
    return settled


# The recipe of `tlcli probe`: its one phase is a linear probe.
PROBE_RECIPE = "head-only"
PLOT_FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class ProbeRequest:
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


def check_probe(request: ProbeRequest) -> list[ResolvedRecipe]:
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
    recipes = [load_recipe(_as_finetune(request, model)) for model in models]
    check_images(recipes[0])
    return [resolve(recipe) for recipe in recipes]


def _as_finetune(request: ProbeRequest, model: str | None) -> Request:
    options: dict[str, Any] = {
        "data.path": str(request.data),
        "data.exclude": None if request.exclude is None else str(request.exclude),
        "data.size": None if request.size is None else list(request.size),
        "model.name": model,
        "model.weights": request.weights,
    }
    given = {key: value for key, value in options.items() if value is not None}
    return Request(recipe=PROBE_RECIPE, settings=request.settings, options=given)


def _require_drawable(path: Path, data: Path) -> None:
    if path.suffix.lower() not in PLOT_FORMATS:
        raise UsageError(f"the plot is one of {', '.join(PLOT_FORMATS)} (got '{path.name}')", where="--plot")
    require_new_file(path, "--plot", outside=data)
