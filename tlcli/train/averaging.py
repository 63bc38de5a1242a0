"""Averages of weights: the moving average over the steps, and the mean of the best epochs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tlcli.train import checkpoint
from tlcli.train.calibration import ImageScores, score
from tlcli.train.checkpoint import Arrays
from tlcli.train.compile import StepState
from tlcli.train.session import Session


@contextmanager
def averaged(optimizer: Any, trainable: Sequence[Any]) -> Iterator[None]:
    """A context in which the trainable variables have their moving averages, if the optimiser keeps any."""
    raw = checkpoint.copy_values(trainable)
    if take_average(optimizer, trainable):
        yield
        checkpoint.assign_values(trainable, raw)
    else:
        yield


def take_average(optimizer: Any, trainable: Sequence[Any]) -> bool:
    """Put the moving averages in the place of the trainable variables.

    Keras averages before it applies constraints, so they are applied here.

    Args:
        optimizer: The optimiser of the step, after at least one batch.
        trainable: The variables with which it was built, in the same order.

    Returns:
        True if the optimiser keeps averages.
    """
    # The loss scale of float16 wraps the optimiser.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not inner.use_ema:
        return False
    # Copies: on JAX, variables that share an array also share its end.
    averages = checkpoint.copy_values(inner._model_variables_moving_average)
    checkpoint.assign_values(trainable, averages)
    for variable in trainable:
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))
    return True


def keep_snapshot(state: StepState, scored: ImageScores) -> None:
    """Keep the current weights if the epoch is among the `soup` best ones of the step."""
    count, progress = state.phase.soup, state.progress
    if count == 1:
        return
    # Less is better.
    rank = float(scored.losses.mean()) if state.phase.until.metric == "val_loss" else -float(scored.hits.mean())
    position = int(np.searchsorted(progress.snapshot_ranks, rank, side="right"))
    progress.snapshot_ranks.insert(position, rank)
    state.snapshots.insert(position, checkpoint.copy_values(state.moving))
    del progress.snapshot_ranks[count:], state.snapshots[count:]


def mix_best(session: Session, state: StepState) -> int:
    """Make the mean of the best epochs the best weights, if it validates better than the best epoch.

    Ref: a uniform soup, Wortsman et al. 2022, arXiv 2203.05482, of epochs of one run.

    Returns:
        Number of epochs in the best weights: 1, or the number of the mean.
    """
    if len(state.snapshots) < 2:
        return 1
    last = checkpoint.copy_values(state.moving)
    weights: Arrays = [np.mean(np.stack(values), axis=0) for values in zip(*state.snapshots, strict=True)]
    checkpoint.assign_values(state.moving, weights)
    mean = checkpoint.copy_values(state.moving)
    scored = score(session, session.val)
    if not state.is_better(scored):
        checkpoint.assign_values(state.moving, last)
        return 1
    state.set_best_scores(scored)
    state.best_weights = mean
    state.progress.best_epoch = state.progress.best_epoch or state.progress.epoch
    return len(state.snapshots)
