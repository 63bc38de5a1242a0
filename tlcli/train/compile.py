"""Preparation of a step: trainable variables, precision, scales of the learning rate, and batches."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tlcli.data.mixing import mix
from tlcli.data.sampling import epoch_order
from tlcli.model import precision
from tlcli.model.hosts import share_of
from tlcli.recipe.optimizer import OptimizerSpec
from tlcli.recipe.phase import PhaseSpec
from tlcli.train import checkpoint, events, freeze, loss, optimizer, policy
from tlcli.train.calibration import ImageScores
from tlcli.train.checkpoint import Progress
from tlcli.train.lr_range import LOWEST, LrRange, range_test
from tlcli.train.pace import Pace
from tlcli.train.session import Session
from tlcli.train.stage import Trainee


def batches_per_epoch(session: Session) -> int:
    """Number of batches of an epoch."""
    return _batches(session, len(session.train))


def _batches(session: Session, images: int) -> int:
    return -(-images // session.recipe.performance.batch_size)


def batches_of(
    session: Session, step: policy.Step, epoch: int, order: np.random.Generator
) -> Iterator[tuple[Any, ...]]:
    """The batches of one epoch, in random order: every training image once, unless `data.sampling` is balanced.

    Except on TensorFlow, some images come twice to fill the last batch.

    Each image takes its stored views in turn from epoch to epoch. The first view is random.

    Args:
        session: The session.
        step: The step.
        epoch: Number of the epoch, from 0.
        order: Random state of the order of the images and of mixing.

    Yields:
        Inputs of the trainee, `loss.targets` float32 (batch, …), and sample weights float32 (batch,); of several hosts,
        each gets its share of the batch.
    """
    recipe, train = session.recipe, session.train
    first_view = np.random.default_rng([recipe.seed, step.phase, step.number]).integers(0, 2**31, len(train))
    classes = len(session.classifier.classes)
    weights = _class_weights(session)
    taught = session.taught_of_train()
    shuffled, size = epoch_order(recipe.data, train.labels, order), recipe.performance.batch_size
    if keras.backend.backend() != "tensorflow":
        # Other backends compile each shape of batch anew, for many seconds: the first images fill the last batch.
        shuffled = np.resize(shuffled, -(-len(train) // size) * size)
    for start in range(0, len(shuffled), size):
        chosen = shuffled[start : start + size]
        inputs = session.stage.training_inputs(train, chosen, first_view[chosen] + epoch)
        labels = np.eye(classes, dtype=np.float32)[train.labels[chosen]]
        answers = None if taught is None else taught[chosen]
        batch = mix((inputs, loss.targets(labels, answers), weights[train.labels[chosen]]), recipe.augment, order)
        yield share_of(batch)


def _class_weights(session: Session) -> np.ndarray:
    """Weight of an image by class, `float32 (classes,)`: 1, or inverse to the class frequency, with mean 1."""
    classes = len(session.classifier.classes)
    if session.recipe.data.class_weights == "none":
        return np.ones(classes, dtype=np.float32)
    counts = np.bincount(session.train.labels, minlength=classes)
    return (len(session.train) / (classes * counts)).astype(np.float32)


def reseed(trainee: Trainee, order: np.random.Generator) -> None:
    """Seed every random layer from the random state of the epoch, so that a resumed run repeats it exactly.

    The seeds are assigned from the head down and come from a separate generator. So neither the order of the images nor
    the layers above the cut point depend on whether features are stored.
    """
    seeds = np.random.default_rng(order.integers(0, 2**63, dtype=np.uint64))
    for part in (trainee.top, trainee.upper, trainee.augment, trainee.lower):
        for layer in part._flatten_layers() if part is not None else ():
            generator = getattr(layer, "seed_generator", None)
            if isinstance(generator, keras.random.SeedGenerator):
                generator.state.assign(seeds.integers(0, 2**31 - 1, size=2, dtype=np.int64))


@dataclass
class StepState:
    """A step in progress.

    Attributes:
        step: The step.
        phase: Its phase.
        trainable: The trainable variables.
        moving: All variables that the step may change: the trainable ones and BatchNorm statistics.
        frozen: All other weights and statistics of the classifier.
        frozen_fingerprint: Their fingerprint before the step.
        progress: Epochs and scores so far.
        start_weights: Values of `moving` before the step.
        best_weights: Values of `moving` after the best epoch; before it, those before the step.
        snapshots: Values of `moving` after the best epochs, best first, if the phase averages them.
        is_out_of_time: True if the time budget does not allow another epoch.
        is_cut_short: True if the time budget ended the last epoch before its last batch.
        diverged: Which loss was not finite, and what to try; empty if all were.
    """

    step: policy.Step
    phase: PhaseSpec
    trainable: list[Any]
    moving: list[Any]
    frozen: list[Any]
    frozen_fingerprint: str
    progress: Progress = field(default_factory=Progress)
    start_weights: checkpoint.Arrays = field(default_factory=list)
    best_weights: checkpoint.Arrays = field(default_factory=list)
    snapshots: list[checkpoint.Arrays] = field(default_factory=list)
    is_out_of_time: bool = False
    is_cut_short: bool = False
    diverged: str = ""

    def is_better(self, scored: ImageScores) -> bool:
        """True if these scores beat those of the best weights."""
        progress = self.progress
        if progress.best_loss is None or progress.best_accuracy is None:
            return True
        if self.phase.until.metric == "val_loss":
            return float(scored.losses.mean()) < progress.best_loss
        return float(scored.hits.mean()) > progress.best_accuracy

    def set_best_scores(self, scored: ImageScores) -> None:
        """Make these the scores of the best weights."""
        progress, metric = self.progress, self.phase.until.metric
        progress.best_loss, progress.best_accuracy = float(scored.losses.mean()), float(scored.hits.mean())
        progress.best_scores, progress.best_hits = scored.values_for(metric), scored.values_for("val_accuracy")


def set_trainable(session: Session, step: policy.Step) -> tuple[list[Any], list[Any]]:
    """Make the layers of a step trainable and freeze all others.

    Returns:
        The trainable variables, and all variables that the step may change: these and BatchNorm statistics.
    """
    phase = session.recipe.phases[step.phase]
    batch_norm, momentum = phase.batch_norm_policy, phase.batch_norm_momentum
    trainable = freeze.set_trainable(session.classifier, step.layers, batch_norm=batch_norm, momentum=momentum)
    return trainable, freeze.moving_variables(session.classifier, trainable, batch_norm=batch_norm)


def prepare_step(session: Session, step: policy.Step) -> StepState:
    """Open the stage of a step, set its trainable variables, and compile the trainee."""
    phase = session.recipe.phases[step.phase]
    session.enter(step)
    trainable, moving = set_trainable(session, step)
    trainee = session.stage.trainee
    frozen = freeze.frozen_variables(session.classifier, moving)
    trainee.uses_batch_statistics = freeze.has_batch_statistics(phase.batch_norm_policy)
    state = StepState(step, phase, trainable, moving, frozen, freeze.fingerprint(frozen))
    objective = loss.training_loss(session.recipe, len(session.classifier.classes))
    trainee.precision = _choose_precision(session, state, objective)
    spec = session.recipe.optimizer
    if phase.learning_rate(spec.lr) == "find" and phase.name not in session.lr_ranges:
        session.lr_ranges[phase.name] = _find_lr(session, state, objective)
    _compile(session, state, spec, session.learning_rate(phase), objective)
    # Members of a cross-validation, which share the compiled step, may have more training images than this one.
    Pace(trainee.optimizer, _batches(session, len(session.pool)))
    state.start_weights = checkpoint.copy_values(moving)
    state.best_weights = state.start_weights
    return state


def _compile(session: Session, state: StepState, spec: OptimizerSpec, lr: float, objective: keras.losses.Loss) -> None:
    trainee = session.stage.trainee
    scales, pull = _lr_scales(session, state.step, state.trainable), _l2_sp(session, state.phase, state.trainable)
    built = optimizer.build(spec, lr, scales=scales, pull=pull)
    trainee.compile(
        # Small gradients vanish in float16.
        optimizer=keras.optimizers.LossScaleOptimizer(built) if trainee.precision == "float16" else built,
        loss=objective,
        metrics=[loss.training_accuracy(session.recipe, len(session.classifier.classes))],
        jit_compile=trainee.jit,
    )
    # The variables of a loss scale must exist before a checkpoint is restored.
    trainee.optimizer.build(state.trainable)


def _find_lr(session: Session, state: StepState, objective: keras.losses.Loss) -> LrRange:
    """The range test of a phase, with its optimiser and batches. It leaves all weights as they were."""
    values = checkpoint.copy_values(state.moving)
    # Every batch shows what its rate does.
    spec = session.recipe.optimizer.model_copy(update={"accumulate": 1, "ema": None})
    _compile(session, state, spec, LOWEST, objective)
    order = np.random.default_rng([session.recipe.seed, state.step.phase])
    reseed(session.stage.trainee, order)
    epochs = (batches_of(session, state.step, epoch, order) for epoch in itertools.count())
    found = range_test(session.stage.trainee, itertools.chain.from_iterable(epochs))
    checkpoint.assign_values(state.moving, values)
    count, name = len(found.rates), state.phase.name
    session.observe(events.Noticed(f"{name}: learning rate {found.lr:g}, by a range test of {count} batches"))
    return found


def _training_operations(session: Session, state: StepState) -> float:
    """Floating point operations of a step above its cut point, forward and backward."""
    if session.stage.trainee.upper is None:
        return 0.0
    names, group = session.groups.names, session.stage.placement.group
    above = session.groups.groups[names.index(group.name) + 1 if group else 0 :]
    # Two operations per multiply-add; the backward pass costs twice the forward pass.
    return 6.0 * state.step.epochs * len(session.train) * sum(group.flops for group in above)


def _choose_precision(session: Session, state: StepState, objective: keras.losses.Loss) -> str:
    """The precision of the recipe. `auto`: the faster one for a long step, measured once per machine and kept."""
    asked = session.recipe.performance.precision
    if asked != precision.AUTO:
        return asked
    name, operations = state.step.name, _training_operations(session, state)
    if not precision.is_worth_measuring(operations, session.device):
        return precision.FULL
    if name not in session.precisions:
        batch = next(batches_of(session, state.step, 0, np.random.default_rng(0)))
        operations_per_image = operations / (state.step.epochs * len(session.train))
        shape = (len(batch[1]), *session.stage.trainee.input_signature[0])
        key = precision.measurement_key(session.groups.name, operations_per_image, shape, session.device)
        session.precisions[name] = precision.choose_precision(
            session.measurements, key, lambda: _measure_precisions(session, state, batch, objective)
        )
    return str(session.precisions[name]["chosen"])


def _measure_precisions(
    session: Session, state: StepState, batch: tuple[Any, ...], objective: keras.losses.Loss
) -> dict[str, float]:
    """Seconds per training step in each precision. The trainee must be compiled again afterwards."""
    session.observe(events.Noticed(f"{state.step.name}: measuring whether bfloat16 is faster"))
    trainee, values = session.stage.trainee, checkpoint.copy_values(state.moving)

    def step_in(dtype: str) -> Callable[[], object]:
        trainee.precision = dtype
        trainee.compile(keras.optimizers.SGD(0.0), loss=objective, jit_compile=trainee.jit)
        return lambda: trainee.train_on_batch(*batch)

    seconds = precision.measure_seconds(step_in)
    # BatchNorm statistics change even at a learning rate of 0.
    checkpoint.assign_values(state.moving, values)
    return seconds


def _lr_scales(session: Session, step: policy.Step, trainable: list[Any]) -> list[float]:
    """Factor of the learning rate for each trainable variable.

    It is 1 for the head. For a layer group it comes from `step.rates`; without it, each group has `layer_decay` times
    the factor of the group above.
    """
    decay = session.recipe.phases[step.phase].decay
    scales = {name: decay ** (i + 1) for i, name in enumerate(reversed(session.groups.names))} | dict(step.rates)
    group_of = {layer.name: group.name for group in session.groups.groups for layer in group.layers}
    layers = layer_names(session)
    return [scales.get(group_of.get(layers[id(variable)], ""), 1.0) for variable in trainable]


def layer_names(session: Session) -> dict[int, str]:
    """The name of the outermost layer of each variable, by the id of the variable."""
    return {id(variable): layer.name for layer in session.classifier.model.layers for variable in layer.weights}


def _l2_sp(session: Session, phase: PhaseSpec, trainable: list[Any]) -> optimizer.Pull | None:
    """The pull towards the pretrained weights; None if the phase has none. Ref: Li et al. 2018, arXiv 1802.01483."""
    if not phase.l2_sp:
        return None
    anchors = {id(weight): value for weight, value in zip(session.backbone_weights, session.pretrained, strict=True)}
    return optimizer.Pull(phase.l2_sp, [anchors.get(id(variable)) for variable in trainable])
