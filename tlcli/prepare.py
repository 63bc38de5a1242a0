"""Everything before Keras wakes up: recipe, card, images and layer groups, checked and put together as a plan."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tlcli.data import findings, folder, pixels, split
from tlcli.data.folder import FolderIndex
from tlcli.data.pixels import Pixels
from tlcli.data.reading import Progress, Reading
from tlcli.errors import DataError, ModelError, OutputError, RunError, UsageError, WeightsError
from tlcli.model import structure
from tlcli.model.groups import LayerGroups
from tlcli.paths import cache_dir
from tlcli.recipe import load
from tlcli.recipe.schema import RANDOM, Recipe
from tlcli.report import folder as folder_of_run
from tlcli.report import record
from tlcli.shown import counted
from tlcli.train import plan
from tlcli.train.events import Advanced, Noticed, Observer
from tlcli.zoo import availability, catalogue, own_weights
from tlcli.zoo.card import ModelCard

Measure = Callable[[ModelCard, Mapping[str, Any], tuple[int, int]], LayerGroups]


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


@dataclass(frozen=True)
class Settled:
    """The checked recipe with nothing left to be decided elsewhere, and what the user should know of that.

    `reading`: where its images are being read already; `began`: when that was, on time.perf_counter.
    """

    recipe: Recipe
    notices: tuple[str, ...] = ()
    reading: Reading | None = None
    began: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Chosen:
    """The network that a recipe names: its card, input size and layer groups."""

    card: ModelCard
    size: tuple[int, int]
    groups: LayerGroups


@dataclass(frozen=True)
class Prepared:
    """A plan, with the images it is about."""

    plan: plan.TrainPlan
    index: FolderIndex
    pixels: Pixels


def check_first(request: Request) -> Settled:
    """Everything that can be told in a moment: no image is read, no Keras loaded.

    Which network stands for `auto` is decided here, once; it takes a question to a server where nothing nearer answers.

    Raises:
        TlcliError: For the first thing that is wrong.
    """
    recipe = recipe_of(request)
    check_images(recipe)
    if request.resume is None:
        _require_outside(request.out, _root(recipe))
        if request.out is not None:
            folder_of_run.require_new(request.out)
    return settle(recipe, needs_weights=request.resume is None)


def check_images(recipe: Recipe) -> None:
    """Look at the folders of the images, at no image.

    Raises:
        DataError: If they are not what a recipe needs.
    """
    data = recipe.data
    folder.check(
        _root(recipe), classes=data.classes, val=_outside(data.val), test=_outside(data.test), exclude=data.exclude
    )


def settle(recipe: Recipe, *, needs_weights: bool = True) -> Settled:
    """Decide which network a recipe means, and look at what can be told of it in a moment.

    Raises:
        TlcliError: If there is no such network, it takes no such input, or its weights are missing or damaged.
    """
    named, notices = _named(recipe)
    card = plan.settled_card(named, catalogue.find(named.model.name))
    plan.input_size(named, card)
    if needs_weights:
        _require_weights(named, card)
    phases = [phase.settled(card.fine_tuning.model_dump(exclude={"epochs"})) for phase in named.phases]
    return Settled(named.model_copy(update={"phases": phases}), notices)


def _named(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with the name of a network where it left the choice open, and what is to be said of it."""
    model, size = recipe.model, recipe.data.size
    if model.name != availability.AUTO:
        return recipe, ()
    choice = availability.choose(model.arguments, None if size == "auto" else size, model.weights)
    named = recipe.model_copy(update={"model": model.model_copy(update={"name": choice.name})})
    return named, (choice.notice,) if choice.notice else ()


def _require_weights(recipe: Recipe, card: ModelCard) -> None:
    """Tell of weights that are not there, damaged, or of another network, before Keras is loaded to read them."""
    weights = recipe.model.weights
    if weights is None and card.weights is not None:
        own_weights.require_arguments(card, recipe.model.arguments)
        own_weights.verified(card)
    if weights not in (None, RANDOM) and not Path(str(weights)).is_file():
        raise WeightsError(
            f"there is no file '{weights}'",
            where="model.weights",
            hint=f"Give a path of .h5 or .keras weights, or: {RANDOM}",
        )


def _require_outside(out: Path | None, data: Path) -> None:
    """Nothing is written into the image folder: a run in there would be taken for a class the next time."""
    place = out or folder_of_run.RUNS
    if place.resolve().is_relative_to(data.resolve()):
        raise OutputError(
            "the run folder would lie among the images",
            where=str(place),
            hint=f"Choose an --out outside {data}.",
        )


def choose(recipe: Recipe, *, measure: Measure) -> Chosen:
    """The network, with every selection of the recipe checked against its layer groups.

    Raises:
        ModelError: If there is no such network, or it has no such groups.
    """
    card = plan.settled_card(recipe, catalogue.find(recipe.model.name))
    size = plan.input_size(recipe, card)
    groups = measure(card, recipe.model.arguments, size)
    plan.check_selections(recipe, groups)
    return Chosen(card, size, groups)


@contextmanager
def reading_ahead(settled: Settled) -> Iterator[Settled]:
    """Begin to read and decode the images: inside the block Keras can be loaded meanwhile."""
    recipe = settled.recipe
    with Reading(lambda progress: _read(recipe, input_size(recipe), progress)) as reading:
        yield replace(settled, reading=reading)


def input_size(recipe: Recipe) -> tuple[int, int]:
    """Height and width, pixels, of what a settled recipe feeds its network.

    Raises:
        ModelError: If there is no such network, or it takes no such input.
    """
    return plan.input_size(recipe, catalogue.find(recipe.model.name))


def prepare(
    recipe: Recipe, chosen: Chosen, *, strict: bool, observe: Observer, reading: Reading | None = None
) -> Prepared:
    """Read, decode and split the images, and put the plan together. `reading`: a read of them that has begun.

    Raises:
        TlcliError: For the first thing that is wrong; nothing has been written but caches.
    """

    def progress(stage: str, done: int, total: int) -> None:
        observe(Advanced(stage, done, total))

    index, found = reading.result(progress) if reading else _read(recipe, chosen.size, progress)
    _tell_passed_over(index, observe)
    index = _readable(index, found, strict=strict, observe=observe)
    _tell_excluded(index, recipe, observe)
    splits = split.make(index, val=_share(recipe.data.val), test=_share(recipe.data.test))
    splits = replace(splits, warnings=(*_checked(index, observe), *splits.warnings))
    for warning in splits.warnings:
        observe(Noticed(warning, is_warning=True))
    made = plan.make(recipe, chosen.card, groups=chosen.groups, splits=splits, classes=index.classes, speed=None)
    return Prepared(made, index, found)


def _read(recipe: Recipe, size: tuple[int, int], progress: Progress) -> tuple[FolderIndex, Pixels]:
    index = folder.scan(
        _root(recipe),
        classes=recipe.data.classes,
        val=_outside(recipe.data.val),
        test=_outside(recipe.data.test),
        exclude=recipe.data.exclude,
        progress=lambda done, total: progress("reading", done, total),
    )
    found = pixels.open_cache(
        index,
        size=size,
        mode=recipe.data.resize,
        folder=cache_dir() / "pixels",
        progress=lambda done, total: progress("decoding", done, total),
    )
    return index, found


def recipe_of(request: Request) -> Recipe:
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
    if model.name != availability.AUTO and catalogue.is_path(model.name):
        files["name"] = str(_path(model.name))
    if model.weights not in (None, RANDOM):
        files["weights"] = str(_path(str(model.weights)))
    changed = {"data": data.model_copy(update=folders), "model": model.model_copy(update=files)}
    return recipe.model_copy(update=changed)


def _path(written: str | Path) -> Path:
    return Path(written).expanduser().resolve()


def output_folder(request: Request, made: plan.TrainPlan) -> Path:
    """The run folder: the one to resume, the one asked for, or the next free one under runs/."""
    return request.resume or request.out or free_folder(made.recipe)


def free_folder(recipe: Recipe) -> Path:
    """The next free run folder for these images and this network."""
    return folder_of_run.default_folder(_root(recipe), catalogue.find(recipe.model.name).name)


def output_bytes(made: plan.TrainPlan) -> int:
    """About what a run folder takes at its fullest: weights at the start, now, best, and two of the optimiser."""
    trained = max(phase.trainable_parameters for phase in made.phases)
    return 1_000_000 + 4 * (2 * (made.groups.parameters + made.head_parameters) + 8 * trained)


def groups_without_keras(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int]) -> LayerGroups:
    """The layer groups from a stored measurement; a network never seen before is measured by a process of its own.

    Raises:
        ModelError: If the network cannot be built so.
    """
    known = structure.find(card, dict(arguments), size, cache=cache_dir())
    if known is not None:
        return known
    task = json.dumps({"card": card.model_dump(mode="json"), "arguments": dict(arguments), "size": size})
    command = [sys.executable, "-m", "tlcli.model.measure"]
    done = subprocess.run(command, input=task, capture_output=True, text=True, check=False)
    if done.returncode == ModelError.exit_code:
        raise ModelError(**json.loads(done.stdout))
    measured = structure.find(card, dict(arguments), size, cache=cache_dir())
    if measured is None:
        raise RunError(f"{card.name} could not be measured: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return measured


def _root(recipe: Recipe) -> Path:
    if recipe.data.path is None:
        raise DataError(
            "no images were named", where="DATA", hint="Give a folder of class folders: tlcli finetune photos/"
        )
    return recipe.data.path


def _outside(value: float | Path) -> Path | None:
    return value if isinstance(value, Path) else None


def _share(value: float | Path) -> float:
    return value if isinstance(value, float) else 0.0


def _readable(index: FolderIndex, found: Pixels, *, strict: bool, observe: Observer) -> FolderIndex:
    """Leave out what could not be decoded, with one warning a file; with `strict` that is an error."""
    broken = [image for image in index.images if image.sha256 in found.failures]
    bad = [*index.unreadable, *((image.path, found.failures[image.sha256]) for image in broken)]
    if bad and strict:
        shown = "; ".join(f"{path} ({reason})" for path, reason in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"{len(bad)} unreadable image{'s' * (len(bad) > 1)}: {shown}{more}",
            where=str(index.root),
            hint="Repair or remove them, or leave out --strict to go on without them.",
        )
    for path, reason in bad:
        observe(Noticed(f"left out {index.root / path}: {reason}", is_warning=True))
    return index.without({image.sha256 for image in broken})


def _checked(index: FolderIndex, observe: Observer) -> list[str]:
    """The part of `tlcli check` that costs nothing here; the split itself looks for exact copies."""
    where = shlex.quote(str(index.root))
    observe(Noticed(f"checked class names, class sizes and exact copies; the rest by: tlcli check {where}"))
    return [f"{found.message}. {found.remedy}" for found in findings.cheap(index)]


def _tell_excluded(index: FolderIndex, recipe: Recipe, observe: Observer) -> None:
    """Say how many images a list leaves out, and which of its lines mean nothing."""
    file = recipe.data.exclude
    if file is None:
        return
    for number, path in index.unmatched[:5]:
        observe(Noticed(f"{file}:{number}: there is no image '{path}' in {index.root}", is_warning=True))
    if len(index.unmatched) > 5:
        observe(Noticed(f"{file}: nor those of {len(index.unmatched) - 5} more lines", is_warning=True))
    observe(Noticed(f"{counted(len(index.excluded), 'image')} left out by {file}"))


def _tell_passed_over(index: FolderIndex, observe: Observer) -> None:
    """Say which kinds of files were not taken for pictures, so that nobody misses theirs."""
    kinds = sorted({Path(path).suffix.lower() or "no suffix" for path in index.ignored if not path.endswith("/")})
    if kinds:
        files = [path for path in index.ignored if not path.endswith("/")]
        many = f"{len(files)} files that are" if len(files) > 1 else f"{files[0]}, which is"
        shown = f" ({', '.join(kinds[:8])})" if len(files) > 1 else ""
        observe(Noticed(f"passed over {many} no picture of a kind that is read{shown}"))
