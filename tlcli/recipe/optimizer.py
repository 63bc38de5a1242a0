"""The optimiser of a recipe, and which optimiser has which parameter."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from tlcli.recipe.fields import Fraction, Schedule, Spec, refuse

Algorithm = Literal[
    "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "ftrl", "adafactor", "lion", "muon"
]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
_ADAM = ("beta_1", "beta_2", "epsilon", "amsgrad")
# The parameters of each optimiser.
PARAMETERS: dict[Algorithm, tuple[str, ...]] = {
    "sgd": (),
    "momentum": ("momentum",),
    "nesterov": ("momentum",),
    "adagrad": ("epsilon", "initial_accumulator_value"),
    "rmsprop": ("rho", "momentum", "epsilon", "centered"),
    "adam": _ADAM,
    "adamw": _ADAM,
    "ftrl": ("l1", "l2", "l2_shrinkage", "learning_rate_power", "initial_accumulator_value"),
    "adafactor": ("beta_2_decay", "clip_threshold"),
    "lion": ("beta_1", "beta_2"),
    "muon": ("momentum", "beta_1", "beta_2", "epsilon", "ns_steps"),
}
_NAMES = sorted({name for names in PARAMETERS.values() for name in names})
_Penalty = Annotated[float, Field(ge=0)] | None
_Share = Annotated[float, Field(ge=0, lt=1)] | None
_WEIGHT_DECAY = 0.004
# The optimisers that have weight decay.
DECAYING: tuple[Algorithm, ...] = ("adamw", "lion", "muon")
CLIPPING = ("clip_norm", "clip_norm_each", "clip_value")


class OptimizerSpec(Spec):
    """The optimiser of all phases. A phase may set its own learning rate and schedule.

    The keys from `momentum` on are parameters that some optimisers have. null: the default of Keras; 0.9 for `momentum`
    and `nesterov`.

    Attributes:
        name: The algorithm, of Keras. `muon` updates kernels of dense layers but the last, and all others as `adam`.
        lr: Learning rate. `find`: by a range test before each phase, whose loss over the rate is in `report.html`.
        schedule: How the learning rate changes over the epochs of a step, see `train.optimizer.rate`. `plateau` halves
            it after every second epoch in a row without a better one, and it stays low.
        weight_decay: Share of the weights that a step takes away at learning rate 1. Only `adamw`, `lion` and `muon`;
            not for biases and BatchNorm.
        clip_norm: Largest norm of all gradients together; only one kind of clipping.
        clip_norm_each: Largest norm of the gradient of each variable.
        clip_value: Largest absolute value of each number of a gradient.
        accumulate: Batches whose mean gradient is one step. What is left over at the end of an epoch goes on in the
            next one; at the end of a phase or round it is dropped.
        ema: Share that an exponential moving average of the weights keeps in each step, 0.99 for example; the averaged
            weights are scored and saved. null for none. Ref: Polyak & Juditsky 1992.
        momentum: Share of the previous change that goes on: `momentum`, `nesterov`, `rmsprop`, `muon`.
        beta_1: Decay of the mean of the gradients: `adam`, `adamw`, `lion`, `muon`.
        beta_2: Decay of the mean of their squares, with `lion` of the gradients: `adam`, `adamw`, `lion`, `muon`.
        epsilon: Number that keeps a division by zero away: `adagrad`, `rmsprop`, `adam`, `adamw`, `muon`.
        amsgrad: True to divide by the largest mean of the squares so far: `adam`, `adamw`.
        rho: Decay of the mean of the squares: `rmsprop`.
        centered: True to subtract the squared mean of the gradients: `rmsprop`.
        initial_accumulator_value: Sum of the squares before the first step: `adagrad`, `ftrl`.
        l1: Penalty on absolute values, which sets weights to exactly zero: `ftrl`; not on biases and BatchNorm.
        l2: Penalty on squares: `ftrl`; not on biases and BatchNorm.
        l2_shrinkage: Penalty on squares that is part of the gradient: `ftrl`; not on biases and BatchNorm.
        learning_rate_power: How fast the rate falls with the sum of the squares, 0 for not at all: `ftrl`.
        beta_2_decay: Exponent of the decay of the mean of the squares: `adafactor`.
        clip_threshold: Largest root mean square of a change: `adafactor`.
        ns_steps: Number of Newton-Schulz iterations: `muon`.
    """

    name: Algorithm = "adam"
    lr: Annotated[float, Field(gt=0, le=10)] | Literal["find"] = 1e-3
    schedule: Schedule = "none"
    weight_decay: Annotated[float, Field(ge=0, le=1)] = _WEIGHT_DECAY
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    clip_norm_each: Annotated[float, Field(gt=0)] | None = None
    clip_value: Annotated[float, Field(gt=0)] | None = None
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    momentum: _Share = None
    beta_1: Annotated[float, Field(gt=0, lt=1)] | None = None
    beta_2: _Share = None
    epsilon: Annotated[float, Field(gt=0)] | None = None
    amsgrad: bool | None = None
    rho: Fraction | None = None
    centered: bool | None = None
    initial_accumulator_value: _Penalty = None
    l1: _Penalty = None
    l2: _Penalty = None
    l2_shrinkage: _Penalty = None
    learning_rate_power: Annotated[float, Field(le=0)] | None = None
    beta_2_decay: Annotated[float, Field(lt=0)] | None = None
    clip_threshold: Annotated[float, Field(gt=0)] | None = None
    ns_steps: Annotated[int, Field(ge=1, le=20)] | None = None

    @property
    def parameters(self) -> dict[str, float | bool]:
        """The parameters that were given, by name."""
        given = {name: getattr(self, name) for name in _NAMES}
        return {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _check_parameters_fit(self) -> Self:
        refuse(self._misfits())
        return self

    def _misfits(self) -> Iterator[str]:
        has = PARAMETERS[self.name]
        for name in self.parameters:
            if name not in has:
                owners = [owner for owner in ALGORITHMS if name in PARAMETERS[owner]]
                own = ", ".join(has) or "no parameters of its own"
                yield f"{name}: belongs to {', '.join(owners)}; {self.name} has {own}"
        if self.weight_decay not in (0, _WEIGHT_DECAY) and self.name not in DECAYING:
            yield (
                f"weight_decay: has no effect with {self.name} (got {self.weight_decay:g}). It belongs to"
                f" {', '.join(DECAYING)}"
            )
        given = [(name, getattr(self, name)) for name in CLIPPING if getattr(self, name) is not None]
        if len(given) > 1:
            names, values = " and ".join(name for name, _ in given), " and ".join(f"{value:g}" for _, value in given)
            yield f"{names} exclude each other (got {values}): set all but one of them to null"
