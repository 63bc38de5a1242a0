"""From a resolved recipe to a plan: choose the network, read the images, split them."""

import shlex
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from tlcli.data import source, split
from tlcli.data.pixels import Pixels, open_cache
from tlcli.data.source import FolderIndex
from tlcli.errors import DataError
from tlcli.model.layer_groups import LayerGroups
from tlcli.model.structure import Measure
from tlcli.paths import cache_dir
from tlcli.quality.finding import quick_findings
from tlcli.quality.near_groups import find_near_groups
from tlcli.recipe.schema import Recipe
from tlcli.storage.location import join, locate
from tlcli.text import plural
from tlcli.train.events import Advanced, Noticed, Observer, warn
from tlcli.train.plan import TrainPlan, check_selections, make_plan
from tlcli.zoo import catalogue
from tlcli.zoo.card import ModelCard
from tlcli.zoo.resolve import input_size, resolve_card

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

# Files or lines listed in a message.
_MAX_LISTED = 5


@dataclass(frozen=True)
class ReadImages:
    """The images of a recipe: their index, their pixels, and groups of contents (sha256) that are near-duplicates."""

    index: FolderIndex
    pixels: Pixels
    near: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ChosenNetwork:
    """The network of a recipe: its card, input height and width in pixels, and layer groups."""

    card: ModelCard
    size: tuple[int, int]
    groups: LayerGroups


@dataclass(frozen=True)
class Prepared:
    """A plan, and the images it is for.

    Attributes:
        plan: The plan.
        index: All images.
        pixels: Their pixels.
        taught: What a teacher says of the training images, `float32 (images, classes)`; None without a teacher.
    """

    plan: TrainPlan
    index: FolderIndex
    pixels: Pixels
    taught: np.ndarray | None = None


class BackgroundRead:
    """Reads and decodes the images of a recipe in a thread, while Keras loads.

    The read begins at construction. Leaving the `with` block stops it.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.size = input_size(recipe)
        self._stopped = threading.Event()
        self._progress: Progress | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reading")
        self._future = self._pool.submit(_read, recipe, self.size, self._report)

    def __enter__(self) -> "BackgroundRead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._pool.shutdown()

    def result(self, progress: Progress) -> ReadImages:
        """Wait for the result. Progress is reported from now on, and errors of the read are raised here."""
        self._progress = progress
        return self._future.result()

    def _report(self, stage: str, done: int, total: int) -> None:
        if self._stopped.is_set():
            raise _Stopped
        if self._progress is not None:
            self._progress(stage, done, total)


class _Stopped(Exception):
    """Ends a background read whose result nobody needs."""


def check_images(recipe: Recipe) -> None:
    """Check the image folders without opening an image.

    Raises:
        DataError: If the folders do not fit the recipe.
    """
    data = recipe.data
    source.check_layout(
        data_root(recipe), classes=data.classes, val=_folder(data.val), test=_folder(data.test), exclude=data.exclude
    )


def choose_network(recipe: Recipe, *, measure: Measure) -> ChosenNetwork:
    """The network of a recipe. Every selection of the recipe is checked against its layer groups.

    Raises:
        ModelError: If there is no such network, or it has no such groups.
    """
    card = resolve_card(recipe, catalogue.find(recipe.model.name))
    size = input_size(recipe, card)
    groups = measure(card, recipe.model.arguments, size)
    check_selections(recipe, groups)
    return ChosenNetwork(card, size, groups)


def prepare(
    recipe: Recipe,
    network: ChosenNetwork,
    *,
    strict: bool,
    observe: Observer,
    reading: BackgroundRead | None = None,
    recorded: Mapping[str, str] | None = None,
) -> Prepared:
    """Read, decode and split the images, and make the plan.

    Args:
        recipe: A resolved recipe.
        network: Its network.
        strict: Whether an unreadable image is an error instead of a warning.
        observe: Receives progress and notices.
        reading: A background read; used if it reads at the input size of the network.
        recorded: Content (sha256) to split of the run to resume, or of one to compare with.

    Raises:
        TlcliError: For the first problem. Only caches have been written by then.
    """

    def progress(stage: str, done: int, total: int) -> None:
        observe(Advanced(stage, done, total))

    if reading is not None and reading.size == network.size:
        images = reading.result(progress)
    else:
        images = _read(recipe, network.size, progress)
    index, pixels = images.index, images.pixels
    skipped = _report_skipped(index, observe)
    index, unreadable = _readable(index, pixels, strict=strict, observe=observe)
    _report_excluded(index, recipe, observe)
    val, test = _fraction(recipe.data.val), _fraction(recipe.data.test)
    splits = split.make_splits(index, val=val, test=test, near=images.near, recorded=recorded, folds=recipe.data.folds)
    findings = quick_findings(index)
    warnings = (*(f"{finding.message}. {finding.remedy}" for finding in findings), *splits.warnings)
    # Skipped files have been reported one by one; the record has a line for all.
    splits = replace(splits, warnings=(*skipped, *unreadable, *warnings))
    passed = "" if warnings or unreadable else "quick checks passed; "
    observe(Noticed(f"{passed}for all checks: tlcli check {shlex.quote(str(data_root(recipe)))}"))
    if not network.groups.trainable_parameters:
        observe(Noticed(f"{network.card.name} allows no training of its own weights: only the head is trained"))
    warn(observe, warnings)
    plan = make_plan(recipe, network.card, groups=network.groups, splits=splits, classes=index.classes)
    return Prepared(plan, index, pixels)


def without_test(prepared: Prepared) -> Prepared:
    """The same images without those for testing, for decisions that these must not influence."""
    plan = prepared.plan
    return replace(prepared, plan=replace(plan, splits=replace(plan.splits, test=())))


def output_bytes(plan: TrainPlan) -> int:
    """Estimated largest size of a run folder: weights at the start, now and best, and two optimiser states."""
    trained = max(phase.trainable_parameters for phase in plan.phases)
    return 1_000_000 + 4 * (2 * (plan.groups.parameters + plan.head_parameters) + 8 * trained)


def data_root(recipe: Recipe) -> Path:
    """The image folder of a recipe.

    Raises:
        DataError: If the recipe names none.
    """
    if recipe.data.path is None:
        raise DataError(
            "no image folder given",
            where="DATA",
            hint="Name a folder of class folders, or a manifest, such as photos/; or set data.path in the recipe.",
        )
    return locate(recipe.data.path)


def _read(recipe: Recipe, size: tuple[int, int], progress: Progress) -> ReadImages:
    index = source.scan(
        data_root(recipe),
        classes=recipe.data.classes,
        val=_folder(recipe.data.val),
        test=_folder(recipe.data.test),
        exclude=recipe.data.exclude,
        progress=lambda done, total: progress("reading", done, total),
    )
    pixels = open_cache(
        index,
        size=size,
        mode=recipe.data.resize,
        folder=cache_dir() / "pixels",
        progress=lambda done, total: progress("decoding", done, total),
    )
    is_given = {"val", "test"} <= set(index.given_splits)
    return ReadImages(index, pixels, () if is_given else find_near_groups(index, pixels))


def _folder(value: float | Path) -> Path | None:
    return locate(value) if isinstance(value, Path) else None


def _fraction(value: float | Path) -> float:
    return value if isinstance(value, float) else 0.0


def _readable(
    index: FolderIndex, pixels: Pixels, *, strict: bool, observe: Observer
) -> tuple[FolderIndex, tuple[str, ...]]:
    """The index without images that cannot be decoded, and a sentence about these for the record.

    There is one warning per file, or an error if `strict`.
    """
    broken = [image for image in index.images if image.sha256 in pixels.failures]
    bad = [*index.unreadable, *((image.path, pixels.failures[image.sha256]) for image in broken)]
    listed = "; ".join(f"{path} ({reason})" for path, reason in bad[:_MAX_LISTED])
    listed += f" and {len(bad) - _MAX_LISTED} more" if len(bad) > _MAX_LISTED else ""
    if bad and strict:
        raise DataError(
            f"{plural(len(bad), 'unreadable image')}: {listed}",
            where=str(index.root),
            hint="Repair or remove them, or leave out --strict to skip them.",
        )
    for path, reason in bad:
        observe(Noticed(f"skipped {join(index.root, path)}: {reason}", is_warning=True))
    sentence = f"skipped {plural(len(bad), 'unreadable image')}: {listed}"
    return index.without({image.sha256 for image in broken}), (sentence,) if bad else ()


def _report_excluded(index: FolderIndex, recipe: Recipe, observe: Observer) -> None:
    """Report the number of images that the exclusion list leaves out, and its lines that match no image."""
    file = recipe.data.exclude
    if file is None:
        return
    for number, path in index.unmatched[:_MAX_LISTED]:
        observe(Noticed(f"{file}:{number}: there is no image '{path}' in {index.root}", is_warning=True))
    if len(index.unmatched) > _MAX_LISTED:
        more = plural(len(index.unmatched) - _MAX_LISTED, "more line")
        observe(Noticed(f"{file}: {more} without an image", is_warning=True))
    observe(Noticed(f"left out {plural(len(index.excluded), 'image')} listed in {file}"))


def _report_skipped(index: FolderIndex, observe: Observer) -> tuple[str, ...]:
    """Report the files that are skipped because they are not images. Returns the sentence, if there are any."""
    files = [path for path in index.ignored if not path.endswith("/")]
    if not files:
        return ()
    if len(files) == 1:
        sentence = f"skipped 1 file that is not an image: {files[0]}"
    else:
        kinds = sorted({Path(path).suffix.lower() or "no suffix" for path in files})
        sentence = f"skipped {len(files)} files that are not images ({', '.join(kinds[:8])})"
    observe(Noticed(sentence))
    return (sentence,)
