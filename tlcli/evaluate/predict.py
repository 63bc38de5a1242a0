"""Predictions of a classifier for image files."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.data import pixels, source
from tlcli.errors import DataError
from tlcli.model.classifier import Classifier
from tlcli.text import plural

BATCH = 32
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Guess:
    """One class and its probability, 0-1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one file: the most probable classes first, or why the file could not be read."""

    path: str
    top: tuple[Guess, ...] = ()
    error: str | None = None


def predict(classifier: Classifier, paths: Sequence[Path], *, top: int, progress: Progress) -> Iterator[Prediction]:
    """One prediction per path, in order. Files that cannot be read get an `error` and stop nothing."""
    for path, found in _stream(classifier, paths, progress):
        if isinstance(found, DataError):
            yield Prediction(path.as_posix(), error=found.message)
        else:
            yield Prediction(path.as_posix(), _best(classifier, found, top))


def probabilities_of(classifier: Classifier, paths: Sequence[Path], *, progress: Progress) -> np.ndarray:
    """Probabilities `float32 (images, classes)`, 0-1, in the order of the paths.

    Raises:
        DataError: For the first file that cannot be read.
    """
    rows = []
    for _, found in _stream(classifier, paths, progress):
        if isinstance(found, DataError):
            raise found
        rows.append(found)
    return np.stack(rows)


def _stream(
    classifier: Classifier, paths: Sequence[Path], progress: Progress
) -> Iterator[tuple[Path, np.ndarray | DataError]]:
    """Each path with its probabilities `float32 (classes,)`, or why it could not be read; a batch at a time."""
    with ThreadPoolExecutor() as threads:
        for at in range(0, len(paths), BATCH):
            chunk = paths[at : at + BATCH]
            read = list(threads.map(lambda path: _read(classifier, path), chunk))
            images = [result for result in read if isinstance(result, np.ndarray)]
            found = iter(_probabilities(classifier, images) if images else ())
            for path, result in zip(chunk, read, strict=True):
                yield path, result if isinstance(result, DataError) else next(found)
            progress(at + len(chunk), len(paths))


def _read(classifier: Classifier, path: Path) -> np.ndarray | DataError:
    try:
        return pixels.read(path, classifier.size, classifier.resize)
    except DataError as error:
        return error


def _probabilities(classifier: Classifier, images: Sequence[np.ndarray]) -> np.ndarray:
    """Filled up to a whole batch, so that the graph is traced for one shape only."""
    batch = np.zeros((BATCH, *images[0].shape), dtype=np.float32)
    batch[: len(images)] = images
    return np.asarray(classifier.model.predict_on_batch(batch))[: len(images)]


def _best(classifier: Classifier, probabilities: np.ndarray, top: int) -> tuple[Guess, ...]:
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(Guess(classifier.classes[index], float(probabilities[index])) for index in order)


def expand_patterns(patterns: Sequence[str]) -> list[Path]:
    """Files named by paths, folders (all pictures inside, sorted) and globs, each once, in order.

    Raises:
        DataError: If one of them names nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            inside = source.images_under(path)
            if not inside:
                raise DataError("holds no pictures", where=pattern, hint="Name files, a folder of pictures, or a glob.")
            found |= dict.fromkeys(inside)
        elif path.exists():
            found[path] = None
        else:
            matches = [Path(match) for match in sorted(glob(pattern, recursive=True)) if Path(match).is_file()]
            if not matches:
                raise DataError(
                    "there is no such file", where=pattern, hint="Name files, a folder of pictures, or a glob."
                )
            found |= dict.fromkeys(matches)
    return list(found)


def as_rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The JSON shape of `tlcli predict --json`."""
    rows: list[dict[str, Any]] = []
    for each in predictions:
        if each.error is not None:
            rows.append({"path": each.path, "error": each.error})
        else:
            first = each.top[0]
            top = [{"label": guess.label, "probability": guess.probability} for guess in each.top]
            rows.append({"path": each.path, "label": first.label, "probability": first.probability, "top": top})
    return rows


def labelled_images(data: Path, classes: Sequence[str]) -> tuple[list[Path], list[int], str]:
    """Images of a folder of class folders, or of its `test/` or else `val/` folder, to score a classifier on.

    Returns:
        Paths, labels as positions in `classes`, and what the images are, in words.

    Raises:
        DataError: If the folder cannot be read, or its classes are not those of the classifier.
    """
    index = source.scan(data)
    if set(index.classes) != set(classes):
        extra, missing = sorted(set(index.classes) - set(classes)), sorted(set(classes) - set(index.classes))
        parts = [f"{what}: {', '.join(names)}" for what, names in (("unknown", extra), ("missing", missing)) if names]
        raise DataError(
            f"the classes are not those of the classifier ({'; '.join(parts)})",
            where=str(data),
            hint=f"The classifier has: {', '.join(classes)}.",
        )
    held_out = next((split for split in ("test", "val") if split in index.given_splits), None)
    images = [image for image in index.images if image.given == held_out]
    labels = [list(classes).index(index.classes[image.label]) for image in images]
    what = f"{plural(len(images), 'image')} of {data}" + (f"/{held_out}" if held_out else "")
    return [index.file(image) for image in images], labels, what
