"""The phases of a recipe: what is trained, how, and until when."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, StringConstraints, model_validator

from tlcli.recipe.fields import BatchNormPolicy, Fraction, Percent, Spec, Text

# `epochs: auto` comes to at least so many steps.
AUTO_STEPS = 96


class UntilSpec(Spec):
    """When thawing more groups stops to pay.

    Attributes:
        min_delta: Smallest gain in the metric that counts.
        confidence: Smallest probability that the gain is real, 0.5-1, by a one-sided paired test on the validation
            images; 0.5 keeps every gain.
        min_relative_gain: Share by which a kept step must have lowered the validation loss, or the share of wrong answers where
            the metric is accuracy, for thawing to go further, 0-1; each step is dearer than the one before. `auto`:
            0 where training everything takes seconds, and else a half.
        patience: Steps without a kept gain before the phase ends.
    """

    metric: Literal["val_loss", "val_accuracy"] = "val_loss"
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.5
    min_relative_gain: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = 0.0
    patience: Annotated[int, Field(ge=1)] = 1

    def with_min_relative_gain(self, share: float) -> Self:
        """The same with a share in the place of `min_relative_gain: auto`."""
        return self.model_copy(update={"min_relative_gain": share}) if self.min_relative_gain == "auto" else self

    @property
    def required_relative_gain(self) -> float:
        """The share that `min_relative_gain` asks for, 0-1."""
        if self.min_relative_gain == "auto":
            raise RuntimeError("until.min_relative_gain is still auto")
        return self.min_relative_gain


Policy = Literal["fixed", "all", "gradual", "lp_ft", "surgical", "depth_search"]
# Policies that thaw group after group; `depth_search` first looks at how many groups are worth keeping.
GRADUAL = ("gradual", "depth_search")
ParameterShare = Annotated[str, StringConstraints(pattern=r"^(100|[1-9]\d?)% of parameters$")]
# Share of a step in which the rate of newly thawed groups rises, where the recipe leaves it open.
AUTO_WARMUP = 0.1


class PhaseSpec(Spec):
    """One stretch of training with one rule for what is trained.

    `auto`, for `lr`, `step`, `layer_decay` and `batch_norm`, is what the network's card asks for, see `settled`; for
    `epochs` also what the number of images asks for, see `lasting`.

    Attributes:
        policy: `fixed` trains `train`; `all` everything; `gradual` more groups from the top, round by round; `lp_ft`
            the probe's head, then everything (Ref: Kumar et al. 2022, arXiv 2202.10054); `surgical` groups at rates by
            their relative gradient (Ref: Lee et al. 2022, arXiv 2210.11466); `depth_search` is `gradual` on as many
            groups from the bottom as the depth probe finds worth keeping.
        step: What a round of thawing takes more than the one before: groups, a share of them (`30%`), a share of the
            parameters (`30% of parameters`), as many as there are already (`double`), or `all`.
        group_count: How many groups a `surgical` phase trains, those of the largest relative gradient; None: all of them, at
            rates in proportion to it.
        warmup: Share of each step, 0-1, in which the rate rises from zero, whatever the schedule.
        interpolate: Whether to try the weights between those before and after a step, and keep what validates best.
            Ref: Wortsman et al. 2022, arXiv 2109.01903.
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
    def _say_what_to_train(self) -> Self:
        if self.policy == "fixed" and self.train is None:
            raise ValueError("policy fixed needs train: a selection such as head, top:3 or all")
        if self.epochs == 0 and self.init != "probe":
            raise ValueError(
                "epochs: 0 trains nothing; it is for init: probe, whose head needs no training (got epochs: 0)"
            )
        if self.policy != "fixed" and self.train is not None:
            raise ValueError(
                f"policy {self.policy} chooses the groups itself: leave train out (got train: {self.train})"
            )
        if self.group_count is not None and self.policy != "surgical":
            raise ValueError(f"group_count is for policy surgical (got policy: {self.policy})")
        return self

    def fill_auto(self, wishes: Mapping[str, Any]) -> Self:
        """The phase with these values, by the names of its own, in the place of `auto`."""
        return self.model_copy(update={name: value for name, value in wishes.items() if getattr(self, name) == "auto"})

    def learning_rate(self, otherwise: float) -> float:
        """The learning rate: its own, or the optimiser's."""
        return otherwise if self.lr is None else float(self._decided("lr"))

    def with_epochs(self, epochs: int, *, steps_an_epoch: int) -> Self:
        """The phase with a number in the place of `epochs: auto`: these, or more where they are short."""
        if self.epochs != "auto":
            return self
        return self.model_copy(update={"epochs": max(epochs, -(-AUTO_STEPS // steps_an_epoch))})

    @property
    def max_epochs(self) -> int:
        """How many epochs each step lasts, unless it runs out of patience."""
        return int(self._decided("epochs"))

    @property
    def groups_per_round(self) -> int | str:
        """What a round of thawing takes more, see `step`."""
        return cast("int | str", self._decided("step"))

    @property
    def is_gradual(self) -> bool:
        """Whether the phase thaws round by round."""
        return self.policy in GRADUAL

    @property
    def starts_from_probe(self) -> bool:
        """Whether the head begins as the optimum of the linear probe."""
        return self.init == "probe" or self.policy == "lp_ft"

    def warmup_share(self, schedule: str) -> float:
        """The share of each step, 0-1, in which the rate rises; newly thawed groups begin gently."""
        if self.warmup != "auto":
            return self.warmup
        return AUTO_WARMUP if self.is_gradual and schedule != "one_cycle" else 0.0

    @property
    def decay(self) -> float:
        """The share of the rate of the group above that a group learns at."""
        return float(self._decided("layer_decay"))

    @property
    def batch_norm_policy(self) -> BatchNormPolicy:
        """What BatchNorm of trained layers does."""
        return cast("BatchNormPolicy", self._decided("batch_norm"))

    def _decided(self, name: str) -> Any:
        if getattr(self, name) == "auto":
            raise RuntimeError(f"phase {self.name}: {name} is still auto")
        return getattr(self, name)
