"""Weights between those before a step and those it trained: they may be better than both.

Ref: Wortsman et al. 2022, arXiv 2109.01903.
"""

import math
from collections.abc import Iterator

import numpy as np

from tlcli.train import checkpoint, decision
from tlcli.train.calibration import ImageScores, score
from tlcli.train.checkpoint import Arrays
from tlcli.train.compile import StepState
from tlcli.train.session import Session

# Positions between the weights before a step, 0, and those at the end, 1.
POSITIONS = (0.75, 0.5, 0.25)


def improve(session: Session, state: StepState) -> float:
    """Replace the best weights by interpolated ones if these have a larger confident gain.

    They lie between the weights before the step and those of its best epoch. A position near the start gains less, but
    the gain differs less from image to image. If no epoch improved the metric, the last one takes the place of the
    best: it may have gone too far in the right direction.

    Returns:
        Position of the best weights, from 0 (before the step) to 1 (the best epoch).
    """
    progress, until, position = state.progress, state.phase.until, 1.0
    start, best = progress.start_scores, progress.best_scores
    if start is None or best is None:
        return position
    end = state.best_weights if progress.best_epoch else checkpoint.copy_values(state.moving)
    best_gain = decision.confident_gain(start, best, until) if progress.best_epoch else -math.inf
    for share, weights, scored in _scored(session, state, end):
        scores = scored.values_for(until.metric)
        gain = decision.confident_gain(start, scores, until)
        # Of two confident gains below 0, the larger may belong to the smaller mean gain, even to none.
        if gain > best_gain and decision.mean_gain(start, scores, until) > 0:
            best_gain, position, state.best_weights = gain, share, weights
            state.set_best_scores(scored)
            progress.best_epoch = progress.best_epoch or progress.epoch
    return position


def between(start: Arrays, end: Arrays, position: float) -> Arrays:
    """The weights at a position from 0 (`start`) to 1 (`end`)."""
    if position == 1:
        return end
    return [old + (new - old) * np.float32(position) for old, new in zip(start, end, strict=True)]


def _scored(session: Session, state: StepState, end: Arrays) -> Iterator[tuple[float, Arrays, ImageScores]]:
    """Each position with its weights and their scores on the validation images."""
    for share in POSITIONS:
        weights = between(state.start_weights, end, share)
        checkpoint.assign_values(state.moving, weights)
        yield share, weights, score(session, session.val)
