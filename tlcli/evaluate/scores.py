"""Scores of predictions against labels, as scikit-learn defines them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ClassScores:
    """One class: `support` images; precision, recall and F1 are 0-1, and 0 where there is nothing to divide by."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Scores:
    """How good a classifier was on some images.

    Attributes:
        count: Images.
        accuracy: Share of right answers, 0-1.
        balanced_accuracy: Mean recall over the classes that occur, 0-1.
        loss: Mean cross-entropy, natural logarithm.
        top_k: For some k, the share of images whose class is among the k most probable, 0-1.
        per_class: In class order.
        confusion: Images of class i (row) taken for class j (column).
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
            "per_class": [vars(each) for each in self.per_class],
            "confusion": [list(row) for row in self.confusion],
            "classes": list(self.classes),
        }


EPSILON = 1e-7


def score(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Scores:
    """Compare `int (images,)` labels with `float (images, classes)` probabilities, 0-1; at least one image.

    Loss is the mean negative logarithm of the right class's probability, which is taken as at least 1e-7.
    """
    guesses = probabilities.argmax(axis=1)
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(matrix, (labels, guesses), 1)
    hits, support, guessed = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    precision, recall, f1 = _share(hits, guessed), _share(hits, support), _share(2 * hits, support + guessed)
    per_class = tuple(
        ClassScores(name, int(n), float(p), float(r), float(f))
        for name, n, p, r, f in zip(classes, support, precision, recall, f1, strict=True)
    )
    right = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    rank = (probabilities > right[:, None]).sum(axis=1)
    return Scores(
        count=len(labels),
        accuracy=float((guesses == labels).mean()),
        balanced_accuracy=float(recall[support > 0].mean()),
        loss=float(-np.log(np.clip(right, EPSILON, 1.0)).mean()),
        top_k={str(k): float((rank < k).mean()) for k in (3, 5) if k < len(classes)},
        per_class=per_class,
        confusion=tuple(tuple(int(value) for value in row) for row in matrix),
        classes=tuple(classes),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """One by the other; 0 where there is nothing."""
    shares = np.zeros(len(whole))
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares
