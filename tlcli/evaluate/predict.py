"""Predictions of a classifier for image files."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.data import pixels, source
from tlcli.data.decode import EXTENSIONS
from tlcli.data.layout import readable
from tlcli.errors import DataError
from tlcli.evaluate.runtimes.runtime import Runtime
from tlcli.evaluate.views import PLAIN, Views
from tlcli.recipe.fields import Resize
from tlcli.storage.location import StoredPath, is_remote, join, locate
from tlcli.text import plural

BATCH = 32
# The label of an image whose most probable class is not probable enough.
UNSURE = "unsure"
Progress = Callable[[int, int], None]
"""Called with (done, total) images after every batch."""
Read = Callable[[Path, tuple[int, int], Resize], np.ndarray]
"""From a file, a height and width in pixels and a resize mode to pixels `(height, width, 3)`, RGB 0-255."""


@dataclass(frozen=True)
class ClassProbability:
    """A class and its probability, 0-1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The prediction for one file, or the reason why it cannot be read.

    Attributes:
        path: The file.
        label: The most probable class, or `UNSURE` below the required confidence; empty for a file that cannot be read.
        top: The most probable classes first.
        error: The reason.
    """

    path: str
    label: str = ""
    top: tuple[ClassProbability, ...] = ()
    error: str | None = None


def predict(
    classifier: Runtime,
    paths: Sequence[Path],
    *,
    top: int,
    min_confidence: float = 0.0,
    views: Views = PLAIN,
    progress: Progress,
) -> Iterator[Prediction]:
    """Predict the `top` most probable classes of each file, in order. A file that cannot be read gets an `error`.

    Files are read at full size, so the probabilities are those of the classifier in plain Keras; with several views,
    their mean.
    """
    for path, result in _stream(classifier, paths, progress, read=pixels.read_exactly, views=views):
        if isinstance(result, DataError):
            yield Prediction(path.as_posix(), error=result.message)
        else:
            ranked = _most_probable(classifier, result.mean(axis=0), top)
            label = ranked[0].label if ranked[0].probability >= min_confidence else UNSURE
            yield Prediction(path.as_posix(), label, ranked)


def probabilities_of(
    classifier: Runtime, paths: Sequence[Path], *, progress: Progress, read: Read = pixels.read_exactly
) -> np.ndarray:
    """Probabilities `float32 (images, classes)`, 0-1, of plain images; see `probabilities_by_view`."""
    return probabilities_by_view(classifier, paths, PLAIN, progress=progress, read=read)[:, 0]


def probabilities_by_view(
    classifier: Runtime, paths: Sequence[Path], views: Views, *, progress: Progress, read: Read = pixels.read_exactly
) -> np.ndarray:
    """Probabilities `float32 (images, views, classes)`, 0-1, in the order of the paths.

    Args:
        classifier: The classifier.
        paths: Image files.
        views: The views of each image.
        progress: Called after every batch.
        read: `pixels.read_exactly`, or `pixels.read` for the pixels that a run trains on.

    Raises:
        DataError: For the first file that cannot be read.
    """
    rows = []
    for _, result in _stream(classifier, paths, progress, read=read, views=views):
        if isinstance(result, DataError):
            raise result
        rows.append(result)
    return np.stack(rows)


def probabilities_of_readable(
    classifier: Runtime, paths: Sequence[Path], views: Views, *, progress: Progress, read: Read
) -> tuple[list[int], np.ndarray, list[tuple[str, str]]]:
    """As `probabilities_by_view`, without the files that cannot be read.

    Returns:
        Positions of the images that were read, their probabilities `float32 (images, views, classes)`, and the path of
        every other file with the reason.

    Raises:
        DataError: If no file can be read.
    """
    read_at, rows, failed = [], [], []
    for position, (path, result) in enumerate(_stream(classifier, paths, progress, read=read, views=views)):
        if isinstance(result, DataError):
            failed.append((path.as_posix(), result.message))
        else:
            read_at.append(position)
            rows.append(result)
    if not rows:
        first, reason = failed[0]
        raise DataError(f"{reason}; none of {plural(len(paths), 'image')} can be read", where=first)
    return read_at, np.stack(rows), failed


def _stream(
    classifier: Runtime, paths: Sequence[Path], progress: Progress, *, read: Read, views: Views
) -> Iterator[tuple[Path, np.ndarray | DataError]]:
    """Each path with its probabilities `float32 (views, classes)`, or with the error of reading it."""
    with ThreadPoolExecutor(BATCH if any(map(is_remote, paths)) else None) as threads:
        for start in range(0, len(paths), BATCH):
            chunk = paths[start : start + BATCH]
            results = list(threads.map(lambda path: _read(classifier, path, read), chunk))
            images = [result for result in results if isinstance(result, np.ndarray)]
            probabilities = iter(views.probabilities(classifier, np.stack(images)) if images else ())
            for path, result in zip(chunk, results, strict=True):
                yield path, result if isinstance(result, DataError) else next(probabilities)
            progress(start + len(chunk), len(paths))


def _read(classifier: Runtime, path: Path, read: Read) -> np.ndarray | DataError:
    try:
        return read(path, classifier.size, classifier.resize)
    except DataError as error:
        return error


def _most_probable(classifier: Runtime, probabilities: np.ndarray, top: int) -> tuple[ClassProbability, ...]:
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(ClassProbability(classifier.classes[index], float(probabilities[index])) for index in order)


def expand_patterns(patterns: Sequence[str]) -> list[Path]:
    """Files named by paths, folders (all images inside, sorted) and globs, each once, in order.

    Raises:
        DataError: If a pattern matches nothing.
    """
    files: dict[Path, None] = {}
    with readable():
        for pattern in patterns:
            files |= dict.fromkeys(_expand(pattern))
    return list(files)


def _expand(pattern: str) -> list[Path]:
    hint = "Name files, a folder of images, or a glob."
    path = locate(pattern)
    # A folder of an HTTP server would pass for a file, so the name decides.
    if isinstance(path, StoredPath) and path.suffix.lower() in EXTENSIONS and path.is_file():
        return [path]
    if path.is_dir():
        images = source.images_under(path)
        if not images:
            raise DataError("holds no images", where=pattern, hint=hint)
        return images
    if path.exists():
        return [path]
    matches = [Path(match) for match in sorted(glob(pattern, recursive=True)) if Path(match).is_file()]
    if not matches:
        message = "no file matches" if has_magic(pattern) else "there is no such file"
        raise DataError(message, where=pattern, hint=hint)
    return matches


def as_row(prediction: Prediction) -> dict[str, Any]:
    """The JSON shape of one image in `tlcli predict --json`."""
    if prediction.error is not None:
        return {"path": prediction.path, "error": prediction.error}
    top = [{"label": candidate.label, "probability": candidate.probability} for candidate in prediction.top]
    return {
        "path": prediction.path,
        "label": prediction.label,
        "probability": prediction.top[0].probability,
        "top": top,
    }


@dataclass(frozen=True)
class LabelledImages:
    """Images to score a classifier on.

    Attributes:
        paths: The files; below the folder as the user gave it.
        labels: Their classes, as indices.
        description: What they are, for the user.
        unreadable: Files that cannot be read, with reasons.
    """

    paths: list[Path]
    labels: list[int]
    description: str
    unreadable: tuple[tuple[str, str], ...] = ()


def labelled_images(data: Path, classes: Sequence[str]) -> LabelledImages:
    """The images to score a classifier on: those of a folder of class folders, or of its `test/` or else `val/` folder.

    The folder need not have all classes of the classifier.

    Raises:
        DataError: If the folder cannot be read, or has a class that the classifier does not have.
    """
    index = source.scan_some(data)
    if unknown := sorted(set(index.classes) - set(classes)):
        raise DataError(
            f"the classifier does not have {'the class' if len(unknown) == 1 else 'the classes'} {', '.join(unknown)}",
            where=str(data),
            hint=f"It has: {', '.join(classes)}. Rename or remove the folders of others.",
        )
    held_out = next((split for split in ("test", "val") if split in index.given_splits), None)
    images = [image for image in index.images if image.given == held_out]
    labels = [list(classes).index(index.classes[image.label]) for image in images]
    description = f"{plural(len(images), 'image')} of {data}" + (f"/{held_out}" if held_out else "")
    # Paths that leave the folder do so from where its links lead.
    home = next((given for given in (data, data.parent) if given.resolve() == index.root), index.root)
    paths = [index.file(image) if image.path.startswith("..") else join(home, image.path) for image in images]
    return LabelledImages(paths, labels, description, tuple(index.unreadable))
