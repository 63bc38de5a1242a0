"""The optimiser of a step: any of Keras's, with a learning rate per layer group, and schedules."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.recipe.schema import OptimizerSpec

# Where rising rates begin.
FIRST_SHARE = 0.04


class _Ftrl(keras.optimizers.Ftrl):
    """Ftrl that goes on from the weights there are, at whatever rate.

    Keras's own keeps a sum that stands for weights trained from zero at one rate: its first step would all but erase
    pretrained weights, and every change of the rate would rescale them.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Set the sum to what stands for the current weights, then step."""
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
    "ftrl": _Ftrl,
}


@dataclass(frozen=True)
class Pull:
    """Draws variables to where they were: `anchors[i]` is the value for the i-th trainable one, None for no pull.

    Adds the gradient of strength / 2 * ||w - w0||², L2-SP. Ref: Li et al. 2018, arXiv 1802.01483.
    """

    strength: float
    anchors: Sequence[np.ndarray | None]


def build(
    spec: OptimizerSpec, lr: float, *, scales: Sequence[float], pull: Pull | None = None
) -> keras.optimizers.Optimizer:
    """An optimiser that trains the i-th trainable variable at `scales[i]` times the learning rate."""
    options: dict[str, Any] = {"learning_rate": lr}
    if spec.clip_norm is not None:
        options["global_clipnorm"] = spec.clip_norm
    elif spec.clip_value is not None:
        options["clipvalue"] = spec.clip_value
    if spec.name == "adamw":
        options["weight_decay"] = spec.weight_decay
    optimizer = _CLASSES[spec.name](**options)
    if spec.name == "adamw":
        # As in the papers that use it: BatchNorm's scales and all biases are not pulled to zero.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    if any(scale != 1.0 for scale in scales):
        _scale(optimizer, scales)
    if pull is not None:
        _pull(optimizer, pull)
    return optimizer


def _scale(optimizer: keras.optimizers.Optimizer, scales: Sequence[float]) -> None:
    """Keras has one rate for all variables, but hands it to every variable's own update: scale it there.

    Weight decay, which Keras applies elsewhere at the full rate, comes along.
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
    """Add to the gradient of each anchored variable, on its way to the variable's own update."""
    plain = optimizer.update_step
    anchors = [None if anchor is None else ops.convert_to_tensor(anchor) for anchor in pull.anchors]

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        anchor = anchors[optimizer._get_variable_index(variable)]
        if anchor is not None:
            gradient = gradient + pull.strength * (ops.convert_to_tensor(variable) - anchor)
        plain(gradient, variable, learning_rate)

    optimizer.update_step = update_step


def rate(schedule: str, fraction: float, *, stale: int = 0, warmup: float = 0.0) -> float:
    """The share of the learning rate to use when `fraction` (0-1) of a step's epochs is done.

    It rises to what the schedule says over the first `warmup`, 0-1.

    `stale` is the number of epochs since the last best one; only `plateau` looks at it, halving every 2.
    `one_cycle` warms up over the first 30 %. Ref: Smith & Topin 2017, arXiv 1708.07120; cosine: Loshchilov & Hutter
    2016, arXiv 1608.03983.
    """
    rising = max(FIRST_SHARE, fraction / warmup) if fraction < warmup else 1.0
    return rising * _scheduled(schedule, fraction, stale)


def _scheduled(schedule: str, fraction: float, stale: int) -> float:
    match schedule:
        case "piecewise":
            return 1.0 if fraction < 0.5 else 0.1 if fraction < 0.75 else 0.01
        case "plateau":
            return 0.5 ** (stale // 2)
        case "exponential":
            return 0.01**fraction
        case "power":
            return 1.0 / (1.0 + 9.0 * fraction)
        case "cosine":
            return _falling(fraction)
        case "one_cycle":
            warm = 0.3
            return (
                FIRST_SHARE + (1 - FIRST_SHARE) * fraction / warm
                if fraction < warm
                else _falling((fraction - warm) / (1 - warm))
            )
        case _:
            return 1.0


def _falling(fraction: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
