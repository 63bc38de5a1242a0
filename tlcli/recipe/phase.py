"""The phases of a recipe: what is trained, how, and until when."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from tlcli.recipe import selection_text
from tlcli.recipe.fields import BatchNormPolicy, Fraction, Percent, Schedule, Spec, Text, refuse


def of_round(values: Any, number: int) -> Any:
    """The value of a round, counted from 0. Of a list the last one holds for all later rounds.

    >>> of_round([3, 8], 0), of_round([3, 8], 5), of_round(3, 5)
    (3, 8, 3)
    """
    return values[min(number, len(values) - 1)] if isinstance(values, list) else values


Gain = Annotated[float, Field(ge=0, lt=1)]
Patience = Annotated[int, Field(ge=1)]


class AutoSpec(Spec):
    """A section in which a value may be `auto`."""

    def fill_auto(self, values: Mapping[str, Any]) -> Self:
        """A copy with `values`, by field name, in place of `auto`. Other fields stay, and other names are ignored."""
        return self.model_copy(
            update={key: value for key, value in values.items() if getattr(self, key, None) == "auto"}
        )

    def resolved(self, name: str) -> Any:
        """The value of a field.

        Raises:
            RuntimeError: If it is still `auto`; an internal error.
        """
        value = getattr(self, name)
        if value == "auto":
            raise RuntimeError(f"{name} is still auto")
        return value


class UntilSpec(AutoSpec):
    """When to stop unfreezing more groups.

    Attributes:
        metric: What a round must improve.
        min_delta: Smallest gain in the metric that counts.
        confidence: Smallest probability that the gain is real, by a one-sided paired test on the validation
            images; 0.5 keeps every gain.
        min_relative_gain: Share by which a kept round must have lowered the validation loss (or the share of wrong
            answers if the metric is accuracy) for another round to follow; above 0, none follows either if fewer than
            2 % of the validation answers are wrong. A list has one value per round, and the last one holds for all
            later rounds. `auto`: by `quality`.
        patience: Rounds without a kept gain in a row before the phase ends; a list has one value per round. `auto`: by
            `quality`.
        after_rollback: Whether another round may follow one that was rolled back, within `patience`: `always`, or
            `if_learnable`, if wrong answers on validation images are less certain than right ones. `auto`: by
            `quality`.
    """

    metric: Literal["val_loss", "val_accuracy"] = "val_loss"
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.5
    min_relative_gain: Gain | Annotated[list[Gain], Field(min_length=1)] | Literal["auto"] = 0.0
    patience: Patience | Annotated[list[Patience], Field(min_length=1)] | Literal["auto"] = 1
    after_rollback: Literal["always", "if_learnable", "auto"] = "always"

    def relative_gain_after(self, number: int) -> float:
        """The value of `min_relative_gain`, 0-1, after the round with this number, counted from 0."""
        return float(of_round(self.resolved("min_relative_gain"), number))

    def max_rollbacks_after(self, number: int) -> int:
        """The value of `patience` after the round with this number, counted from 0."""
        return int(of_round(self.resolved("patience"), number))


Policy = Literal["fixed", "all", "gradual", "lp_ft", "surgical", "depth_search"]
# Policies that unfreeze round by round. `depth_search` first finds out how many groups to keep.
GRADUAL = ("gradual", "depth_search")
ParameterShare = Annotated[str, StringConstraints(pattern=r"^(100|[1-9]\d?)% of parameters$")]
RoundSize = Annotated[int, Field(ge=1)] | Literal["all"] | Percent
_STEPS = r"[1-9]\d{0,8} steps"


def _check_patience(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(rf"\d+|{_STEPS}", value):
        raise ValueError(f"patience must be a number of epochs, or of batches such as 200 steps (got {value!r})")
    return value


Steps = Annotated[str, StringConstraints(pattern=f"^{_STEPS}$")]
EpochPatience = Annotated[Annotated[int, Field(ge=1)] | Steps | None, BeforeValidator(_check_patience)]
Epochs = Annotated[int, Field(ge=0, le=10000)]
RoundSizes = RoundSize | Annotated[list[RoundSize | Literal[0]], Field(min_length=1)]
# Share of a step in which the learning rate of newly unfrozen groups rises with `warmup: auto`.
AUTO_WARMUP = 0.1


class PhaseSpec(AutoSpec):
    """One stretch of training with one rule for what is trained.

    `auto` for `lr`, `layer_decay` and `batch_norm` means the value of the network's card. `auto` for `step`, `epochs`
    and in `until` also depends on the recipe's `quality` and on the images.

    Attributes:
        name: Name of the phase, in the record of a run; every phase has its own.
        policy: `fixed` trains the selection `train`. `all` trains everything. `gradual` unfreezes more groups from
            the top, round by round. `lp_ft` solves the linear probe, then trains everything (Ref: Kumar et al. 2022,
            arXiv 2202.10054). `surgical` trains each group at a rate by its relative gradient (Ref: Lee et al. 2022,
            arXiv 2210.11466). `depth_search` drops the top groups that the depth probe finds not worth keeping,
            then does as `gradual`.
        train: Selection of layers for `fixed`, such as `head`, `all`, `top:3`, `top:30%` or `block13..top`.
        init: How the head starts, first phase only: `probe` at the exact optimum of a linear head on the frozen
            network, `random` as `head.initializer` says.
        step: How much an unfreezing round adds to the one before: a number of groups, a share of them (`30%`), a
            share of the parameters (`30% of parameters`), as many groups as are unfrozen already (`double`), or
            `all`. A list has one value per round, 0 for the same groups again, and the last one holds for all later
            rounds. So do lists of `epochs`.
        group_count: Number of groups that a `surgical` phase trains, those with the largest relative gradient. null:
            all of them, at rates in proportion to it.
        epochs: Most epochs of the phase or of each round; the best one counts. 0 with `init: probe`: the probe alone.
            `auto`: the card's value, usually 3, and more with few images.
        patience: Epochs without a better validation score before the phase or round ends, or batches such as
            `200 steps`, which count in whole epochs, because an epoch ends with the validation; null for never.
        lr: Learning rate; null for the optimiser's, `auto` for the card's.
        schedule: Schedule of the learning rate; null for the optimiser's.
        warmup: Share of each step, 0-1, in which the learning rate rises from zero, with any schedule.
        layer_decay: Learning rate of a layer group as a share of that of the group above.
        batch_norm: BatchNorm in trained groups: `frozen` changes nothing, `affine` trains scale and offset, `train`
            also the statistics.
        batch_norm_momentum: Share of the statistics that a training step keeps with `batch_norm: train`. null: that of
            the network, at most 0.9.
        soup: Number of best epochs whose mean weights are taken if they validate better than the best epoch; 1 for the
            best epoch alone. Ref: Wortsman et al. 2022, arXiv 2203.05482.
        interpolate: True to also try weights between those before and after a step, and to keep what validates
            best. Ref: Wortsman et al. 2022, arXiv 2109.01903.
        l2_sp: Strength of the pull of trained backbone weights to their pretrained values: the gradient of
            l2_sp / 2 * ||w - w0||²; 0.001 to 0.1 is usual. Ref: Li et al. 2018, arXiv 1802.01483.
        until: When a round is kept, and when the phase ends.
    """

    name: Text
    policy: Policy = "fixed"
    train: Annotated[Text, AfterValidator(selection_text.check)] | None = None
    init: Literal["probe", "random"] = "random"
    step: Literal["all", "double", "auto"] | ParameterShare | RoundSizes = 1
    group_count: Annotated[int, Field(ge=1)] | None = None
    epochs: Epochs | Annotated[list[Epochs], Field(min_length=1)] | Literal["auto"] = 10
    patience: EpochPatience = None
    lr: Annotated[float, Field(gt=0, le=10)] | Literal["auto", "find"] | None = None
    schedule: Schedule | None = None
    warmup: Fraction | Literal["auto"] = "auto"
    layer_decay: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = 1.0
    batch_norm: BatchNormPolicy | Literal["auto"] = "frozen"
    batch_norm_momentum: Fraction | None = None
    soup: Annotated[int, Field(ge=1, le=100)] = 1
    interpolate: bool = False
    l2_sp: Annotated[float, Field(ge=0)] = 0.0
    until: UntilSpec = UntilSpec()

    @model_validator(mode="after")
    def _check_keys_fit_policy(self) -> Self:
        refuse(self._misfits())
        return self

    def _misfits(self) -> Iterator[str]:
        if self.policy == "fixed" and self.train is None:
            yield "policy fixed needs train: a selection such as head, top:3 or all"
        for name in ("step", "epochs"):
            if isinstance(value := getattr(self, name), list) and not self.is_gradual:
                yield f"{name}: a list needs a policy with rounds, such as gradual (got {name}: {value})"
        if isinstance(self.epochs, list) and 0 in self.epochs:
            yield f"epochs: every round must train (got epochs: {self.epochs})"
        if isinstance(self.step, list) and 0 in (self.step[0], self.step[-1]):
            yield f"step: 0 trains the same groups again, so neither first nor last (got step: {self.step})"
        if self.epochs == 0 and self.init != "probe":
            yield "epochs: 0 trains nothing (got epochs: 0). It is allowed with init: probe"
        if self.policy != "fixed" and self.train is not None:
            yield f"train: policy {self.policy} chooses the groups itself: leave train out (got train: {self.train})"
        if self.batch_norm_momentum is not None and self.batch_norm not in ("train", "auto"):
            yield f"batch_norm_momentum: needs batch_norm: train (got batch_norm: {self.batch_norm})"
        if self.group_count is not None and self.policy != "surgical":
            yield f"group_count: needs policy: surgical (got policy: {self.policy})"
        if not self.is_gradual:
            yield from self._only_for_rounds()

    def _only_for_rounds(self) -> Iterator[str]:
        """Keys of `until` that have a meaning only between rounds, and another value than the default."""
        plain = UntilSpec()
        for name in ("min_relative_gain", "patience", "after_rollback"):
            if (value := getattr(self.until, name)) not in (getattr(plain, name), "auto"):
                message = f"until.{name}: has no effect without rounds: policy {self.policy} has one step"
                yield f"{message} (got {value}). Leave it out, or use policy gradual"

    def learning_rate(self, otherwise: float | Literal["find"]) -> float | Literal["find"]:
        """The learning rate of the phase, or `otherwise` (the optimiser's) if it has none."""
        rate = otherwise if self.lr is None else self.resolved("lr")
        return "find" if rate == "find" else float(rate)

    def epochs_of(self, number: int) -> int:
        """Epochs of the step with this number, counted from 0, unless patience ends it earlier."""
        return int(of_round(self.resolved("epochs"), number))

    def patience_epochs(self, batches: int) -> int | None:
        """Epochs without a better one before a step ends, with so many batches per epoch; None for no limit."""
        if isinstance(self.patience, str):
            return -(-int(self.patience.removesuffix(" steps")) // batches)
        return self.patience

    @property
    def max_epochs(self) -> int:
        """The most epochs of a step."""
        epochs = self.resolved("epochs")
        return int(max(epochs) if isinstance(epochs, list) else epochs)

    @property
    def groups_per_round(self) -> int | str | list[int | str]:
        """What an unfreezing round adds, see `step`."""
        return cast("int | str | list[int | str]", self.resolved("step"))

    @property
    def is_gradual(self) -> bool:
        """True if the phase unfreezes round by round."""
        return self.policy in GRADUAL

    @property
    def starts_from_probe(self) -> bool:
        """True if the head starts at the optimum of the linear probe."""
        return self.init == "probe" or self.policy == "lp_ft"

    def warmup_share(self, schedule: str) -> float:
        """Share of each step, 0-1, in which the learning rate rises. `auto` warms up newly unfrozen groups only."""
        if self.warmup != "auto":
            return self.warmup
        return AUTO_WARMUP if self.is_gradual and schedule != "one_cycle" else 0.0

    @property
    def decay(self) -> float:
        """Learning rate of a layer group as a share of that of the group above, above 0 to 1."""
        return float(self.resolved("layer_decay"))

    @property
    def batch_norm_policy(self) -> BatchNormPolicy:
        """How BatchNorm in trained groups behaves."""
        return cast("BatchNormPolicy", self.resolved("batch_norm"))
