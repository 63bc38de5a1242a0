"""The training images of an epoch, in batches."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tlcli.train import policy
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
