"""Scores: the plain numbers of one evaluation, ready for JSON."""

from dataclasses import dataclass
from typing import Any


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
