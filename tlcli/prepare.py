"""Everything before Keras wakes up: recipe, card, images and layer groups, checked and put together as a plan."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlcli.data import folder, pixels, split
from tlcli.data.folder import FolderIndex
from tlcli.data.pixels import Pixels
from tlcli.errors import DataError, ModelError, RunError, UsageError
from tlcli.model import structure
from tlcli.model.groups import LayerGroups
from tlcli.paths import cache_dir
from tlcli.recipe import load
from tlcli.recipe.schema import Recipe
from tlcli.report import folder as folder_of_run
from tlcli.report import record
from tlcli.train import plan
from tlcli.train.events import Advanced, Noticed, Observer
from tlcli.zoo import catalogue
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
class Prepared:
    """A plan, with the images it is about."""

    plan: plan.TrainPlan
    index: FolderIndex
    pixels: Pixels


def prepare(recipe: Recipe, *, measure: Measure, strict: bool, observe: Observer) -> Prepared:
    """Check everything that can be checked without training, from the quickest to the slowest.

    Raises:
        TlcliError: For the first thing that is wrong; nothing has been written but caches.
    """
    card = plan.settled_card(recipe, catalogue.find(recipe.model.name))
    size = plan.input_size(recipe, card)
    root = _root(recipe)
    groups = measure(card, recipe.model.arguments, size)
    plan.check_selections(recipe, groups)
    index = folder.scan(
        root,
        classes=recipe.data.classes,
        val=_outside(recipe.data.val),
        test=_outside(recipe.data.test),
        progress=lambda done, total: observe(Advanced("reading", done, total)),
    )
    found = pixels.open_cache(
        index,
        size=size,
        mode=recipe.data.resize,
        folder=cache_dir() / "pixels",
        progress=lambda done, total: observe(Advanced("decoding", done, total)),
    )
    index = _readable(index, found, strict=strict, observe=observe)
    splits = split.make(index, val=_share(recipe.data.val), test=_share(recipe.data.test))
    for warning in splits.warnings:
        observe(Noticed(warning, is_warning=True))
    made = plan.make(recipe, card, groups=groups, splits=splits, classes=index.classes, speed=None)
    return Prepared(made, index, found)


def recipe_of(request: Request) -> Recipe:
    """The checked recipe with its options and settings applied; of an unfinished run, the recipe it began with.

    Raises:
        RecipeError: With every problem of the recipe.
        UsageError: If there is nothing to resume.
    """
    if request.resume is None:
        return load.load(request.recipe, settings=request.settings, options=request.options)
    if request.settings or request.options:
        raise UsageError(
            "a resumed run keeps the recipe it began with",
            where="--resume",
            hint="Leave out DATA, --model, --weights, --precision and --set, or start a new run.",
        )
    if record.read(request.resume).status == "complete":
        raise UsageError(
            "the run is complete", where=f"--resume {request.resume}", hint="Start a new one with another --out."
        )
    return load.load(str(request.resume / "recipe.yaml"))


def output_folder(request: Request, made: plan.TrainPlan) -> Path:
    """The run folder: the one to resume, the one asked for, or the next free one under runs/."""
    if request.resume is not None:
        return request.resume
    return request.out or folder_of_run.default_folder(_root(made.recipe), made.card.name)


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
    bad = [image for image in index.images if image.sha256 in found.failures]
    if bad and strict:
        shown = "; ".join(f"{image.path} ({found.failures[image.sha256]})" for image in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"{len(bad)} unreadable image{'s' * (len(bad) > 1)}: {shown}{more}",
            where=str(index.root),
            hint="Repair or remove them, or leave out --strict to go on without them.",
        )
    for image in bad:
        observe(Noticed(f"left out {index.file(image)}: {found.failures[image.sha256]}", is_warning=True))
    return index.without({image.sha256 for image in bad})
