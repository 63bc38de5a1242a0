"""Requests of the training commands, and the quick checks: without reading an image or loading Keras."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tlcli.errors import DataError, OutputError, Problem, RecipeError, UsageError
from tlcli.evaluate.runtimes import class_names, require_model
from tlcli.model.structure import Measure, measure_in_subprocess
from tlcli.paths import require_new_file
from tlcli.recipe import baseline, expectation, load
from tlcli.recipe.placed import placed as in_recipe
from tlcli.recipe.schema import RANDOM, Recipe
from tlcli.report import comparison, folder, record
from tlcli.report.comparison import Candidates
from tlcli.storage.location import locate
from tlcli.train.plan import TrainPlan
from tlcli.train.preparation import (
    ChosenNetwork,
    Prepared,
    check_images,
    choose_network,
    data_root,
    without_test,
)
from tlcli.zoo import catalogue, default
from tlcli.zoo.resolve import ResolvedRecipe, resolve


@dataclass(frozen=True)
class Request:
    """A run that a user requests.

    Attributes:
        recipe: Name or file of the recipe.
        settings: `KEY=VALUE` settings for the recipe, as after `--set`.
        options: Values of command-line options, by recipe key.
        strict: True to refuse unreadable images instead of skipping them.
        out: The run folder; None for the next free one.
        resume: The run folder to resume.
        same_split_as: A run folder on the same images, whose split is kept.
        device: Where to train, as after `--device`.
        hides_test: True to leave the test images out of scores and files, as trials of a search do.
        place: Where the run folder will lie, if that is not on this machine.
        joins_hosts: True to train together with the other hosts that the variables of Keras name.
        chosen_from: The networks that the network of the recipe was chosen from, for run.json.
    """

    recipe: str = load.DEFAULT
    settings: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False
    out: Path | None = None
    resume: Path | None = None
    same_split_as: Path | None = None
    device: str = "auto"
    hides_test: bool = False
    place: Path | None = None
    joins_hosts: bool = False
    chosen_from: tuple[dict[str, Any], ...] = ()


def check_request(request: Request) -> ResolvedRecipe:
    """Check a request and resolve its recipe, without reading an image or loading Keras.

    Raises:
        TlcliError: For the first problem.
    """
    with placed(request):
        recipe = load_recipe(request)
        check_images(recipe)
        if recipe.teacher is not None:
            require_model(recipe.teacher.run)
        if request.resume is None:
            _require_outside(request.out, data_root(recipe))
            if request.out is not None:
                folder.require_new(request.out)
        return resolve(recipe, needs_weights=request.resume is None)


def placed(request: Request) -> AbstractContextManager[None]:
    """Errors within the context say where in the recipe, or by which option, their value or file was given."""
    if request.resume is not None:
        return nullcontext()
    return in_recipe(request.recipe, settings=request.settings, options=request.options)


def require_same_classes(plan: TrainPlan) -> None:
    """Check that the teacher of a plan, if there is one, has the classes of the images.

    Raises:
        DataError: If it has others.
    """
    if plan.recipe.teacher is None:
        return
    path = plan.recipe.teacher.run
    own, taught = set(plan.classes), set(class_names(path))
    if own != taught:
        parts = [("only of the teacher", taught - own), ("only of the images", own - taught)]
        listed = "; ".join(f"{where}: {', '.join(sorted(names))}" for where, names in parts if names)
        raise DataError(
            f"the teacher {path} has other classes ({listed})",
            where="teacher.run",
            hint="Name a run on the same classes, or choose them with data.classes.",
        )


def check_sheet(path: Path, resolved: ResolvedRecipe) -> None:
    """Check that the file of an augmentation sheet can be written.

    Raises:
        UsageError: If it does not end in .png.
        OutputError: If it exists, lies in the image folder, or cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"must end in .png (got '{path.name}')", where="--augment-sheet")
    require_new_file(path, "--augment-sheet", outside=data_root(resolved.recipe))


def _require_outside(out: Path | None, data: Path) -> None:
    """Refuse a run folder inside the image folder: the next run would read it as a class."""
    run = out or folder.RUNS
    if run.resolve().is_relative_to(data.resolve()):
        raise OutputError("is inside the image folder", where=str(run), hint=f"Choose an --out outside {data}.")


def load_recipe(request: Request) -> Recipe:
    """Load the recipe of a request with its settings and options, or that of the run to resume.

    Raises:
        RecipeError: With every problem of the recipe.
        UsageError: If the run cannot be resumed, or the request changes its recipe.
    """
    if request.resume is None:
        return _with_absolute_paths(load.load(request.recipe, settings=request.settings, options=request.options))
    if request.settings or request.options or request.out or request.recipe != load.DEFAULT:
        raise UsageError(
            "a resumed run keeps its folder and its recipe",
            where="--resume",
            hint="Leave out DATA, --out and all options that change the recipe, or start a new run.",
        )
    if record.read(request.resume).status == "complete":
        where = f"--resume {request.resume}"
        raise UsageError("the run is complete", where=where, hint="Start a new run with another --out.")
    return load.load(str(request.resume / "recipe.yaml"))


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, so that the recipe of a run works in any folder."""
    data, model = recipe.data, recipe.model
    located = {key: getattr(data, key) for key in ("path", "val", "test")}
    data_paths = {
        key: locate(value).expanduser().resolve() for key, value in located.items() if isinstance(value, Path)
    }
    if data.exclude is not None:
        data_paths["exclude"] = _absolute(data.exclude)
    model_paths: dict[str, str] = {}
    if catalogue.has_source(model.name):
        # The card's source is the same network with absolute paths.
        model_paths["name"] = catalogue.find(model.name).source
    elif model.name != default.AUTO and catalogue.is_path(model.name):
        model_paths["name"] = str(_absolute(model.name))
    if model.weights not in (None, RANDOM):
        model_paths["weights"] = str(_absolute(str(model.weights)))
    sections: dict[str, Any] = {
        "data": data.model_copy(update=data_paths),
        "model": model.model_copy(update=model_paths),
    }
    if recipe.teacher is not None:
        sections["teacher"] = recipe.teacher.model_copy(update={"run": _absolute(recipe.teacher.run)})
    return recipe.model_copy(update=sections)


def baseline_of(request: Request) -> dict[str, Any]:
    """The baseline of the recipe of a request: beside its file, or as the run recorded it that the file belongs to.

    Raises:
        RecipeError: If baseline.json is damaged.
    """
    file = load.locate(request.recipe)
    of_run = request.resume or file.parent
    if found := {} if request.resume else baseline.read(file):
        return found
    return record.read(of_run).baseline if (of_run / "run.json").is_file() else {}


def require_baseline(request: Request, recipe: Recipe) -> None:
    """Check that there is a baseline if an expectation compares with it.

    Raises:
        RecipeError: If there is none.
    """
    needed = [text for text in recipe.expect if expectation.uses_baseline(text)]
    if needed and not baseline_of(request):
        file = load.locate(request.recipe)
        message = f"compares with the baseline, but {file.parent / baseline.FILE} has none of {file.name}"
        hint = f"Write it: tlcli recipe run {file} --update-baseline."
        raise RecipeError([Problem(f"{file} expect", f"{needed[0]!r} {message}", hint)])


def network_of(request: Request, recipe: Recipe, *, measure: Measure) -> ChosenNetwork:
    """The network of a request. Every selection of its recipe is checked against its layer groups.

    Raises:
        ModelError: If the network does not fit the recipe; it says where the recipe does.
    """
    with placed(request):
        return choose_network(recipe, measure=measure)


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


def networks_of(request: Request) -> tuple[str, ...]:
    """The networks that `--model A,B` names, to choose from; empty if it names one, or a file with a comma.

    Raises:
        UsageError: If a network is named twice, or a weights file is given for all.
    """
    text = str(request.options.get("model.name", ""))
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if len(names) < 2 or Path(text).exists():
        return ()
    if len(set(names)) < len(names):
        raise UsageError(f"names a network twice (got {text})", where="--model", hint="Name each once.")
    weights = request.options.get("model.weights")
    if weights not in (None, RANDOM):
        hint = "Name one --model, or card files with their own weights."
        raise UsageError(f"a weights file fits one network (got {len(names)} networks)", where="--weights", hint=hint)
    return names


def with_network(request: Request, name: str) -> Request:
    """The request with another network."""
    return replace(request, options={**request.options, "model.name": name})


def visible(request: Request, prepared: Prepared) -> Prepared:
    """The images that a run may score: without test images in a trial of a search."""
    return without_test(prepared) if request.hides_test else prepared


def choice_of(request: Request) -> dict[str, Any]:
    """How the network was chosen, for `model` in run.json; empty if the user named it."""
    return {"chosen_from": list(request.chosen_from)} if request.chosen_from else {}


def output_folder(request: Request, plan: TrainPlan) -> Path:
    """The run folder of a request: the one to resume, that of `--out`, or the next free one."""
    return request.resume or request.out or free_folder(plan.recipe)


def free_folder(recipe: Recipe) -> Path:
    """The next free run folder in runs/ for the images and the network of a recipe."""
    return folder.default_folder(data_root(recipe), catalogue.find(recipe.model.name).name)


def candidate_request(candidates: Candidates, name: str) -> Request:
    """The request that runs a candidate, or resumes its interrupted run.

    Removes a run of this candidate that cannot be resumed.
    """
    out = candidates.folder(name)
    if candidates.is_complete(name):
        raise RuntimeError(f"{name} is complete")
    if (out / "run.json").is_file() and record.read(out).status == "interrupted":
        return Request(strict=candidates.strict, device=candidates.device, resume=out)
    if out.is_dir():
        shutil.rmtree(out)
    return Request(
        recipe=candidates.recipe(name),
        strict=candidates.strict,
        out=out,
        same_split_as=candidates.split_source(),
        device=candidates.device,
    )


def check_candidates(request: Request, recipes: Sequence[str]) -> tuple[Candidates, list[ResolvedRecipe]]:
    """Check the recipes of a comparison, each and together. All must use the same images, split in the same way.

    Returns:
        The candidates, and their resolved recipes.

    Raises:
        TlcliError: For the first problem.
    """
    names = _names(recipes)
    resolved = [_resolve_candidate(request, recipe) for recipe in recipes]
    first = resolved[0].recipe
    require_validation(first, "--compare", "Leave data.val at 0.15, or run the recipes one by one.")
    refuse_best(*(candidate.recipe for candidate in resolved), where="--compare")
    for name, candidate in zip(names, resolved, strict=True):
        sections = [recipe.data.model_dump(mode="json") for recipe in (first, candidate.recipe)]
        if keys := list(comparison.differences(sections)):
            raise UsageError(
                f"{names[0]} and {name} use the images differently (data.{', data.'.join(keys)})",
                where="--compare",
                hint=f"Set the same for all, for example --set data.{keys[0]}={getattr(first.data, keys[0], '…')}",
            )
    out = request.out or free_folder(first)
    return Candidates(out, tuple(names), request.strict, request.device), resolved


def require_validation(recipe: Recipe, where: str, hint: str) -> None:
    """Check that there are validation images, which choose the best of several runs.

    Raises:
        UsageError: If there are none.
    """
    if recipe.data.val == 0:
        raise UsageError("data.val is 0, but validation images choose the best run", where=where, hint=hint)


def refuse_best(*recipes: Recipe, where: str) -> None:
    """Check that no recipe asks for `quality: best`, which is several runs and not one of them.

    Raises:
        UsageError: If one does.
    """
    if any(recipe.quality == "best" for recipe in recipes):
        hint = "Use quality balanced here, or `tlcli finetune --quality best` alone."
        raise UsageError("quality best is a comparison of its own runs", where=where, hint=hint)


def _names(recipes: Sequence[str]) -> list[str]:
    """The names of the recipes, which also name their runs."""
    names = [Path(recipe).stem for recipe in recipes]
    if len(names) < 2:
        raise UsageError(
            f"takes two recipes or more (got {', '.join(recipes) or 'none'})",
            where="--compare",
            hint="For example: --compare head-only,two-phase,unfreeze-until-plateau,full",
        )
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"two recipes have the name '{repeated}'",
            where="--compare",
            hint="Name each recipe once. Rename one of two files with the same name.",
        )
    return names


def _resolve_candidate(request: Request, recipe: str) -> ResolvedRecipe:
    try:
        resolved = check_request(replace(request, recipe=recipe))
        require_baseline(replace(request, recipe=recipe), resolved.recipe)
    except RecipeError as error:
        # Options and settings apply to all recipes, so the error names the recipe that refuses them.
        raise UsageError(str(error), where=f"--compare {recipe}") from error
    network_of(replace(request, recipe=recipe), resolved.recipe, measure=measure_in_subprocess)
    return resolved
