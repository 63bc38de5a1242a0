"""Run one step of a phase: freeze, compile, train, keep the best epoch, tell what happens."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tlcli.errors import RunError
from tlcli.recipe.schema import PhaseSpec
from tlcli.train import checkpoint, events, freeze, optimizer, policy, precision
from tlcli.train.checkpoint import Progress
from tlcli.train.session import Scored, Session, score
from tlcli.train.stage import Trainee


@dataclass
class Running:
    """One step while it runs: its phase, what it may change, and how far it is."""

    step: policy.Step
    phase: PhaseSpec
    trainable: list[Any]
    moving: list[Any]
    frozen: list[Any]
    frozen_before: str
    progress: Progress = field(default_factory=Progress)
    before: checkpoint.Arrays = field(default_factory=list)
    best: checkpoint.Arrays = field(default_factory=list)


def run_step(session: Session, step: policy.Step, *, resumed: checkpoint.Saved | None = None) -> policy.Outcome:
    """Train one step to its end and keep or undo it. `resumed` is a checkpoint taken inside this very step.

    Raises:
        RunError: If the loss stops being a number.
        RuntimeError: If anything frozen changed; an internal error.
    """
    running = _prepared(session, step)
    if resumed:
        _take_up(session, running, resumed)
    else:
        _measure_start(session, running)
    batches = -(-len(session.train) // session.recipe.performance.batch_size)
    parameters = sum(int(np.prod(variable.shape)) for variable in running.trainable)
    session.observe(events.StepBegun(step, running.phase.most_epochs, batches, len(session.train), parameters))
    while running.progress.epoch < running.phase.most_epochs and not _is_out_of_patience(running):
        _epoch(session, running)
        _save(session, running)
    outcome = _concluded(session, running, parameters)
    session.outcomes.append(outcome)
    session.observe(events.StepDone(outcome))
    return outcome


def _prepared(session: Session, step: policy.Step) -> Running:
    phase = session.recipe.phases[step.phase]
    session.enter(step)
    trainee = session.stage.trainee
    uses_statistics = phase.batch_norm_policy == "train"
    trainable = freeze.apply(session.classifier, step.layers, batch_norm=phase.batch_norm_policy)
    moving = freeze.moving_variables(session.classifier, trainable, statistics=uses_statistics)
    frozen = freeze.frozen_variables(session.classifier, moving)
    trainee.uses_batch_statistics = uses_statistics
    running = Running(step, phase, trainable, moving, frozen, freeze.fingerprint(frozen))
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=session.recipe.augment.label_smoothing)
    trainee.precision = _precision(session, running, loss)
    lr = phase.rate(session.recipe.optimizer.lr)
    trainee.compile(
        optimizer=optimizer.build(session.recipe.optimizer, lr, scales=_scales(session, step, trainable)),
        loss=loss,
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=trainee.jit,
    )
    # In float16 Keras wraps the rule in a loss scale, which has variables of its own to save and take up.
    trainee.optimizer.build(trainable)
    running.before = checkpoint.values(moving)
    running.best = running.before
    return running


def _operations(session: Session, running: Running) -> float:
    """Floating point operations of a step whose precision is open: forwards above the frontier, and twice back."""
    if session.recipe.performance.precision != "auto" or session.stage.trainee.upper is None:
        return 0.0
    names, group = session.groups.names, session.stage.footing.group
    above = session.groups.groups[names.index(group.name) + 1 if group else 0 :]
    # Two operations a multiply-add.
    return 6.0 * running.phase.most_epochs * len(session.train) * sum(each.flops for each in above)


def _precision(session: Session, running: Running, loss: keras.losses.Loss) -> str:
    """The faster precision for a long step: as noted before, in this run or on this machine, or measured now."""
    name, operations = running.step.name, _operations(session, running)
    if not precision.is_worth_measuring(operations, session.device):
        return precision.FULL
    if name not in session.precisions:
        batch = next(_batches(session, running, np.random.default_rng(0)))
        an_image = operations / (running.phase.most_epochs * len(session.train))
        key = precision.key(session.groups.name, an_image, batch[0].shape, session.device)
        seconds = precision.known(session.measurements, key)
        if seconds is None:
            session.observe(events.Noticed(f"{name}: measuring whether bfloat16 is faster"))
            seconds = precision.measured(session.stage.trainee, batch, loss=loss, moving=running.moving)
            precision.remember(session.measurements, key, seconds)
        session.precisions[name] = {"chosen": precision.better(seconds), "seconds_a_step": seconds}
    return str(session.precisions[name]["chosen"])


def _scales(session: Session, step: policy.Step, trainable: list[Any]) -> list[float]:
    """Share of the learning rate for each trainable variable: the head 1, then `layer_decay` per group downwards."""
    decay = session.recipe.phases[step.phase].decay
    order = list(reversed(session.groups.names))
    depth = {layer.name: order.index(group.name) + 1 for group in session.groups.groups for layer in group.layers}
    scale_of = {
        id(variable): decay ** depth.get(layer.name, 0)
        for layer in session.classifier.model.layers
        for variable in layer.weights
    }
    return [scale_of[id(variable)] for variable in trainable]


def _measure_start(session: Session, running: Running) -> None:
    progress = running.progress
    if len(session.val) and (session.outcomes or running.phase.init == "probe"):
        start = score(session, session.val)
        progress.start_scores = start.judged(running.phase.until.metric)
        progress.start_loss, progress.start_accuracy = float(start.losses.mean()), float(start.hits.mean())
        progress.best_scores = progress.start_scores
        progress.best_loss, progress.best_accuracy = progress.start_loss, progress.start_accuracy


def _take_up(session: Session, running: Running, saved: checkpoint.Saved) -> None:
    running.progress = Progress(**saved.state["progress"])
    running.best = saved.arrays["best"]
    checkpoint.restore(running.moving, saved.arrays["moving"])
    checkpoint.restore(session.stage.trainee.optimizer.variables, saved.arrays["optimizer"])


def _is_out_of_patience(running: Running) -> bool:
    return running.phase.patience is not None and running.progress.stale >= running.phase.patience


def _epoch(session: Session, running: Running) -> None:
    progress, began = running.progress, time.perf_counter()
    number = progress.epoch + 1
    order = np.random.default_rng([session.recipe.seed, running.step.phase, running.step.number, number])
    _reseed(session.stage.trainee, order)
    steps = -(-len(session.train) // session.recipe.performance.batch_size)
    shown = _Each(session, running, steps)
    batches = _batches(session, running, order)
    fitted = session.stage.trainee.fit(
        batches, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[shown], shuffle=False
    )
    logs = fitted.history
    loss, accuracy = float(logs["loss"][0]), float(logs["accuracy"][0])
    lr = float(keras.ops.convert_to_numpy(session.stage.trainee.optimizer.learning_rate))
    progress.epoch = number
    _require_finite(session, running, "training loss", loss)
    trained_s = time.perf_counter() - began
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


def _require_finite(session: Session, running: Running, what: str, value: float) -> None:
    if np.isfinite(value):
        return
    lr = running.phase.rate(session.recipe.optimizer.lr)
    raise RunError(
        f"the {what} is {value} in epoch {running.progress.epoch}",
        where=f"phase {running.step.name}",
        hint=f"The learning rate {lr:g} is likely too high; try --set phases.{running.step.phase}.lr={lr / 10:g}.",
    )


def _note_best(running: Running, scored: Scored | None) -> bool:
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
            progress.best_loss, progress.best_accuracy = loss, accuracy
            progress.best_scores = scored.judged(running.phase.until.metric)
    progress.stale = 0 if is_best else progress.stale + 1
    if is_best:
        progress.best_epoch = progress.epoch
        running.best = checkpoint.values(running.moving)
    return is_best


def _save(session: Session, running: Running) -> None:
    session.checkpoint.write(
        {**session.state(), "progress": vars(running.progress)},
        {
            "moving": checkpoint.values(running.moving),
            "optimizer": checkpoint.values(session.stage.trainee.optimizer.variables),
            "best": running.best,
        },
        keep=["start"],
    )


def _concluded(session: Session, running: Running, parameters: int) -> policy.Outcome:
    """Judge the step, put the right weights in place, and prove that nothing frozen moved."""
    progress, phase = running.progress, running.phase
    if phase.most_epochs:
        verdict = policy.judge(progress.start_scores, progress.best_scores, phase.until)
    else:
        verdict = policy.Verdict(kept=True, confidence=None, reason="kept: the optimum of the linear probe")
    checkpoint.restore(running.moving, running.best if verdict.kept else running.before)
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
    )
    return policy.explained(outcome, phase)


def _batches(session: Session, running: Running, order: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    """Every training image once, shuffled: what the stage is fed, one-hot labels, weights.

    From epoch to epoch an image takes its stored renderings in turn, beginning with any of them.
    """
    recipe, train, step = session.recipe, session.train, running.step
    first = np.random.default_rng([recipe.seed, step.phase, step.number]).integers(0, 2**31, len(train))
    classes = len(session.classifier.classes)
    weights = _class_weights(session)
    shuffled = order.permutation(len(train))
    for at in range(0, len(train), recipe.performance.batch_size):
        chosen = shuffled[at : at + recipe.performance.batch_size]
        inputs = session.stage.rendered(train, chosen, first[chosen] + running.progress.epoch)
        labels = np.eye(classes, dtype=np.float32)[train.labels[chosen]]
        sample_weights = weights[train.labels[chosen]]
        if recipe.augment.mixup:
            share = np.float32(order.beta(recipe.augment.mixup, recipe.augment.mixup))
            partner = order.permutation(len(chosen))
            inputs = share * inputs.astype(np.float32) + (1 - share) * inputs[partner]
            labels = share * labels + (1 - share) * labels[partner]
            sample_weights = share * sample_weights + (1 - share) * sample_weights[partner]
        yield inputs, labels, sample_weights


def _class_weights(session: Session) -> np.ndarray:
    """`float32 (classes,)`, mean 1 over the training images: ones, or inverse to the class's share."""
    classes = len(session.classifier.classes)
    if session.recipe.data.class_weights == "none":
        return np.ones(classes, dtype=np.float32)
    counts = np.bincount(session.train.labels, minlength=classes)
    return (len(session.train) / (classes * counts)).astype(np.float32)


def _reseed(trainee: Trainee, order: np.random.Generator) -> None:
    """Give every random layer a seed that follows from run, step and epoch alone, so that resuming changes nothing.

    From the head down, and with numbers apart from the order of the images: whether outputs of frozen layers are
    stored or computed anew, the rest is the same.
    """
    seeds = np.random.default_rng(order.integers(0, 2**63, dtype=np.uint64))
    for part in (trainee.top, trainee.upper, trainee.augment, trainee.lower):
        for layer in part._flatten_layers() if part is not None else ():
            generator = getattr(layer, "seed_generator", None)
            if isinstance(generator, keras.random.SeedGenerator):
                generator.state.assign(seeds.integers(0, 2**31 - 1, size=2, dtype=np.int64))


def _lr(session: Session, running: Running, epochs: float) -> float:
    """The learning rate after so many epochs of the step, whole and in part."""
    recipe, phase = session.recipe, running.phase
    schedule = phase.schedule or recipe.optimizer.schedule
    share = optimizer.rate(schedule, epochs / phase.most_epochs, stale=running.progress.stale)
    return phase.rate(recipe.optimizer.lr) * share


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
    """Sets the learning rate before every batch and tells the observer after it."""

    def __init__(self, session: Session, running: Running, batches: int) -> None:
        super().__init__()
        self.session, self.running, self.batches = session, running, batches
        self.began = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Follow the schedule."""
        done = self.running.progress.epoch + batch / self.batches
        self.model.optimizer.learning_rate = _lr(self.session, self.running, done)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Pass on the running means."""
        seen, logs = (batch + 1) * self.session.recipe.performance.batch_size, logs or {}
        rate = seen / max(time.perf_counter() - self.began, 1e-6)
        loss, accuracy = float(logs.get("loss", 0.0)), float(logs.get("accuracy", 0.0))
        epoch = self.running.progress.epoch + 1
        self.session.observe(events.BatchDone(self.running.step, epoch, batch + 1, loss, accuracy, rate))
