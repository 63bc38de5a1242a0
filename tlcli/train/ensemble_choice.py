"""The choice of the runs whose mean becomes one classifier.

Ref: Caruana et al. 2004, Ensemble selection from libraries of models, ICML.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlcli.train.calibration import ImageScores, score_probabilities
from tlcli.train.ladder import CONFIDENCE, confidence_in


@dataclass(frozen=True)
class Choice:
    """The runs whose mean is the result.

    Attributes:
        members: Their positions; the first is the best one alone.
        confidence: Confidence (0-1) that each further one lowered the loss of the mean, in the order of `members`.
        scores: Of their mean.
    """

    members: tuple[int, ...]
    confidence: tuple[float, ...]
    scores: ImageScores


def choose(probabilities: Sequence[np.ndarray], labels: np.ndarray, *, first: int) -> Choice:
    """Add to the first run whichever lowers the loss of the mean most, as long as it surely does.

    Args:
        probabilities: Of every run for the validation images, float (images, classes), 0-1.
        labels: Of the validation images, int (images,).
        first: Position of the run that is the best one alone.
    """
    choice = Choice((first,), (), score_probabilities(probabilities[first], labels))
    while trials := [_with(choice, index, probabilities, labels) for index in _others(choice, len(probabilities))]:
        best = min(trials, key=lambda trial: float(trial.scores.losses.mean()))
        if best.confidence[-1] < CONFIDENCE:
            break
        choice = best
    return choice


def _others(choice: Choice, count: int) -> list[int]:
    return [index for index in range(count) if index not in choice.members]


def _with(choice: Choice, index: int, probabilities: Sequence[np.ndarray], labels: np.ndarray) -> Choice:
    members = (*choice.members, index)
    scores = score_probabilities(mean([probabilities[member] for member in members]), labels)
    sure = confidence_in(choice.scores.losses.tolist(), scores.losses.tolist())
    return Choice(members, (*choice.confidence, sure), scores)


def mean(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the probabilities of several classifiers, float64 (images, classes)."""
    return np.asarray(np.mean(np.stack(probabilities), axis=0, dtype=np.float64))
