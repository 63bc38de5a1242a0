"""The recipe schema. Unknown keys and values out of range are errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from tlcli.recipe.augment import AugmentSpec
from tlcli.recipe.expectation import parse
from tlcli.recipe.fields import Activation, Duration, Fraction, Initializer, Pixels, Resize, Spec, Text
from tlcli.recipe.objective import LossSpec, TeacherSpec, teacher_of
from tlcli.recipe.phase import PhaseSpec

SCHEMA_VERSION = 1
Quality = Literal["fast", "balanced"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)
# `batch: auto` is 16 below this number of training images, otherwise 32; docs/adr/010 has the measurement.
FEW_IMAGES = 1000


def _share_or_folder(value: Any) -> Any:
    """A number for text that is one, a path for other text: `--set data.val=0.2` is a share, `extra/val` a folder."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return Path(value)
    return value


def _check_size(value: Any) -> Any:
    if value == "auto" or (isinstance(value, list | tuple) and len(value) == 2):
        return value
    raise ValueError(f"a size must be auto or [height, width], for example [224, 224] (got {value})")


def _class_name(value: Any) -> Any:
    """A class name as text. YAML reads a folder name of digits as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class DataSpec(Spec):
    """Which images to use, their splits and their size.

    `val` and `test` are shares of the images (0 to below 1; 0 turns the split off) or folders of class folders. With
    `folds` all images but the test images train and validate in turn: every one validates the classifier of one fold,
    and the final classifier learns from all of them. `exclude` is a file that lists images to leave out.
    `sampling: balanced` draws all classes equally often in each epoch, small ones repeatedly; `all` takes every image
    once.
    """

    path: Path | None = None
    val: Annotated[Fraction | Path, BeforeValidator(_share_or_folder)] = 0.15
    test: Annotated[Fraction | Path, BeforeValidator(_share_or_folder)] = 0.15
    folds: Annotated[int, Field(ge=2, le=20)] | None = None
    size: Annotated[Literal["auto"] | tuple[Pixels, Pixels], BeforeValidator(_check_size)] = "auto"
    resize: Resize = "crop"
    classes: Annotated[list[Annotated[Text, BeforeValidator(_class_name)]], Field(min_length=2)] | None = None
    exclude: Path | None = None
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Literal["all", "balanced"] = "all"

    @model_validator(mode="after")
    def _check_shares_and_classes(self) -> Self:
        shares = [share for share in (self.val, self.test) if isinstance(share, float)]
        if sum(shares) >= 1:
            raise ValueError(
                f"val and test must leave images to train on: their sum must be below 1 (got {sum(shares):g})"
            )
        if self.folds and isinstance(self.val, Path):
            raise ValueError(f"folds: validation images come from the folds, so leave val out (got val: {self.val})")
        if self.classes and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must differ from each other")
        if self.class_weights == "balanced" and self.sampling == "balanced":
            raise ValueError(
                "class_weights and sampling exclude each other, because small classes would count twice: keep one of"
                " them (got balanced for both)"
            )
        return self

    @property
    def is_balanced(self) -> bool:
        """True if all classes count alike in training, by weights or by sampling."""
        return "balanced" in (self.class_weights, self.sampling)


# The value of `model.weights` for random initial weights.
RANDOM = "random"


class ModelSpec(Spec):
    """Which pretrained network to use. `weights` is a file that replaces the card's weights, or `random`.

    The name `auto` is efficientnet_lite0, whose ImageNet weights are installed with tlcli. `cut` is the layer whose
    output becomes that of the network.
    """

    name: Text = "auto"
    weights: Text | None = None
    arguments: dict[str, int | float | bool | str] = Field(default_factory=dict)
    preprocessing: Literal["none", "unit", "tf", "torch", "caffe", "lite"] | None = None
    cut: Annotated[Text, BeforeValidator(_class_name)] | None = None
    drop_top: Annotated[int, Field(ge=0)] = 0


class HiddenSpec(Spec):
    """One hidden layer of the head: dense, BatchNorm, activation and dropout, in this order."""

    units: Annotated[int, Field(ge=1, le=65536)]
    activation: Activation = "relu"
    initializer: Initializer = "he_normal"
    batch_norm: bool = False
    dropout: Fraction = 0.0


class HeadSpec(Spec):
    """The new layers on top of the backbone. Penalties and the norm limit apply to each dense kernel of the head."""

    pooling: Literal["avg", "max", "avg_max"] = "avg"
    hidden: list[HiddenSpec] = Field(default_factory=list)
    dropout: Fraction = 0.2
    initializer: Initializer = "glorot_uniform"
    l1: Annotated[float, Field(ge=0)] = 0.0
    l2: Annotated[float, Field(ge=0)] = 0.0
    max_norm: Annotated[float, Field(gt=0)] | None = None

    def pooled_channels(self, shape: Sequence[int | None]) -> int:
        """Number of pooled features for features of this shape, without the batch."""
        is_pooled = len(shape) == 1
        return int(shape[-1] or 0) * (2 if self.pooling == "avg_max" and not is_pooled else 1)


class OptimizerSpec(Spec):
    """The optimiser of all phases. A phase may set its own learning rate and schedule.

    Attributes:
        schedule: How the learning rate changes over the epochs of a step, see `train.optimizer.rate`. `plateau` halves
            it after every second epoch in a row without a better one, and it stays low.
        clip_norm: Largest norm of all gradients together; not with `clip_value`.
        clip_value: Largest absolute value of each number of a gradient.
    """

    name: Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "ftrl"] = "adam"
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    schedule: Literal["none", "piecewise", "plateau", "exponential", "power", "cosine", "one_cycle"] = "none"
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.004
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    clip_value: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check_one_clipping(self) -> Self:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError(
                f"clip_norm and clip_value exclude each other (got {self.clip_norm:g} and {self.clip_value:g}):"
                " set one of them to null"
            )
        return self


def _off_if_false(value: object) -> object:
    """`off` for false: YAML reads a bare `off` as false."""
    return "off" if value is False else value


class PerformanceSpec(Spec):
    """How the work uses the machine.

    Attributes:
        budget: Time that a run may take, in seconds, minutes or hours, such as `10m`. Steps that do not fit are
            shortened or left out, by costs measured during the run.
        reuse_results: True to take steps that were trained before with the same inputs from the result cache. It
            has no effect if `cache` is off.
        batch: Images per step. `auto`: 32, or 16 below 1000 training images, so that an epoch has more steps.
    """

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    cache: Annotated[Literal["auto", "off"], BeforeValidator(_off_if_false)] = "auto"
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


def _check_expectation(text: str) -> str:
    parse(text)
    return text


# `teacher: RUN` is short for `teacher: {run: RUN}`.
Teacher = Annotated[TeacherSpec | None, BeforeValidator(teacher_of, json_schema_input_type=TeacherSpec | str | None)]


class Recipe(Spec):
    """A whole recipe: everything that determines a run, besides the images."""

    recipe: Literal[1] = 1
    name: Text
    description: str = ""
    extends: str | None = None
    quality: Quality = "balanced"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    head: HeadSpec = HeadSpec()
    augment: AugmentSpec = AugmentSpec()
    loss: LossSpec = LossSpec()
    teacher: Teacher = None
    optimizer: OptimizerSpec = OptimizerSpec()
    phases: Annotated[list[PhaseSpec], Field(min_length=1)]
    performance: PerformanceSpec = PerformanceSpec()
    report: bool = True
    expect: list[Annotated[str, AfterValidator(_check_expectation)]] = Field(default_factory=list)

    def for_images(self, count: int) -> Self:
        """A copy with a number in place of `batch: auto`, for `count` training images."""
        if self.performance.batch != "auto":
            return self
        batch = 16 if count < FEW_IMAGES else 32
        return self.model_copy(update={"performance": self.performance.model_copy(update={"batch": batch})})

    @model_validator(mode="after")
    def _check_sections_fit(self) -> Self:
        names = [phase.name for phase in self.phases]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"phases: phase names must be unique (got {', '.join(duplicates)} twice)")
        probed = [index for index, phase in enumerate(self.phases) if phase.starts_from_probe]
        if self.head.hidden and probed:
            raise ValueError(
                "head.hidden: the linear probe needs a head without hidden layers. Remove hidden or the probe"
            )
        if self.head.max_norm is not None and probed:
            raise ValueError(
                "head.max_norm: it would clip the optimum of the linear probe. Remove max_norm or the probe"
            )
        if self.data.folds and any(phase.policy == "depth_search" for phase in self.phases):
            raise ValueError(
                "data.folds: policy depth_search needs one set of validation images. Use policy gradual, or no folds"
            )
        if (probed and 0 not in probed) or any(phase.policy == "lp_ft" for phase in self.phases[1:]):
            raise ValueError(
                "phases: init: probe and policy: lp_ft must be in the first phase, because they initialise the head"
            )
        return self
