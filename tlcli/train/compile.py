"""Prepare the network for a step: what learns, in which precision, with which optimiser and batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tlcli.model import precision
from tlcli.recipe.phase import PhaseSpec
from tlcli.train import checkpoint, events, freeze, optimizer, policy
from tlcli.train.checkpoint import Progress
from tlcli.train.session import Session
from tlcli.train.stage import Trainee


def batches_of(
    session: Session, step: policy.Step, epoch: int, order: np.random.Generator
) -> Iterator[tuple[Any, ...]]:
    """Every training image once, shuffled: what the stage is fed, one-hot labels, weights.

    From epoch to epoch, counted from 0, an image takes its stored renderings in turn, beginning with any of them.
    """
    recipe, train = session.recipe, session.train
    first = np.random.default_rng([recipe.seed, step.phase, step.number]).integers(0, 2**31, len(train))
    classes = len(session.classifier.classes)
    weights = _class_weights(session)
    shuffled = order.permutation(len(train))
    for at in range(0, len(train), recipe.performance.batch_size):
        chosen = shuffled[at : at + recipe.performance.batch_size]
        inputs = session.stage.rendered(train, chosen, first[chosen] + epoch)
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


def reseed(trainee: Trainee, order: np.random.Generator) -> None:
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


@dataclass
class StepState:
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
    is_out_of_time: bool = False


def trainable_variables(session: Session, step: policy.Step) -> tuple[list[Any], list[Any]]:
    """Let learn what a step trains, and nothing else.

    Returns:
        The variables that learn, and all that may change: these and BatchNorm statistics.
    """
    norms = session.recipe.phases[step.phase].batch_norm_policy
    trainable = freeze.apply(session.classifier, step.layers, batch_norm=norms)
    return trainable, freeze.moving_variables(session.classifier, trainable, statistics=norms == "train")


def prepare_step(session: Session, step: policy.Step) -> StepState:
    phase = session.recipe.phases[step.phase]
    session.enter(step)
    trainable, moving = trainable_variables(session, step)
    trainee = session.stage.trainee
    frozen = freeze.frozen_variables(session.classifier, moving)
    trainee.uses_batch_statistics = phase.batch_norm_policy == "train"
    running = StepState(step, phase, trainable, moving, frozen, freeze.fingerprint(frozen))
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=session.recipe.augment.label_smoothing)
    trainee.precision = _precision(session, running, loss)
    lr = phase.learning_rate(session.recipe.optimizer.lr)
    scales, pull = _scales(session, step, trainable), _pull(session, phase, trainable)
    trainee.compile(
        optimizer=optimizer.build(session.recipe.optimizer, lr, scales=scales, pull=pull),
        loss=loss,
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=trainee.jit,
    )
    # In float16 Keras wraps the rule in a loss scale, which has variables of its own to save and take up.
    trainee.optimizer.build(trainable)
    running.before = checkpoint.copy_values(moving)
    running.best = running.before
    return running


def _operations(session: Session, running: StepState) -> float:
    """Floating point operations of a step whose precision is open: forwards above the frontier, and twice back."""
    if session.recipe.performance.precision != "auto" or session.stage.trainee.upper is None:
        return 0.0
    names, group = session.groups.names, session.stage.footing.group
    above = session.groups.groups[names.index(group.name) + 1 if group else 0 :]
    # Two operations a multiply-add.
    return 6.0 * running.step.epochs * len(session.train) * sum(each.flops for each in above)


def _precision(session: Session, running: StepState, loss: keras.losses.Loss) -> str:
    """The faster precision for a long step: as noted before, in this run or on this machine, or measured now."""
    name, operations = running.step.name, _operations(session, running)
    if not precision.is_worth_measuring(operations, session.device):
        return precision.FULL
    if name not in session.precisions:
        batch = next(batches_of(session, running.step, 0, np.random.default_rng(0)))
        an_image = operations / (running.step.epochs * len(session.train))
        key = precision.measurement_key(session.groups.name, an_image, batch[0].shape, session.device)
        session.precisions[name] = precision.choose_precision(
            session.measurements, key, lambda: _measured(session, running, batch, loss)
        )
    return str(session.precisions[name]["chosen"])


def _measured(
    session: Session, running: StepState, batch: tuple[Any, ...], loss: keras.losses.Loss
) -> dict[str, float]:
    """Seconds that a step of training takes in each precision. The trainee is to be compiled afterwards."""
    session.observe(events.Noticed(f"{running.step.name}: measuring whether bfloat16 is faster"))
    trainee, before = session.stage.trainee, checkpoint.copy_values(running.moving)

    def step_in(dtype: str) -> Callable[[], object]:
        trainee.precision = dtype
        trainee.compile(keras.optimizers.SGD(0.0), loss=loss, jit_compile=trainee.jit)
        return lambda: trainee.train_on_batch(*batch)

    seconds = precision.measure_seconds(step_in)
    # A step moves statistics even where the rate is nought.
    checkpoint.assign_values(running.moving, before)
    return seconds


def _scales(session: Session, step: policy.Step, trainable: list[Any]) -> list[float]:
    """Share of the learning rate for each trainable variable.

    The head has 1; each group what the step says, or `layer_decay` times the rate of the one above.
    """
    decay = session.recipe.phases[step.phase].decay
    share = {name: decay ** (depth + 1) for depth, name in enumerate(reversed(session.groups.names))} | dict(step.rates)
    group_of = {layer.name: group.name for group in session.groups.groups for layer in group.layers}
    layers = layer_of(session)
    return [share.get(group_of.get(layers[id(variable)], ""), 1.0) for variable in trainable]


def layer_of(session: Session) -> dict[int, str]:
    """By the id of a variable the name of the outermost layer that has it."""
    return {id(variable): layer.name for layer in session.classifier.model.layers for variable in layer.weights}


def _pull(session: Session, phase: PhaseSpec, trainable: list[Any]) -> optimizer.Pull | None:
    if not phase.l2_sp:
        return None
    anchors = {id(weight): value for weight, value in zip(session.backbone_weights, session.pretrained, strict=True)}
    return optimizer.Pull(phase.l2_sp, [anchors.get(id(variable)) for variable in trainable])
