"""How far scores can be trusted: confidence intervals of fractions, and how well probabilities agree with hits."""

import math
from dataclasses import dataclass

import numpy as np

# Quantile of the normal distribution for intervals with 95 % confidence.
Z = 1.959964
# Number of bins of equal width for the calibration error.
BINS = 10

Interval = tuple[float, float]
"""Lower and upper end, 0-1."""


def wilson(hits: int, count: int) -> Interval | None:
    """The 95 % confidence interval of a fraction; None for a count of 0.

    Wilson's score interval: unlike hits / count ± 2 standard errors, it stays within 0-1 and has a width if every image
    is a hit. Ref: Wilson 1927, doi 10.1080/01621459.1927.10502953.
    """
    if not count:
        return None
    share, scale = hits / count, 1 + Z**2 / count
    middle = (share + Z**2 / (2 * count)) / scale
    half = Z / scale * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def f1_interval(true_positives: int, others: int) -> Interval | None:
    """The 95 % confidence interval of an F1 score; None if the class neither occurs nor is predicted.

    F1 is 2j / (1 + j) for the fraction j of true positives among true positives, false positives and false negatives.
    The ends of Wilson's interval of j are converted.

    Args:
        true_positives: Images of the class that are predicted as the class.
        others: False positives and false negatives together.
    """
    interval = wilson(true_positives, true_positives + others)
    return None if interval is None else (_f1(interval[0]), _f1(interval[1]))


def _f1(jaccard: float) -> float:
    return 2 * jaccard / (1 + jaccard)


@dataclass(frozen=True)
class Bin:
    """The images whose confidence is in one interval: their number, mean confidence and accuracy, both 0-1."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """How well the confidence of predictions agrees with how often they are right.

    Attributes:
        error: The expected calibration error, 0-1: the mean difference of confidence and accuracy, weighted by the
            images of each bin.
        bins: The bins that have images, by increasing confidence.
    """

    error: float
    bins: tuple[Bin, ...]


def reliability(confidence: np.ndarray, hits: np.ndarray) -> Reliability:
    """Sort predictions into bins of equal width by their confidence. Ref: Guo et al. 2017, arXiv 1706.04599.

    Args:
        confidence: float (images,), probability of the predicted class, 0-1; at least one image.
        hits: bool or 0 and 1 (images,), whether the prediction is right.
    """
    # A confidence at the edge of two bins belongs to the lower one, as in the paper.
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for chosen in (number == index for index in range(BINS)):
        if chosen.any():
            bins.append(Bin(int(chosen.sum()), float(confidence[chosen].mean()), float(hits[chosen].mean())))
    error = sum(part.count * abs(part.confidence - part.accuracy) for part in bins) / len(confidence)
    return Reliability(error, tuple(bins))
