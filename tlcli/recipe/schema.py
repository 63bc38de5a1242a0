"""The typed recipe. Unknown keys and values out of range are errors; defaults are the contract's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from tlcli.recipe.expect import parse as parse_expectation

SCHEMA_VERSION = 1
# Below so many training images `batch: auto` makes small steps; docs/adr/010 has the measurement.
FEW_IMAGES = 1000
# `epochs: auto` comes to at least so many steps.
AUTO_STEPS = 96

Fraction = Annotated[float, Field(ge=0, lt=1)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Percent = Annotated[str, StringConstraints(pattern=r"^(100|[1-9]\d?)%$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Initializer = Literal[
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal", "zeros"
]
Activation = Literal["relu", "elu", "selu", "gelu", "silu", "leaky_relu", "tanh", "sigmoid", "softplus", "linear"]
BatchNormPolicy = Literal["frozen", "affine", "train"]
Resize = Literal["crop", "pad", "stretch"]


class Spec(BaseModel):
    """A section of the recipe: fixed after reading, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _share_or_folder(value: Any) -> Any:
    """Numbers written as text become numbers, so that `--set data.val=0.2` is a fraction and `extra/val` a folder."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return Path(value)
    return value


def _pair(value: Any) -> Any:
    if value == "auto" or (isinstance(value, list | tuple) and len(value) == 2):
        return value
    raise ValueError(f"a size is auto or [height, width], for example [224, 224] (got {value})")


class DataSpec(Spec):
    """Which images, how they are split and sized.

    `val` and `test` are shares of the images (0 to below 1; 0 turns the split off) or folders of class folders.
    """

    path: Path | None = None
    val: Annotated[Fraction | Path, BeforeValidator(_share_or_folder)] = 0.15
    test: Annotated[Fraction | Path, BeforeValidator(_share_or_folder)] = 0.15
    size: Annotated[Literal["auto"] | tuple[Pixels, Pixels], BeforeValidator(_pair)] = "auto"
    resize: Resize = "crop"
    classes: Annotated[list[Text], Field(min_length=2)] | None = None
    class_weights: Literal["none", "balanced"] = "none"

    @model_validator(mode="after")
    def _leave_some_to_train_on(self) -> Self:
        shares = [share for share in (self.val, self.test) if isinstance(share, float)]
        if sum(shares) >= 1:
            raise ValueError("val and test together must leave images to train on: their sum must be below 1")
        if self.classes and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes names one class twice")
        return self


class ModelSpec(Spec):
    """Which pretrained network. `weights` is a file that replaces the card's own, or `random` for none at all.

    `auto` is mobilenet_v2 where its ImageNet weights can be had, and otherwise the network that comes along.
    """

    name: Text = "auto"
    weights: Text | None = None
    arguments: dict[str, int | float | bool | str] = Field(default_factory=dict)
    preprocessing: Literal["none", "tf", "torch", "caffe"] | None = None
    drop_top: Annotated[int, Field(ge=0)] = 0


class HiddenSpec(Spec):
    """One hidden layer of the head, in the order dense, BatchNorm, activation, dropout."""

    units: Annotated[int, Field(ge=1, le=65536)]
    activation: Activation = "relu"
    initializer: Initializer = "he_normal"
    batch_norm: bool = False
    dropout: Fraction = 0.0


class HeadSpec(Spec):
    """The new layers on top of the backbone. Penalties and the norm limit hold for every dense kernel of the head."""

    pooling: Literal["avg", "max", "avg_max"] = "avg"
    hidden: list[HiddenSpec] = Field(default_factory=list)
    dropout: Fraction = 0.2
    initializer: Initializer = "glorot_uniform"
    l1: Annotated[float, Field(ge=0)] = 0.0
    l2: Annotated[float, Field(ge=0)] = 0.0
    max_norm: Annotated[float, Field(gt=0)] | None = None


class AugmentSpec(Spec):
    """Random changes to training images. Named operations are for `preset: custom`; each is a bound.

    Attributes:
        views: Renderings of each image that are stored where training starts above frozen layers: the plain one and
            `views` - 1 random ones; an epoch takes one of them. `live`: every epoch draws its own.
        rotation: Largest angle to either side, degrees.
        zoom: Largest relative change of scale, 0-0.9.
        shift: Largest displacement to either side, as a share of the picture, 0-0.5.
        brightness: Largest change, as a share of the full range, 0-1.
        contrast: Largest relative change, 0-1.
        saturation: Largest relative change, 0-1.
        mixup: Strength alpha of the Beta distribution; 0 is off. Ref: Zhang et al. 2018, arXiv 1710.09412.
    """

    preset: Literal["none", "light", "strong", "custom"] = "light"
    views: Literal["auto", "live"] | Annotated[int, Field(ge=1, le=64)] = "auto"
    flip: Literal["none", "horizontal", "vertical", "both"] | None = None
    rotation: Annotated[float, Field(ge=0, le=180)] | None = None
    zoom: Annotated[float, Field(ge=0, le=0.9)] | None = None
    shift: Annotated[float, Field(ge=0, le=0.5)] | None = None
    brightness: Annotated[float, Field(ge=0, le=1)] | None = None
    contrast: Annotated[float, Field(ge=0, le=1)] | None = None
    saturation: Annotated[float, Field(ge=0, le=1)] | None = None
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    label_smoothing: Fraction = 0.0

    @model_validator(mode="after")
    def _name_operations_only_when_custom(self) -> Self:
        named = [name for name in OPERATIONS if getattr(self, name) is not None]
        if named and self.preset != "custom":
            raise ValueError(f"{', '.join(named)}: named operations need preset: custom (got preset: {self.preset})")
        return self


OPERATIONS = ("flip", "rotation", "zoom", "shift", "brightness", "contrast", "saturation")


class OptimizerSpec(Spec):
    """The optimiser of every phase; a phase may set its own learning rate and schedule."""

    name: Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "ftrl"] = "adam"
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    schedule: Literal["none", "piecewise", "plateau", "exponential", "power", "cosine", "one_cycle"] = "none"
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.004
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    clip_value: Annotated[float, Field(gt=0)] | None = None


class UntilSpec(Spec):
    """When thawing more groups stops to pay.

    Attributes:
        min_delta: Smallest gain in the metric that counts.
        confidence: Smallest probability that the gain is real, 0.5-1, by a one-sided paired test on the validation
            images; 0.5 keeps every gain.
        go_on: Share by which a kept step must have lowered the validation loss, or the share of wrong answers where
            the metric is accuracy, for thawing to go further, 0-1; each step is dearer than the one before.
        patience: Steps without a kept gain before the phase ends.
    """

    metric: Literal["val_loss", "val_accuracy"] = "val_loss"
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.5
    go_on: Annotated[float, Field(ge=0, lt=1)] = 0.0
    patience: Annotated[int, Field(ge=1)] = 1


class PhaseSpec(Spec):
    """One stretch of training with one rule for what is trained.

    `auto`, for `lr`, `step`, `layer_decay` and `batch_norm`, is what the network's card asks for, see `settled`; for
    `epochs` also what the number of images asks for, see `lasting`. A `step` of `30%` is a share of the layer groups.
    """

    name: Text
    policy: Literal["fixed", "gradual", "all"] = "fixed"
    train: Text | None = None
    init: Literal["probe", "random"] = "random"
    step: Annotated[int, Field(ge=1)] | Literal["all", "auto"] | Percent = 1
    epochs: Annotated[int, Field(ge=0, le=10000)] | Literal["auto"] = 10
    patience: Annotated[int, Field(ge=1)] | None = None
    lr: Annotated[float, Field(gt=0, le=10)] | Literal["auto"] | None = None
    schedule: Literal["none", "piecewise", "plateau", "exponential", "power", "cosine", "one_cycle"] | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = 1.0
    batch_norm: BatchNormPolicy | Literal["auto"] = "frozen"
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
        return self

    def settled(self, wishes: Mapping[str, Any]) -> Self:
        """The phase with these values, by the names of its own, in the place of `auto`."""
        return self.model_copy(update={name: value for name, value in wishes.items() if getattr(self, name) == "auto"})

    def rate(self, otherwise: float) -> float:
        """The learning rate: its own, or the optimiser's."""
        return otherwise if self.lr is None else float(self._decided("lr"))

    def lasting(self, epochs: int, *, steps_an_epoch: int) -> Self:
        """The phase with a number in the place of `epochs: auto`: these, or more where they are short."""
        if self.epochs != "auto":
            return self
        return self.model_copy(update={"epochs": max(epochs, -(-AUTO_STEPS // steps_an_epoch))})

    @property
    def most_epochs(self) -> int:
        """How many epochs each step lasts, unless it runs out of patience."""
        return int(self._decided("epochs"))

    def groups_a_round(self, groups: int) -> int:
        """How many more of all groups each round of thawing takes."""
        step = self._decided("step")
        if isinstance(step, str):
            share = 1.0 if step == "all" else float(step.rstrip("%")) / 100
            return min(max(round(share * groups), 1), groups)
        return int(step)

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


def _off(value: object) -> object:
    """YAML takes a bare `off` for false."""
    return "off" if value is False else value


class PerformanceSpec(Spec):
    """How the work is laid out on the machine.

    Attributes:
        batch: Images per step. `auto`: 32, or half of that with few images, which need more steps than they give.
    """

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    cache: Annotated[Literal["auto", "off"], BeforeValidator(_off)] = "auto"
    cache_budget: Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?\s*(B|kB|KB|MB|GB|TB)$")] = "8GB"
    batch: Annotated[int, Field(ge=1, le=65536)] | Literal["auto"] = 32

    @property
    def batch_size(self) -> int:
        """Images per step."""
        if self.batch == "auto":
            raise RuntimeError("performance.batch is still auto")
        return self.batch


def _is_expectation(text: str) -> str:
    parse_expectation(text)
    return text


class Recipe(Spec):
    """A whole recipe: everything that decides a run, besides the images."""

    recipe: Literal[1] = 1
    name: Text
    description: str = ""
    extends: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    head: HeadSpec = HeadSpec()
    augment: AugmentSpec = AugmentSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    phases: Annotated[list[PhaseSpec], Field(min_length=1)]
    performance: PerformanceSpec = PerformanceSpec()
    expect: list[Annotated[str, AfterValidator(_is_expectation)]] = Field(default_factory=list)

    def for_images(self, count: int, *, epochs: int) -> Self:
        """The recipe with a batch and epochs for so many training images, where it leaves them open.

        Args:
            count: Images.
            epochs: The fewest that a phase should have, as the network's card asks.
        """
        batch = self.performance.batch
        if batch == "auto":
            batch = 16 if count < FEW_IMAGES else 32
        phases = [phase.lasting(epochs, steps_an_epoch=-(-count // batch)) for phase in self.phases]
        return self.model_copy(
            update={"phases": phases, "performance": self.performance.model_copy(update={"batch": batch})}
        )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        names = [phase.name for phase in self.phases]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"phases: every phase needs a name of its own (got {', '.join(doubled)} twice)")
        if self.head.hidden and any(phase.init == "probe" for phase in self.phases):
            raise ValueError("head.hidden: init: probe solves a head without hidden layers. Remove hidden or the probe")
        if self.head.max_norm is not None and any(phase.init == "probe" for phase in self.phases):
            raise ValueError(
                "head.max_norm: the probe's optimum would be cut down at once. Leave out max_norm or the probe"
            )
        if self.phases[0].init != "probe" and any(phase.init == "probe" for phase in self.phases):
            raise ValueError("phases: init: probe starts the head, so it belongs to the first phase")
        return self
