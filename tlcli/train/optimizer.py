"""The optimiser of a step: a Keras optimiser with one learning rate per layer group, and learning rate schedules."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.recipe.schema import OptimizerSpec

# Epochs in a row without a better one after which `plateau` halves the learning rate, for the rest of the step.
PLATEAU_EPOCHS = 2
# Share (0-1) of the learning rate at which a warm-up starts.
WARMUP_START = 0.04
# Fraction (0-1) of a step after which `one_cycle` is at its peak.
ONE_CYCLE_PEAK = 0.3


class ContinuingFtrl(keras.optimizers.Ftrl):
    """Ftrl that continues from the current weights, also when the learning rate changes.

    Ftrl in Keras derives the weights from a sum of gradients, as if they had been trained from zero at one rate. Its
    first step nearly erases pretrained weights, and every change of the rate rescales them.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Set the sum to the value that gives the current weights, then step."""
        index = self._get_variable_index(variable)
        weight = ops.sqrt(self._accumulators[index]) / learning_rate
        self.assign(self._linears[index], -ops.convert_to_tensor(variable) * weight)
        super().update_step(gradient, variable, learning_rate)


_CLASSES: dict[str, Any] = {
    "sgd": keras.optimizers.SGD,
    "momentum": functools.partial(keras.optimizers.SGD, momentum=0.9),
    "nesterov": functools.partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
    "adagrad": keras.optimizers.Adagrad,
    "rmsprop": keras.optimizers.RMSprop,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "ftrl": ContinuingFtrl,
}


@dataclass(frozen=True)
class Pull:
    """L2-SP: a pull of trainable variables towards their pretrained values.

    It adds the gradient of strength / 2 * ||w - w0||². Ref: Li et al. 2018, arXiv 1802.01483.

    Attributes:
        strength: Strength of the pull.
        anchors: The value w0 of each trainable variable; None for no pull.
    """

    strength: float
    anchors: Sequence[np.ndarray | None]


def build(
    spec: OptimizerSpec, lr: float, *, scales: Sequence[float], pull: Pull | None = None
) -> keras.optimizers.Optimizer:
    """Build the optimiser of a step.

    Args:
        spec: The optimiser of the recipe.
        lr: Learning rate.
        scales: Factor of the learning rate of each trainable variable.
        pull: Pull towards the pretrained values.
    """
    options: dict[str, Any] = {"learning_rate": lr}
    if spec.clip_norm is not None:
        options["global_clipnorm"] = spec.clip_norm
    if spec.clip_value is not None:
        options["clipvalue"] = spec.clip_value
    if spec.name == "adamw":
        options["weight_decay"] = spec.weight_decay
    optimizer = _CLASSES[spec.name](**options)
    if spec.name == "adamw":
        # Biases and the scales of normalisation layers do not decay, as in the papers that use AdamW.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    if any(scale != 1.0 for scale in scales):
        _scale(optimizer, scales)
    if pull is not None:
        _pull(optimizer, pull)
    return optimizer


def _scale(optimizer: keras.optimizers.Optimizer, scales: Sequence[float]) -> None:
    """Scale the learning rate of each variable.

    Keras has one rate for all variables and passes it to the update of each variable, so it is scaled there. Weight
    decay, which Keras applies elsewhere at the full rate, moves there too.
    """
    plain, decay = optimizer.update_step, optimizer.weight_decay
    optimizer.weight_decay = None

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        scaled = learning_rate * scales[optimizer._get_variable_index(variable)]
        if decay and optimizer._use_weight_decay(variable):
            optimizer.assign_sub(variable, ops.convert_to_tensor(variable) * decay * scaled)
        plain(gradient, variable, scaled)

    optimizer.update_step = update_step


def _pull(optimizer: keras.optimizers.Optimizer, pull: Pull) -> None:
    """Add the pull to the gradient of each variable that has an anchor."""
    plain = optimizer.update_step
    anchors = [None if anchor is None else ops.convert_to_tensor(anchor) for anchor in pull.anchors]

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        anchor = anchors[optimizer._get_variable_index(variable)]
        if anchor is not None:
            gradient = gradient + pull.strength * (ops.convert_to_tensor(variable) - anchor)
        plain(gradient, variable, learning_rate)

    optimizer.update_step = update_step


def rate(schedule: str, fraction: float, *, plateaus: int = 0, warmup: float = 0.0) -> float:
    """The share (0-1) of the learning rate to use.

    Ref: `one_cycle`: Smith & Topin 2017, arXiv 1708.07120. `cosine`: Loshchilov & Hutter 2016, arXiv 1608.03983.

    Args:
        schedule: Name of the schedule.
        fraction: Fraction (0-1) of the step's epochs that is done.
        plateaus: Number of plateaus so far. Only `plateau` uses it: it halves the rate at each.
        warmup: Fraction (0-1) of the step over which the rate rises linearly to that of the schedule.
    """
    rising = max(WARMUP_START, fraction / warmup) if fraction < warmup else 1.0
    return rising * _scheduled(schedule, fraction, plateaus)


def _scheduled(schedule: str, fraction: float, plateaus: int) -> float:
    match schedule:
        case "piecewise":
            return 1.0 if fraction < 0.5 else 0.1 if fraction < 0.75 else 0.01
        case "plateau":
            return 0.5**plateaus
        case "exponential":
            return 0.01**fraction
        case "power":
            return 1.0 / (1.0 + 9.0 * fraction)
        case "cosine":
            return _falling(fraction)
        case "one_cycle":
            if fraction < ONE_CYCLE_PEAK:
                return WARMUP_START + (1 - WARMUP_START) * fraction / ONE_CYCLE_PEAK
            return _falling((fraction - ONE_CYCLE_PEAK) / (1 - ONE_CYCLE_PEAK))
        case _:
            return 1.0


def _falling(fraction: float) -> float:
    """Half a cosine, from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
