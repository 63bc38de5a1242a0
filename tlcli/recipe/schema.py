"""The recipe schema. Unknown keys and values out of range are errors."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from tlcli.recipe.expectation import parse
from tlcli.recipe.fields import Activation, Duration, Fraction, Initializer, Pixels, Resize, Spec, Text
from tlcli.recipe.phase import PhaseSpec

SCHEMA_VERSION = 1
# Below so many training images `batch: auto` makes small steps; docs/adr/010 has the measurement.
FEW_IMAGES = 1000


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


def _name(value: Any) -> Any:
    """YAML takes the name of a folder of digits for a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class DataSpec(Spec):
    """Which images, how they are split and sized.

    `val` and `test` are shares of the images (0 to below 1; 0 turns the split off) or folders of class folders.
    `exclude` is a list of images to leave out.
    """

    path: Path | None = None
    val: Annotated[Fraction | Path, BeforeValidator(_share_or_folder)] = 0.15
    test: Annotated[Fraction | Path, BeforeValidator(_share_or_folder)] = 0.15
    size: Annotated[Literal["auto"] | tuple[Pixels, Pixels], BeforeValidator(_pair)] = "auto"
    resize: Resize = "crop"
    classes: Annotated[list[Annotated[Text, BeforeValidator(_name)]], Field(min_length=2)] | None = None
    exclude: Path | None = None
    class_weights: Literal["none", "balanced"] = "none"

    @model_validator(mode="after")
    def _leave_some_to_train_on(self) -> Self:
        shares = [share for share in (self.val, self.test) if isinstance(share, float)]
        if sum(shares) >= 1:
            raise ValueError("val and test together must leave images to train on: their sum must be below 1")
        if self.classes and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes names one class twice")
        return self


# What stands for no weights at all where a file may be named.
RANDOM = "random"


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


def _off(value: object) -> object:
    """YAML takes a bare `off` for false."""
    return "off" if value is False else value


class PerformanceSpec(Spec):
    """How the work is laid out on the machine.

    Attributes:
        budget: Seconds, minutes or hours that a run may take, such as `10m`: steps that do not fit are shortened or
            left out, by costs measured meanwhile.
        reuse_results: Whether what was trained before, exactly so, is taken from the cache; not where `cache` is off.
        batch: Images per step. `auto`: 32, or half of that with few images, which need more steps than they give.
    """

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    cache: Annotated[Literal["auto", "off"], BeforeValidator(_off)] = "auto"
    cache_budget: Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?\s*(B|kB|KB|MB|GB|TB)$")] = "8GB"
    batch: Annotated[int, Field(ge=1, le=65536)] | Literal["auto"] = 32
    budget: Duration | None = None
    reuse_results: bool = True

    @property
    def batch_size(self) -> int:
        """Images per step."""
        if self.batch == "auto":
            raise RuntimeError("performance.batch is still auto")
        return self.batch


def _is_expectation(text: str) -> str:
    parse(text)
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
        phases = [phase.with_epochs(epochs, steps_an_epoch=-(-count // batch)) for phase in self.phases]
        return self.model_copy(
            update={"phases": phases, "performance": self.performance.model_copy(update={"batch": batch})}
        )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        names = [phase.name for phase in self.phases]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"phases: every phase needs a name of its own (got {', '.join(doubled)} twice)")
        probed = [index for index, phase in enumerate(self.phases) if phase.starts_from_probe]
        if self.head.hidden and probed:
            raise ValueError("head.hidden: the probe solves a head without hidden layers. Remove hidden or the probe")
        if self.head.max_norm is not None and probed:
            raise ValueError(
                "head.max_norm: the probe's optimum would be cut down at once. Leave out max_norm or the probe"
            )
        if (probed and 0 not in probed) or any(phase.policy == "lp_ft" for phase in self.phases[1:]):
            raise ValueError("phases: init: probe and policy: lp_ft start the head, so they belong to the first phase")
        return self
