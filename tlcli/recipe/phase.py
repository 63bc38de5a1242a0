"""The phases of a recipe: what is trained, how, and until when."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, StringConstraints, model_validator

from tlcli.recipe.fields import BatchNormPolicy, Fraction, Percent, Spec, Text

# Training steps that a phase with `epochs: auto` has at least.
AUTO_STEPS = 96


class UntilSpec(Spec):
    """When to stop unfreezing more groups.

    Attributes:
        min_delta: Smallest gain in the metric that counts.
        confidence: Smallest probability that the gain is real, 0.5-1, by a one-sided paired test on the validation
            images; 0.5 keeps every gain.
        min_relative_gain: Share by which a kept round must have lowered the validation loss (or the share of wrong
            answers if the metric is accuracy) for another round to follow, 0-1. Each round costs more than the one
            before. `auto`: 0 if training the whole network takes seconds, otherwise 0.5.
        patience: Rounds without a kept gain before the phase ends.
    """

    metric: Literal["val_loss", "val_accuracy"] = "val_loss"
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.5
    min_relative_gain: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = 0.0
    patience: Annotated[int, Field(ge=1)] = 1

    def with_min_relative_gain(self, share: float) -> Self:
        """A copy with `share`, 0-1, in place of `min_relative_gain: auto`."""
        return self.model_copy(update={"min_relative_gain": share}) if self.min_relative_gain == "auto" else self

    @property
    def required_relative_gain(self) -> float:
        """The value of `min_relative_gain`, 0-1, once `auto` is resolved."""
        if self.min_relative_gain == "auto":
            raise RuntimeError("until.min_relative_gain is still auto")
        return self.min_relative_gain


Policy = Literal["fixed", "all", "gradual", "lp_ft", "surgical", "depth_search"]
# Policies that unfreeze round by round. `depth_search` first finds out how many groups to keep.
GRADUAL = ("gradual", "depth_search")
ParameterShare = Annotated[str, StringConstraints(pattern=r"^(100|[1-9]\d?)% of parameters$")]
# Share of a step in which the learning rate of newly unfrozen groups rises with `warmup: auto`.
AUTO_WARMUP = 0.1


class PhaseSpec(Spec):
    """One stretch of training with one rule for what is trained.

    `auto` for `lr`, `step`, `layer_decay` and `batch_norm` means the value of the network's card, see `fill_auto`.
    `auto` for `epochs` also depends on the number of images, see `with_epochs`.

    Attributes:
        policy: `fixed` trains the selection `train`. `all` trains everything. `gradual` unfreezes more groups from
            the top, round by round. `lp_ft` solves the linear probe, then trains everything (Ref: Kumar et al. 2022,
            arXiv 2202.10054). `surgical` trains each group at a rate by its relative gradient (Ref: Lee et al. 2022,
            arXiv 2210.11466). `depth_search` drops the top groups that the depth probe finds not worth keeping,
            then does as `gradual`.
        step: How much an unfreezing round adds to the one before: a number of groups, a share of them (`30%`), a
            share of the parameters (`30% of parameters`), as many groups as are unfrozen already (`double`), or
            `all`.
        group_count: Number of groups that a `surgical` phase trains, those with the largest relative gradient. None:
            all of them, at rates in proportion to it.
        warmup: Share of each step, 0-1, in which the learning rate rises from zero, with any schedule.
        interpolate: True to also try weights between those before and after a step, and to keep what validates
            best. Ref: Wortsman et al. 2022, arXiv 2109.01903.
        l2_sp: Strength of the pull of trained backbone weights to their pretrained values: the gradient of
            l2_sp / 2 * ||w - w0||². Ref: Li et al. 2018, arXiv 1802.01483.
    """

    name: Text
    policy: Policy = "fixed"
    train: Text | None = None
    init: Literal["probe", "random"] = "random"
    step: Annotated[int, Field(ge=1)] | Literal["all", "double", "auto"] | Percent | ParameterShare = 1
    group_count: Annotated[int, Field(ge=1)] | None = None
    epochs: Annotated[int, Field(ge=0, le=10000)] | Literal["auto"] = 10
    patience: Annotated[int, Field(ge=1)] | None = None
    lr: Annotated[float, Field(gt=0, le=10)] | Literal["auto"] | None = None
    schedule: Literal["none", "piecewise", "plateau", "exponential", "power", "cosine", "one_cycle"] | None = None
    warmup: Fraction | Literal["auto"] = "auto"
    layer_decay: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = 1.0
    batch_norm: BatchNormPolicy | Literal["auto"] = "frozen"
    interpolate: bool = False
    l2_sp: Annotated[float, Field(ge=0)] = 0.0
    until: UntilSpec = UntilSpec()

    @model_validator(mode="after")
    def _check_keys_fit_policy(self) -> Self:
        if self.policy == "fixed" and self.train is None:
            raise ValueError("policy fixed needs train: a selection such as head, top:3 or all")
        if self.epochs == 0 and self.init != "probe":
            raise ValueError("epochs: 0 trains nothing (got epochs: 0). It is allowed with init: probe")
        if self.policy != "fixed" and self.train is not None:
            raise ValueError(
                f"policy {self.policy} chooses the groups itself: leave train out (got train: {self.train})"
            )
        if self.group_count is not None and self.policy != "surgical":
            raise ValueError(f"group_count needs policy: surgical (got policy: {self.policy})")
        return self

    def fill_auto(self, values: Mapping[str, Any]) -> Self:
        """A copy with `values`, by field name, in place of `auto`. Other fields stay as they are."""
        return self.model_copy(update={name: value for name, value in values.items() if getattr(self, name) == "auto"})

    def learning_rate(self, otherwise: float) -> float:
        """The learning rate of the phase, or `otherwise` (the optimiser's) if it has none."""
        return otherwise if self.lr is None else float(self._resolved("lr"))

    def with_epochs(self, epochs: int, *, steps_per_epoch: int) -> Self:
        """A copy with a number in place of `epochs: auto`: `epochs`, or more until it has `AUTO_STEPS` steps."""
        if self.epochs != "auto":
            return self
        return self.model_copy(update={"epochs": max(epochs, -(-AUTO_STEPS // steps_per_epoch))})

    @property
    def max_epochs(self) -> int:
        """Epochs of each step, unless patience ends it earlier."""
        return int(self._resolved("epochs"))

    @property
    def groups_per_round(self) -> int | str:
        """What an unfreezing round adds, see `step`."""
        return cast("int | str", self._resolved("step"))

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
        return float(self._resolved("layer_decay"))

    @property
    def batch_norm_policy(self) -> BatchNormPolicy:
        """How BatchNorm in trained groups behaves."""
        return cast("BatchNormPolicy", self._resolved("batch_norm"))

    def _resolved(self, name: str) -> Any:
        value = getattr(self, name)
        if value == "auto":
            raise RuntimeError(f"phase {self.name}: {name} is still auto")
        return value
