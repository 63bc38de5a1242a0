"""Run one step: train epoch by epoch, remember the best, decide, report."""

import time
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from tlcli.errors import RunError
from tlcli.train import checkpoint, decision, events, freeze, optimizer, policy
from tlcli.train.calibration import Scored, score
from tlcli.train.checkpoint import Progress
from tlcli.train.compile import StepState, batches_of, prepare_step, reseed
from tlcli.train.session import Session

# Places between the weights before and after a step that are tried, as shares of the way.
INTERPOLATIONS = (0.75, 0.5, 0.25)


def run_step(session: Session, step: policy.Step, *, resumed: checkpoint.Saved | None = None) -> policy.Outcome:
    """Train one step to its end and keep or undo it. `resumed` is a checkpoint taken inside this very step.

    Raises:
        RunError: If the loss stops being a number.
        RuntimeError: If anything frozen changed; an internal error.
    """
    running = prepare_step(session, step)
    if resumed:
        _restore(session, running, resumed)
    else:
        _measure_start(session, running)
    batches = -(-len(session.train) // session.recipe.performance.batch_size)
    parameters = sum(int(np.prod(variable.shape)) for variable in running.trainable)
    session.observe(events.StepBegun(step, step.epochs, batches, len(session.train), parameters))
    while running.progress.epoch < running.step.epochs and not _is_out_of_patience(running):
        began = time.perf_counter()
        setup_s = _epoch(session, running)
        running.is_out_of_time = session.budget.would_exceed(time.perf_counter() - began - setup_s)
        _save(session, running)
        if running.is_out_of_time:
            break
    return _conclude(session, running, parameters)


def _measure_start(session: Session, running: StepState) -> None:
    progress = running.progress
    if len(session.val) and (session.outcomes or running.phase.starts_from_probe):
        _note_scores(running, score(session, session.val))
        progress.start_scores, progress.start_hits = progress.best_scores, progress.best_hits
        progress.start_loss, progress.start_accuracy = progress.best_loss, progress.best_accuracy


def _note_scores(running: StepState, scored: Scored) -> None:
    """Note the scores of what is the best so far."""
    progress = running.progress
    progress.best_loss, progress.best_accuracy = float(scored.losses.mean()), float(scored.hits.mean())
    progress.best_scores, progress.best_hits = (
        scored.values_for(running.phase.until.metric),
        scored.values_for("val_accuracy"),
    )


def _restore(session: Session, running: StepState, saved: checkpoint.Saved) -> None:
    running.progress = Progress(**saved.state["progress"])
    running.best = saved.arrays["best"]
    checkpoint.assign_values(running.moving, saved.arrays["moving"])
    checkpoint.assign_values(session.stage.trainee.optimizer.variables, saved.arrays["optimizer"])


def _is_out_of_patience(running: StepState) -> bool:
    return running.phase.patience is not None and running.progress.stale >= running.phase.patience


def _epoch(session: Session, running: StepState) -> float:
    """Train and score for an epoch; returns the seconds of it that went into tracing and will not come again."""
    progress, began = running.progress, time.perf_counter()
    number = progress.epoch + 1
    order = np.random.default_rng([session.recipe.seed, running.step.phase, running.step.number, number])
    reseed(session.stage.trainee, order)
    steps = -(-len(session.train) // session.recipe.performance.batch_size)
    shown = _Each(session, running, steps)
    batches = batches_of(session, running.step, progress.epoch, order)
    fitted = session.stage.trainee.fit(
        batches, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[shown], shuffle=False
    )
    logs = fitted.history
    loss, accuracy = float(logs["loss"][0]), float(logs["accuracy"][0])
    lr = float(keras.ops.convert_to_numpy(session.stage.trainee.optimizer.learning_rate))
    progress.epoch = number
    _require_finite(session, running, "training loss", loss)
    trained_s = time.perf_counter() - began
    setup_s = shown.setup_s
    session.budget.note_epoch(
        session.work(running.step).epoch_flops, trained_s - setup_s, setup_s if number == 1 else None
    )
    scored = score(session, session.val) if len(session.val) else None
    is_best = _note_best(running, scored)
    if scored is not None:
        # The last update of an epoch may go too far without showing in its training loss.
        _require_finite(session, running, "validation loss", float(scored.losses.mean()))
    progress.seconds += time.perf_counter() - began
    done = events.EpochDone(
        step=running.step,
        epoch=number,
        loss=loss,
        accuracy=accuracy,
        val_loss=None if scored is None else float(scored.losses.mean()),
        val_accuracy=None if scored is None else float(scored.hits.mean()),
        lr=lr,
        seconds=time.perf_counter() - began,
        images_per_second=len(session.train) / trained_s,
        is_best=is_best,
    )
    session.history.append(_row(done))
    session.observe(done)
    return setup_s


def _require_finite(session: Session, running: StepState, what: str, value: float) -> None:
    if np.isfinite(value):
        return
    lr = running.phase.learning_rate(session.recipe.optimizer.lr)
    raise RunError(
        f"the {what} is {value} in epoch {running.progress.epoch}",
        where=f"phase {running.step.name}",
        hint=f"The learning rate {lr:g} is likely too high; try --set phases.{running.step.phase}.lr={lr / 10:g}.",
    )


def _note_best(running: StepState, scored: Scored | None) -> bool:
    """Keep the weights of the epoch if it is the best so far; without validation the last is the best."""
    progress = running.progress
    if scored is None:
        is_best = True
    else:
        by_loss = running.phase.until.metric == "val_loss"
        loss, accuracy = float(scored.losses.mean()), float(scored.hits.mean())
        if progress.best_loss is None or progress.best_accuracy is None:
            is_best = True
        else:
            is_best = loss < progress.best_loss if by_loss else accuracy > progress.best_accuracy
        if is_best:
            _note_scores(running, scored)
    progress.stale = 0 if is_best else progress.stale + 1
    if is_best:
        progress.best_epoch = progress.epoch
        running.best = checkpoint.copy_values(running.moving)
    return is_best


def _save(session: Session, running: StepState) -> None:
    session.checkpoint.write(
        {**session.state(), "progress": vars(running.progress), "epochs": running.step.epochs},
        {
            "moving": checkpoint.copy_values(running.moving),
            "optimizer": checkpoint.copy_values(session.stage.trainee.optimizer.variables),
            "best": running.best,
        },
        keep=["start", "pretrained"],
    )


def _interpolate(session: Session, running: StepState) -> float:
    """Put weights between those before the step and those of its best epoch in the place of the best, if better.

    Better is what surely gains more: a shorter way gains less, but images differ less about it. Where no epoch was
    better than what was before, the last one stands for the best: it may have gone too far in the right direction.

    Returns:
        How far they lie from the former to the latter, 0-1.
    """
    progress, until, chosen = running.progress, running.phase.until, 1.0
    start, best = progress.start_scores, progress.best_scores
    if start is None or best is None:
        return chosen
    after = running.best if progress.best_epoch else checkpoint.copy_values(running.moving)
    most = decision.confident_gain(start, best, until)
    for share in INTERPOLATIONS:
        between = [old + (new - old) * np.float32(share) for old, new in zip(running.before, after, strict=True)]
        checkpoint.assign_values(running.moving, between)
        scored = score(session, session.val)
        judged = scored.values_for(until.metric)
        found = decision.confident_gain(start, judged, until)
        # Of two that are both unsure, one that gains nothing at all may be the one that is less so.
        if found > most and decision.mean_gain(start, judged, until) > 0:
            most, chosen, running.best = found, share, between
            _note_scores(running, scored)
            progress.best_epoch = progress.best_epoch or progress.epoch
    return chosen


def _conclude(session: Session, running: StepState, parameters: int) -> policy.Outcome:
    """Judge the step, put the right weights in place, and prove that nothing frozen moved."""
    progress, phase = running.progress, running.phase
    share = _interpolate(session, running) if phase.interpolate and progress.epoch and len(session.val) else 1.0
    if running.step.epochs:
        verdict = decision.judge(progress.start_scores, progress.best_scores, phase.until)
        verdict = decision.reject_if_idle(verdict, progress.start_hits, progress.best_hits, phase.until)
    else:
        verdict = decision.Decision(kept=True, confidence=None, reason="kept: the optimum of the linear probe")
    checkpoint.assign_values(running.moving, running.best if verdict.kept else running.before)
    if freeze.fingerprint(running.frozen) != running.frozen_before:
        raise RuntimeError(f"frozen weights changed in step '{running.step.name}'")
    outcome = policy.Outcome(
        step=running.step,
        trainable_parameters=parameters,
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        loss_before=progress.start_loss,
        accuracy_before=progress.start_accuracy,
        val_loss=progress.best_loss,
        val_accuracy=progress.best_accuracy,
        confidence=verdict.confidence,
        kept=verdict.kept,
        reason=verdict.reason,
        seconds=progress.seconds,
        interpolation=share,
    )
    if verdict.kept and share < 1:
        outcome = replace(outcome, reason=f"{outcome.reason}, {share:.0%} of the way from the weights before it")
    if running.is_out_of_time and progress.epoch < running.step.epochs:
        reason = f"{outcome.reason}; ended early, as no further epoch fits the time budget"
        outcome = replace(outcome, reason=reason, out_of_time=True)
    return policy.with_end_reason(outcome, phase)


def _lr(session: Session, running: StepState, epochs: float) -> float:
    """The learning rate after so many epochs of the step, whole and in part."""
    recipe, phase = session.recipe, running.phase
    schedule = phase.schedule or recipe.optimizer.schedule
    warmup = phase.warmup_share(schedule)
    share = optimizer.rate(schedule, epochs / running.step.epochs, stale=running.progress.stale, warmup=warmup)
    return phase.learning_rate(recipe.optimizer.lr) * share


def _row(done: events.EpochDone) -> dict[str, Any]:
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


class _Each(keras.callbacks.Callback):
    """Sets the learning rate before every batch, and tells the observer and takes the time after it."""

    def __init__(self, session: Session, running: StepState, batches: int) -> None:
        super().__init__()
        self.session, self.running, self.batches = session, running, batches
        self.began = time.perf_counter()
        self.ended: list[float] = []

    @property
    def setup_s(self) -> float:
        """Seconds that the first batch took longer than the others do: in the first epoch it is traced."""
        if len(self.ended) < 2:
            return 0.0
        first, usual = self.ended[0] - self.began, (self.ended[-1] - self.ended[0]) / (len(self.ended) - 1)
        return max(first - usual, 0.0)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Follow the schedule."""
        done = self.running.progress.epoch + batch / self.batches
        self.model.optimizer.learning_rate = _lr(self.session, self.running, done)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Pass on the running means."""
        self.ended.append(time.perf_counter())
        seen, logs = (batch + 1) * self.session.recipe.performance.batch_size, logs or {}
        rate = seen / max(time.perf_counter() - self.began, 1e-6)
        loss, accuracy = float(logs.get("loss", 0.0)), float(logs.get("accuracy", 0.0))
        epoch = self.running.progress.epoch + 1
        self.session.observe(events.BatchDone(self.running.step, epoch, batch + 1, loss, accuracy, rate))
        if self.session.budget.is_over:
            self.model.stop_training = True
