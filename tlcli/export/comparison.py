"""The comparison of an exported file with the classifier, image by image, and what follows from it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tlcli.data.pixels import decode, read_exactly
from tlcli.evaluate.predict import probabilities_of
from tlcli.evaluate.runtimes.exported import THREADS
from tlcli.evaluate.runtimes.runtime import Runtime
from tlcli.export.targets import FLOATS, ExportRequest
from tlcli.text import plural

Progress = Callable[[int, int], None]
# Share of the images that a floating-point file must give the label of the classifier.
MIN_AGREEMENT = 0.99
# Calls that are timed, after calls that warm up.
TIMED, WARM_UP = 20, 3


@dataclass(frozen=True)
class Comparison:
    """Answers of an exported file beside those of the classifier.

    Attributes:
        images: Number of images.
        accuracy: Of the file, 0-1.
        classifier_accuracy: Of the classifier on the same images, 0-1.
        agreement: Share of the images with the same most probable class, 0-1.
        largest_difference: Largest difference of a probability, 0-1.
        milliseconds: Median time for one image of the network's size.
        threads: Number of threads that the runtime was given.
        trained: Number of the images that the classifier was trained on.
        calibration: Number of other images from which 8-bit numbers took their ranges.
    """

    images: int
    accuracy: float
    classifier_accuracy: float
    agreement: float
    largest_difference: float
    milliseconds: float
    threads: int
    trained: int = 0
    calibration: int = 0

    def to_json(self) -> dict[str, Any]:
        """The values by name."""
        return asdict(self)


def compare(
    classifier: Runtime,
    exported: Runtime,
    paths: Sequence[Path],
    labels: Sequence[int],
    *,
    is_raw: bool,
    progress: Progress,
) -> Comparison:
    """Ask both about the same images.

    Args:
        classifier: The classifier.
        exported: The file, opened by its own runtime.
        paths: Image files.
        labels: The class of each, as an index.
        is_raw: True if the file takes images of its size; else it gets whole images, one by one.
        progress: Called with (done, total) images.

    Raises:
        DataError: An image cannot be read.
    """
    total = 2 * len(paths)
    expected = probabilities_of(classifier, paths, progress=lambda done, _: progress(done, total))
    rows = []
    for done, path in enumerate(paths, start=len(paths) + 1):
        rows.append(exported.probabilities(_pixels(path, exported, is_raw=is_raw)[None])[0])
        progress(done, total)
    answers, truth = np.stack(rows), np.array(labels)
    return Comparison(
        images=len(paths),
        accuracy=float((answers.argmax(axis=1) == truth).mean()),
        classifier_accuracy=float((expected.argmax(axis=1) == truth).mean()),
        agreement=float((answers.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        largest_difference=float(np.abs(answers - expected).max()),
        milliseconds=_milliseconds(exported, paths[0]),
        threads=THREADS,
    )


def objections(comparison: Comparison, request: ExportRequest) -> list[str]:
    """Why an export is refused; empty if it is accepted."""
    found = []
    drop = comparison.classifier_accuracy - comparison.accuracy
    # Accuracies are counts divided by a count: 0.93 - 0.92 must not exceed 0.01 by rounding.
    if drop > request.max_drop + 1e-9:
        found.append(
            f"accuracy falls by {drop:.2%} on {plural(comparison.images, 'image')} (--max-drop allows"
            f" {request.max_drop:.2%})"
        )
    is_exact = request.quantize in FLOATS and request.sparse is None
    if is_exact and comparison.agreement < MIN_AGREEMENT:
        found.append(f"only {comparison.agreement:.1%} of the images get the same label ({MIN_AGREEMENT:.0%} required)")
    return found


def _pixels(path: Path, runtime: Runtime, *, is_raw: bool) -> np.ndarray:
    return read_exactly(path, runtime.size, runtime.resize) if is_raw else np.asarray(decode(path))


def _milliseconds(runtime: Runtime, path: Path) -> float:
    image = read_exactly(path, runtime.size, runtime.resize)[None]
    seconds = []
    for _ in range(WARM_UP + TIMED):
        began = time.perf_counter()
        runtime.probabilities(image)
        seconds.append(time.perf_counter() - began)
    return round(1000 * median(seconds[WARM_UP:]), 3)
