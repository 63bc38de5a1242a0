"""The choice of the runs whose mean becomes one classifier.

Ref: Caruana et al. 2004, Ensemble selection from libraries of models, ICML.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlcli.train.calibration import ImageScores, score_probabilities

# By which share a further run must lower the loss: each makes the classifier larger and slower.
MIN_GAIN = 0.005


@dataclass(frozen=True)
class Choice:
    """The runs whose mean is the result.

    Attributes:
        members: Their positions; the first is the best one alone.
        scores: Of their mean.
    """

    members: tuple[int, ...]
    scores: ImageScores

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the mean."""
        return float(self.scores.losses.mean())


def choose(probabilities: Sequence[np.ndarray], labels: np.ndarray, *, first: int) -> Choice:
    """Add to the first run whichever lowers the loss of the mean most, as long as it does so by `MIN_GAIN`.

    No confidence is asked for: the loss of a mean is at most the mean of the losses (Jensen's inequality), so a run
    that is no worse has nothing to prove, and the first one has the luck of having been chosen.

    Args:
        probabilities: Of every run for the validation images, float (images, classes), 0-1.
        labels: Of the validation images, int (images,).
        first: Position of the run that is the best one alone.
    """
    choice = Choice((first,), score_probabilities(probabilities[first], labels))
    while trials := [_with(choice, index, probabilities, labels) for index in _others(choice, len(probabilities))]:
        best = min(trials, key=lambda trial: trial.loss)
        if best.loss > (1 - MIN_GAIN) * choice.loss:
            break
        choice = best
    return choice


def _others(choice: Choice, count: int) -> list[int]:
    return [index for index in range(count) if index not in choice.members]


def _with(choice: Choice, index: int, probabilities: Sequence[np.ndarray], labels: np.ndarray) -> Choice:
    members = (*choice.members, index)
    return Choice(members, score_probabilities(mean([probabilities[member] for member in members]), labels))


def mean(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the probabilities of several classifiers, float64 (images, classes)."""
    return np.asarray(np.mean(np.stack(probabilities), axis=0, dtype=np.float64))
