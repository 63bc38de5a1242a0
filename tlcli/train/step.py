"""One step: train epoch by epoch, track the best weights, carry out the decision."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tlcli.errors import DivergedError
from tlcli.text import whole_percent
from tlcli.train import averaging, checkpoint, decision, events, freeze, interpolation, optimizer, policy
from tlcli.train.batch_callback import BatchCallback, UnfetchedLogs
from tlcli.train.calibration import ImageScores, score
from tlcli.train.checkpoint import Progress
from tlcli.train.compile import StepState, batches_of, batches_per_epoch, prepare_step, reseed
from tlcli.train.feed import feed
from tlcli.train.pace import pace_of
from tlcli.train.session import Session


def run_step(session: Session, step: policy.Step, *, resumed: checkpoint.Saved | None = None) -> policy.Outcome:
    """Train one step and keep it or roll it back.

    Args:
        session: The session.
        step: The step.
        resumed: A checkpoint from within this step, to continue from.

    Raises:
        DivergedError: If a loss is not finite, and there is no classifier from before the step to go back to.
        RuntimeError: If a frozen weight changed; an internal error.
    """
    state = prepare_step(session, step)
    if resumed:
        _restore(session, state, resumed)
    else:
        score_start(session, state)
    parameters = sum(int(np.prod(variable.shape)) for variable in state.trainable)
    session.observe(events.StepBegun(step, step.epochs, batches_per_epoch(session), len(session.train), parameters))
    train_epochs(session, state, step.epochs, save=lambda: _save(session, state))
    return _finish(session, state, parameters)


def train_epochs(session: Session, state: StepState, epochs: int, *, save: Callable[[], None] = lambda: None) -> None:
    """Train until the step has this many epochs, or runs out of patience or time. `save` is called after each.

    At the end, the weights are their moving averages if the optimiser keeps any. A loss that is not finite ends the
    step, and `state.diverged` names it.

    Raises:
        DivergedError: If a loss is not finite, and there is no classifier from before the step to go back to.
    """
    while state.progress.epoch < epochs and not _is_out_of_patience(session, state):
        began = time.perf_counter()
        try:
            setup_s = _run_epoch(session, state)
        except DivergedError as error:
            if not _follows_classifier(session, state):
                raise
            state.diverged = f"{error.message}. {error.hint.rstrip('.')}"
            state.progress.seconds += time.perf_counter() - began
            return
        state.is_out_of_time = session.budget.would_exceed(time.perf_counter() - began - setup_s)
        save()
        if state.is_out_of_time:
            break
    if state.progress.epoch:
        averaging.take_average(session.stage.trainee.optimizer, state.trainable)


def score_start(session: Session, state: StepState) -> None:
    """Score the weights before the step on the validation images, unless they are an untrained head."""
    progress = state.progress
    if len(session.val) and _follows_classifier(session, state):
        scored = score(session, session.val)
        state.set_best_scores(scored)
        if state.phase.until.after_rollback == "if_learnable":
            progress.learnable = decision.learnable(scored.hits.tolist(), scored.certainties.tolist())
        progress.start_scores, progress.start_hits = progress.best_scores, progress.best_hits
        progress.start_loss, progress.start_accuracy = progress.best_loss, progress.best_accuracy


def _follows_classifier(session: Session, state: StepState) -> bool:
    """True if there is a classifier from before the step, not an untrained head."""
    return bool(session.outcomes) or state.phase.starts_from_probe


def _restore(session: Session, state: StepState, saved: checkpoint.Saved) -> None:
    state.progress = Progress(**saved.state["progress"])
    state.best_weights = saved.arrays["best"]
    state.snapshots = [saved.arrays[f"snapshot{number}"] for number in range(len(state.progress.snapshot_ranks))]
    checkpoint.assign_values(state.moving, saved.arrays["moving"])
    checkpoint.assign_values(optimizer.changing_variables(session.stage.trainee.optimizer), saved.arrays["optimizer"])


def _is_out_of_patience(session: Session, state: StepState) -> bool:
    patience = state.phase.patience_epochs(batches_per_epoch(session))
    return patience is not None and state.progress.stale >= patience


def _run_epoch(session: Session, state: StepState) -> float:
    """Train and score one epoch.

    Returns:
        Seconds of tracing, which later epochs do not need.
    """
    progress, began = state.progress, time.perf_counter()
    loss, accuracy, lr, setup_s = _fit(session, state)
    progress.epoch += 1
    _require_finite(session, state, "training loss", loss)
    trained_s = time.perf_counter() - began
    flops = session.cost_of(state.step).epoch_flops
    session.budget.record_epoch(flops, trained_s - setup_s, setup_s if progress.epoch == 1 else None)
    with averaging.averaged(session.stage.trainee.optimizer, state.trainable):
        scored = score(session, session.val) if len(session.val) else None
        val_loss = None if scored is None else float(scored.losses.mean())
        if val_loss is not None:
            # The last update of an epoch can diverge without an effect on the training loss.
            _require_finite(session, state, "validation loss", val_loss)
        is_best = _update_best(state, scored)
    progress.seconds += time.perf_counter() - began
    done = events.EpochDone(
        step=state.step,
        epoch=progress.epoch,
        loss=loss,
        accuracy=accuracy,
        val_loss=val_loss,
        val_accuracy=None if scored is None else float(scored.hits.mean()),
        lr=lr,
        seconds=time.perf_counter() - began,
        images_per_second=len(session.train) / trained_s,
        is_best=is_best,
    )
    session.history.append(_history_row(done))
    session.observe(done)
    return setup_s


def _fit(session: Session, state: StepState) -> tuple[float, float, float, float]:
    """Train one epoch.

    Returns:
        Training loss, training accuracy (0-1), learning rate of the last batch, and seconds of tracing.
    """
    step, epoch, trainee = state.step, state.progress.epoch, session.stage.trainee
    order = np.random.default_rng([session.recipe.seed, step.phase, step.number, epoch + 1])
    reseed(trainee, order)
    steps = batches_per_epoch(session)
    rates = [_scheduled_lr(session, state, epoch + batch / steps) for batch in range(steps)]
    pace_of(trainee.optimizer).begin_epoch(rates)
    callback = BatchCallback(session, state, steps)
    callbacks = UnfetchedLogs([callback], add_history=True, model=trainee)
    batches = feed(batches_of(session, step, epoch, order))
    logs = trainee.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=callbacks, shuffle=False).history
    lr = float(np.float32(rates[len(callback.batch_ends_s) - 1]))
    return float(logs["loss"][0]), float(logs["accuracy"][0]), lr, callback.setup_s


def _require_finite(session: Session, state: StepState, name: str, value: float) -> None:
    if np.isfinite(value):
        return
    lr = session.learning_rate(state.phase)
    raise DivergedError(
        f"the {name} is {value} in epoch {state.progress.epoch}",
        where=f"phase {state.step.name}",
        hint=f"The learning rate {lr:g} is probably too high. Try --set phases.{state.step.phase}.lr={lr / 10:g}.",
    )


def _update_best(state: StepState, scored: ImageScores | None) -> bool:
    """Store the weights of the epoch if they are the best so far. Without validation images the last epoch is the best.

    Returns:
        True if the epoch is the best so far.
    """
    progress = state.progress
    if scored is not None:
        averaging.keep_snapshot(state, scored)
    is_best = scored is None or state.is_better(scored)
    if is_best:
        if scored is not None:
            state.set_best_scores(scored)
        progress.best_epoch = progress.epoch
        state.best_weights = checkpoint.copy_values(state.moving)
    progress.stale = 0 if is_best else progress.stale + 1
    progress.plateaus += progress.stale > 0 and progress.stale % optimizer.PLATEAU_EPOCHS == 0
    return is_best


def _save(session: Session, state: StepState) -> None:
    """Write a checkpoint if it is due. A run that resumes from an older one arrives at the same weights."""
    if not session.checkpoint.is_due():
        return
    session.checkpoint.write(
        {**session.state(), "progress": vars(state.progress), "epochs": state.step.epochs},
        {
            "moving": checkpoint.copy_values(state.moving),
            "optimizer": checkpoint.copy_values(optimizer.changing_variables(session.stage.trainee.optimizer)),
            "best": state.best_weights,
            **{f"snapshot{number}": weights for number, weights in enumerate(state.snapshots)},
        },
        keep=["start", "pretrained"],
    )


def _finish(session: Session, state: StepState, parameters: int) -> policy.Outcome:
    """Carry out the decision on the step, and verify that no frozen weight changed."""
    progress, phase = state.progress, state.phase
    mixed = 1 if state.diverged else averaging.mix_best(session, state)
    can_interpolate = phase.interpolate and progress.epoch and len(session.val) and not state.diverged
    position = interpolation.improve(session, state) if can_interpolate else 1.0
    result = decide(state)
    if result.kept and mixed > 1:
        result = replace(result, reason=f"{result.reason}; mean of the {mixed} best epochs")
    checkpoint.assign_values(state.moving, state.best_weights if result.kept else state.start_weights)
    verify_frozen(state)
    return outcome_of(state, result, position, parameters)


def verify_frozen(state: StepState) -> None:
    """Check that no frozen weight changed.

    Raises:
        RuntimeError: One has; an internal error.
    """
    if freeze.fingerprint(state.frozen) != state.frozen_fingerprint:
        raise RuntimeError(f"frozen weights changed in step '{state.step.name}'")


def outcome_of(state: StepState, result: decision.Decision, position: float, parameters: int) -> policy.Outcome:
    """The outcome of a step after the decision on it.

    Args:
        state: The step.
        result: The decision.
        position: Position of the best weights, from 0 (before the step) to 1 (the best epoch).
        parameters: Number of trained parameters.
    """
    progress = state.progress
    outcome = policy.Outcome(
        step=state.step,
        trainable_parameters=parameters,
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        loss_before=progress.start_loss,
        accuracy_before=progress.start_accuracy,
        val_loss=progress.best_loss,
        val_accuracy=progress.best_accuracy,
        confidence=result.confidence,
        kept=result.kept,
        reason=result.reason,
        seconds=progress.seconds,
        interpolation=position,
        learnable=progress.learnable,
    )
    if result.kept and position < 1:
        reason = f"{outcome.reason}; interpolated weights ({whole_percent(position)} of the step)"
        outcome = replace(outcome, reason=reason)
    if state.is_cut_short or (state.is_out_of_time and progress.epoch < state.step.epochs):
        reason = f"{outcome.reason}; stopped early: the time budget does not allow another epoch"
        outcome = replace(outcome, reason=reason, out_of_time=True)
    return policy.with_end_reason(outcome, state.phase)


def decide(state: StepState) -> decision.Decision:
    """The decision on a step by the scores of its progress."""
    if not state.step.epochs:
        return decision.PROBE_DECISION
    if state.diverged:
        return decision.diverged(state.diverged)
    progress = state.progress
    scores, hits = (progress.start_scores, progress.best_scores), (progress.start_hits, progress.best_hits)
    return decision.decide(scores, hits, state.phase.until)


def _scheduled_lr(session: Session, state: StepState, epochs: float) -> float:
    """The learning rate after a number of epochs of the step, which need not be whole."""
    recipe, phase = session.recipe, state.phase
    schedule = phase.schedule or recipe.optimizer.schedule
    warmup = phase.warmup_share(schedule)
    scale = optimizer.rate(schedule, epochs / state.step.epochs, plateaus=state.progress.plateaus, warmup=warmup)
    return session.learning_rate(phase) * scale


def _history_row(done: events.EpochDone) -> dict[str, Any]:
    return {
        "phase": done.step.name,
        "epoch": done.epoch,
        "loss": done.loss,
        "accuracy": done.accuracy,
        "val_loss": done.val_loss,
        "val_accuracy": done.val_accuracy,
        "lr": done.lr,
        "seconds": round(done.seconds, 3),
        "images_per_second": round(done.images_per_second, 1),
    }
