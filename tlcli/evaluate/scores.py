"""Scores of predictions, as scikit-learn defines them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class with `support` images. Precision, recall and F1 are 0-1, and 0 if undefined."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Scores:
    """Scores of a classifier on some images.

    Attributes:
        count: Number of images.
        accuracy: Fraction of correct predictions, 0-1.
        balanced_accuracy: Mean recall over the classes that have images, 0-1.
        loss: Mean cross-entropy, natural logarithm.
        top_k: For k of 3 and 5, if below the number of classes: the fraction (0-1) of images whose class is among the
            k most probable ones.
        per_class: Scores of each class, in the order of `classes`.
        confusion: Number of images of class i (row) that are predicted as class j (column).
        classes: Class names.
    """

    count: int
    accuracy: float
    balanced_accuracy: float
    loss: float
    top_k: dict[str, float]
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON shape of `tlcli evaluate --json`."""
        return {
            "count": self.count,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "loss": self.loss,
            "top_k": self.top_k,
            "per_class": [vars(scores) for scores in self.per_class],
            "confusion": [list(row) for row in self.confusion],
            "classes": list(self.classes),
        }


# Lower bound of probabilities before their logarithm is taken, as in Keras.
EPSILON = 1e-7


def score(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Scores:
    """Compute the scores of predictions.

    Args:
        labels: int (images,); at least one image.
        probabilities: float (images, classes), 0-1. The loss takes those below 1e-7 as 1e-7.
        classes: Class names.
    """
    predictions = probabilities.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    hits, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall, f1 = _ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, support + predicted)
    per_class = tuple(
        ClassScores(name, int(n), float(p), float(r), float(f))
        for name, n, p, r, f in zip(classes, support, precision, recall, f1, strict=True)
    )
    correct = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    rank = (probabilities > correct[:, None]).sum(axis=1)
    return Scores(
        count=len(labels),
        accuracy=float((predictions == labels).mean()),
        balanced_accuracy=float(recall[support > 0].mean()),
        loss=float(-np.log(np.clip(correct, EPSILON, 1.0)).mean()),
        top_k={str(k): float((rank < k).mean()) for k in (3, 5) if k < len(classes)},
        per_class=per_class,
        confusion=tuple(tuple(int(value) for value in row) for row in confusion),
        classes=tuple(classes),
    )


def image_rows(
    paths: Sequence[Path], labels: Sequence[int], probabilities: np.ndarray, classes: Sequence[str]
) -> tuple[dict[str, Any], ...]:
    """The outcome for each image: `path`, `label`, `predicted`, `probability` of that class (0-1) and `correct`.

    Args:
        paths: Image files.
        labels: Their classes, as indices.
        probabilities: float (images, classes), 0-1.
        classes: Class names.
    """
    best = probabilities.argmax(axis=1)
    return tuple(
        {
            "path": path.as_posix(),
            "label": classes[label],
            "predicted": classes[index],
            "probability": float(row[index]),
            "correct": bool(index == label),
        }
        for path, label, index, row in zip(paths, labels, best, probabilities, strict=True)
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Element-wise part / whole, and 0 where the whole is 0."""
    ratios = np.zeros(len(whole))
    np.divide(part, whole, out=ratios, where=whole > 0)
    return ratios
