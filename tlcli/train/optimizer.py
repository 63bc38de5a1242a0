"""The optimiser of a step: a Keras optimiser with one learning rate per layer group, and learning rate schedules."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.model.head import OUTPUT_LAYER
from tlcli.recipe.optimizer import CLIPPING, DECAYING, Algorithm, OptimizerSpec
from tlcli.train.pace import FIRST, RATES

# Epochs in a row without a better one after which `plateau` halves the learning rate, for the rest of the step.
PLATEAU_EPOCHS = 2
# Share (0-1) of the learning rate at which a warm-up starts.
WARMUP_START = 0.04
# Fraction (0-1) of a step after which `one_cycle` is at its peak.
ONE_CYCLE_PEAK = 0.3
# Name of the variables towards which L2-SP pulls.
ANCHOR = "anchor"
# Cycles of `cosine_restarts`.
RESTARTING_CYCLES = 3


# Variables that neither decay nor are penalised, by parts of their names, as in the papers: biases, scale and offset of
# normalisation layers, slopes of PReLU.
UNPENALIZED = ("bias", "gamma", "beta", "alpha")


class ContinuingFtrl(keras.optimizers.Ftrl):
    """Ftrl that continues from the current weights, also when the learning rate changes.

    Ftrl in Keras derives the weights from a sum of gradients, as if they had been trained from zero at one rate. Its
    first step nearly erases pretrained weights, and every change of the rate rescales them.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Set the sum to the value that gives the current weights, then step."""
        index = self._get_variable_index(variable)
        weight = ops.power(self._accumulators[index], -self.learning_rate_power) / learning_rate
        self.assign(self._linears[index], -ops.convert_to_tensor(variable) * weight)
        given = {name: getattr(self, name) for name in _FTRL_PENALTIES.values()}
        for name, value in given.items():
            setattr(self, name, value if self._use_weight_decay(variable) else 0.0)
        super().update_step(gradient, variable, learning_rate)
        for name, value in given.items():
            setattr(self, name, value)


_FTRL_PENALTIES = {
    "l1": "l1_regularization_strength",
    "l2": "l2_regularization_strength",
    "l2_shrinkage": "l2_shrinkage_regularization_strength",
}
_CLASSES: dict[Algorithm, Any] = {
    "sgd": keras.optimizers.SGD,
    "momentum": functools.partial(keras.optimizers.SGD, momentum=0.9),
    "nesterov": functools.partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
    "adagrad": keras.optimizers.Adagrad,
    "rmsprop": keras.optimizers.RMSprop,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "ftrl": ContinuingFtrl,
    "adafactor": keras.optimizers.Adafactor,
    "lion": keras.optimizers.Lion,
    # The kernel of the last layer is trained as by Adam, as the authors of Muon advise.
    "muon": functools.partial(keras.optimizers.Muon, exclude_layers=[OUTPUT_LAYER]),
}
# Names in Keras of parameters that are called otherwise in recipes.
_KERAS_NAMES: dict[Algorithm, dict[str, str]] = {
    "ftrl": _FTRL_PENALTIES,
    "muon": {"beta_1": "adam_beta_1", "beta_2": "adam_beta_2"},
}
_CLIPPING = {"clip_norm": "global_clipnorm", "clip_norm_each": "clipnorm", "clip_value": "clipvalue"}


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
    optimizer = _CLASSES[spec.name](learning_rate=lr, **_options(spec))
    optimizer.exclude_from_weight_decay(var_names=list(UNPENALIZED))
    if spec.ema is not None:
        # Keras would put the averages in the place of the weights at the end of every epoch.
        optimizer.finalize_variable_values = _keep_values
    if any(scale != 1.0 for scale in scales):
        _scale(optimizer, scales)
    if pull is not None:
        _pull(optimizer, pull)
    return optimizer


def _keep_values(variables: Sequence[Any]) -> None:
    """Leave the variables as they are."""


def _options(spec: OptimizerSpec) -> dict[str, Any]:
    """The arguments in Keras, besides the learning rate."""
    names = _KERAS_NAMES.get(spec.name, {})
    options: dict[str, Any] = {names.get(name, name): value for name, value in spec.parameters.items()}
    options |= {_CLIPPING[name]: getattr(spec, name) for name in CLIPPING if getattr(spec, name) is not None}
    if spec.name in DECAYING:
        options["weight_decay"] = spec.weight_decay
    if spec.name == "muon":
        options["adam_weight_decay"] = spec.weight_decay
    if spec.accumulate > 1:
        options["gradient_accumulation_steps"] = spec.accumulate
    if spec.ema is not None:
        # Keras averages after every batch, so that these averages together are one per step.
        options |= {"use_ema": True, "ema_momentum": spec.ema ** (1 / spec.accumulate)}
    return options


def _scale(optimizer: keras.optimizers.Optimizer, scales: Sequence[float]) -> None:
    """Scale the learning rate of each variable.

    Keras has one rate for all variables and passes it to the update of each variable, so it is scaled there. Weight
    decay, which Keras applies elsewhere at the full rate, moves there too.
    """
    plain, decay = optimizer.update_step, optimizer.weight_decay
    optimizer.weight_decay = None
    if isinstance(optimizer, keras.optimizers.Muon):
        optimizer.adam_weight_decay = None

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        scaled = learning_rate * scales[optimizer._get_variable_index(variable)]
        if decay and optimizer._use_weight_decay(variable):
            optimizer.assign_sub(variable, ops.convert_to_tensor(variable) * decay * scaled)
        plain(gradient, variable, scaled)

    optimizer.update_step = update_step


def _pull(optimizer: keras.optimizers.Optimizer, pull: Pull) -> None:
    """Add the pull to the gradient of each variable that has an anchor.

    Anchors are variables of the optimiser: XLA compiles longer with constants.
    """
    plain = optimizer.update_step
    anchors = [None if anchor is None else _constant(optimizer, anchor) for anchor in pull.anchors]

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        anchor = anchors[optimizer._get_variable_index(variable)]
        if anchor is not None:
            gradient = gradient + pull.strength * (ops.convert_to_tensor(variable) - anchor)
        plain(gradient, variable, learning_rate)

    optimizer.update_step = update_step


def changing_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The variables that training changes, without those that a step or an epoch sets at its beginning."""
    return [variable for variable in optimizer.variables if variable.name not in (ANCHOR, RATES, FIRST)]


def _constant(optimizer: keras.optimizers.Optimizer, value: np.ndarray) -> keras.Variable:
    variable = optimizer.add_variable(value.shape, dtype=str(value.dtype), name=ANCHOR)
    variable.assign(value)
    return variable


def rate(schedule: str, fraction: float, *, plateaus: int = 0, warmup: float = 0.0) -> float:
    """The share (0-1) of the learning rate to use.

    Ref: `one_cycle`: Smith & Topin 2017, arXiv 1708.07120. `cosine` and `cosine_restarts`, whose cycles are twice as
    long as the ones before: Loshchilov & Hutter 2016, arXiv 1608.03983.

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
        case "cosine_restarts":
            start, length = _cycle_at(fraction)
            return _falling((fraction - start) / length)
        case "one_cycle":
            if fraction < ONE_CYCLE_PEAK:
                return WARMUP_START + (1 - WARMUP_START) * fraction / ONE_CYCLE_PEAK
            return _falling((fraction - ONE_CYCLE_PEAK) / (1 - ONE_CYCLE_PEAK))
        case _:
            return 1.0


def _cycle_at(fraction: float) -> tuple[float, float]:
    """Start and length of the cycle of `cosine_restarts` at a fraction (0-1) of the step."""
    start, length = 0.0, 1 / (2**RESTARTING_CYCLES - 1)
    for _ in range(RESTARTING_CYCLES - 1):
        if fraction < start + length:
            break
        start, length = start + length, 2 * length
    return start, length


def _falling(fraction: float) -> float:
    """Half a cosine, from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
