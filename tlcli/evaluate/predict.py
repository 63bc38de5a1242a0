"""Classifier and images to probabilities."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlcli.data import pixels
from tlcli.errors import DataError
from tlcli.model.classifier import Classifier

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
