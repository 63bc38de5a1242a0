"""One fold: a member is the classifier that is trained on all other folds, and validated on its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tlcli.data.pixels import Examples
from tlcli.train import checkpoint, freeze, interpolation, policy
from tlcli.train.calibration import predict
from tlcli.train.checkpoint import Arrays, Progress
from tlcli.train.compile import StepState, prepare_step
from tlcli.train.optimizer import changing_variables
from tlcli.train.session import Session
from tlcli.train.step import score_start, train_epochs, verify_frozen


@dataclass
class Member:
    """The classifier of one fold.

    Attributes:
        train: The images of all other folds.
        val: The images of its own.
        weights: All weights of its classifier, after the kept steps.
        probabilities: Of `val`, float32 (images, classes), by these weights; None while the head is untrained.
    """

    train: Examples
    val: Examples
    weights: Arrays
    probabilities: np.ndarray | None = None


@dataclass
class Trained:
    """What a step made of a member.

    Attributes:
        progress: Its epochs and scores.
        start: Values of the moving variables before the step; likewise `end`, after the best epoch, or after the last
            one if none improved the metric.
        probabilities: Of the validation images, by position between `start`, 0, and `end`, 1.
        rows: Its rows of the history.
        diverged: Which loss was not finite, and what to try; empty if all were.
    """

    progress: Progress
    start: Arrays
    end: Arrays
    probabilities: Mapping[float, np.ndarray]
    rows: list[dict[str, Any]]
    diverged: str = ""

    def weights_at(self, position: float) -> Arrays:
        """Values of the moving variables at a position between `start` and `end`."""
        return interpolation.between(self.start, self.end, position)


@dataclass(frozen=True)
class PreparedStep:
    """A compiled step, and the variables of its optimiser before the first batch."""

    state: StepState
    optimizer: Arrays


def prepare(session: Session, step: policy.Step, earlier: PreparedStep | None) -> PreparedStep:
    """The step at its start, for the current weights. What another member compiled is used again if it fits."""
    if earlier is None or freeze.fingerprint(earlier.state.frozen) != earlier.state.frozen_fingerprint:
        state = prepare_step(session, step)
        return PreparedStep(state, checkpoint.copy_values(changing_variables(session.stage.trainee.optimizer)))
    checkpoint.assign_values(changing_variables(session.stage.trainee.optimizer), earlier.optimizer)
    start = checkpoint.copy_values(earlier.state.moving)
    state = replace(earlier.state, progress=Progress(), start_weights=start, best_weights=start, is_out_of_time=False)
    return replace(earlier, state=replace(state, diverged=""))


def train(session: Session, member: Member, prepared: PreparedStep) -> Trained:
    """Train a member that is in use, and score it at several positions between start and end.

    A member with a head that is solved already gets its probabilities before.
    """
    state = prepared.state
    if member.probabilities is None and state.phase.starts_from_probe:
        # They count if no step is kept.
        member.probabilities = predict(session, member.val)
    rows = len(session.history)
    score_start(session, state)
    train_epochs(session, state, state.step.epochs)
    end = state.best_weights if state.progress.best_epoch or state.diverged else checkpoint.copy_values(state.moving)
    done = Trained(state.progress, state.start_weights, end, {}, session.history[rows:], state.diverged)
    del session.history[rows:]
    positions = interpolation.POSITIONS if state.phase.interpolate and state.progress.epoch else ()
    probabilities = {}
    for position in (1.0, *positions):
        checkpoint.assign_values(state.moving, done.weights_at(position))
        probabilities[position] = predict(session, session.val)
    verify_frozen(state)
    return replace(done, probabilities=probabilities)


def use(session: Session, member: Member) -> None:
    """Make a member the classifier of the session."""
    session.train, session.val = member.train, member.val
    checkpoint.assign_values(session.classifier.model.weights, member.weights)
