"""The recipe schema. Unknown keys and values out of range are errors."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema, model_validator

from tlcli.recipe.augment import AugmentSpec
from tlcli.recipe.expectation import parse
from tlcli.recipe.fields import (
    PIXELS,
    Activation,
    Duration,
    Fraction,
    Initializer,
    Location,
    Pixels,
    Resize,
    Spec,
    Text,
    refuse,
)
from tlcli.recipe.objective import LossSpec, TeacherSpec, teacher_of
from tlcli.recipe.optimizer import OptimizerSpec
from tlcli.recipe.phase import PhaseSpec
from tlcli.storage.location import named

SCHEMA_VERSION = 1
Quality = Literal["fast", "balanced", "best"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)
# `batch: auto` is 16 below this number of training images, otherwise 32; docs/adr/010 has the measurement.
FEW_IMAGES = 1000


def _share_or_folder(value: Any) -> Any:
    """A number for text that is one, a path for other text: `--set data.val=0.2` is a share, `extra/val` a folder."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return named(value)
    if isinstance(value, int | float) and not 0 <= value < 1:
        raise ValueError(f"a share must be 0 or more and less than 1; a folder is allowed too (got {value})")
    return value


def _check_size(value: Any) -> Any:
    if value == "auto" or (isinstance(value, list | tuple) and len(value) == 2):
        return value
    raise ValueError(f"a size must be auto or [height, width], for example [224, 224] (got {value})")


def _class_name(value: Any) -> Any:
    """A class name as text. YAML reads a folder name of digits as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Size = Annotated[
    Literal["auto"] | tuple[Pixels, Pixels],
    BeforeValidator(_check_size),
    # The default schema of a tuple is not understood by all editors.
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "array", "items": PIXELS, "minItems": 2, "maxItems": 2}]}),
]
Name = Annotated[Text, BeforeValidator(_class_name), WithJsonSchema({"type": ["string", "integer"], "minLength": 1})]


class DataSpec(Spec):
    """Which images to use, their splits and their size. Paths are relative to the current folder.

    Attributes:
        path: Folder of class folders, or manifest. `DATA` on the command line replaces it.
        val: Validation images: a share of the images of each class, where 0 turns the split off, or a folder of class
            folders.
        test: Test images, as `val`.
        folds: Number of folds. All images but the test images train and validate in turn: every one validates the
            classifier of one fold, and the final classifier learns from all of them. null for one split.
        size: Input of the network, `[height, width]` in pixels. `auto`: its own size.
        resize: How an image becomes that size: `crop` cuts the longer side, `pad` fills the shorter, `stretch`
            distorts.
        classes: Names of the classes to use, in this order; null for all.
        exclude: File that lists images to leave out, as `tlcli check --quarantine` writes it.
        class_weights: `balanced` weights each class in inverse proportion to its images.
        sampling: `balanced` draws all classes equally often in each epoch, images of small classes repeatedly; `all`
            takes every image once.
    """

    path: Location | None = None
    val: Annotated[Fraction | Path, BeforeValidator(_share_or_folder)] = 0.15
    test: Annotated[Fraction | Path, BeforeValidator(_share_or_folder)] = 0.15
    folds: Annotated[int, Field(ge=2, le=20)] | None = None
    size: Size = "auto"
    resize: Resize = "crop"
    classes: Annotated[list[Name], Field(min_length=2)] | None = None
    exclude: Path | None = None
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Literal["all", "balanced"] = "all"

    @model_validator(mode="after")
    def _check_shares_and_classes(self) -> Self:
        refuse(self._misfits())
        return self

    def _misfits(self) -> Iterator[str]:
        shares = [share for share in (self.val, self.test) if isinstance(share, float)]
        if sum(shares) >= 1:
            yield f"val and test must leave images to train on: their sum must be below 1 (got {sum(shares):g})"
        if self.folds and isinstance(self.val, Path):
            yield f"folds: validation images come from the folds, so leave val out (got val: {self.val})"
        if self.classes and len(set(self.classes)) != len(self.classes):
            yield "classes: must differ from each other"
        if self.class_weights == "balanced" and self.sampling == "balanced":
            yield (
                "class_weights and sampling exclude each other, because small classes would count twice: keep one of"
                " them (got balanced for both)"
            )

    @property
    def is_balanced(self) -> bool:
        """True if all classes count alike in training, by weights or by sampling."""
        return "balanced" in (self.class_weights, self.sampling)


# The value of `model.weights` for random initial weights.
RANDOM = "random"


class ModelSpec(Spec):
    """Which pretrained network to use. Paths are relative to the current folder.

    Attributes:
        name: A name from `tlcli zoo list`, `keras:MobileNetV2`, a card file, a `.keras` or Keras `.h5` file, or a run.
            `auto` is efficientnet_lite0, whose ImageNet weights are installed with tlcli.
        weights: A weights file in place of the network's own, or `random`.
        arguments: Arguments of the architecture, such as `{alpha: 0.35}`.
        preprocessing: What the network does to pixels: `none` (0-255), `unit` (0 to 1), `tf` (-1 to 1), `torch`
            (ImageNet mean and deviation), `caffe` (BGR minus the mean), `lite` ((x - 127) / 128). null: as its card
            says; files that do not state it need it.
        cut: Layer whose output becomes that of the network. `tlcli inspect --by layer` has the names.
        drop_top: Number of layer groups removed from the top before the head goes on.
        batch_norm_epsilon: Number that BatchNorm adds to the variance; null for that of the network.
    """

    name: Text = "auto"
    weights: Text | None = None
    arguments: dict[str, int | float | bool | str] = Field(default_factory=dict)
    preprocessing: Literal["none", "unit", "tf", "torch", "caffe", "lite"] | None = None
    cut: Name | None = None
    drop_top: Annotated[int, Field(ge=0)] = 0
    batch_norm_epsilon: Annotated[float, Field(gt=0, le=1)] | None = None


class HiddenSpec(Spec):
    """One hidden layer of the head: dense, BatchNorm, activation and dropout, in this order.

    Attributes:
        units: Number of outputs.
        activation: Function of the outputs. `silu` is swish, `sigmoid` the logistic function. `rrelu` has slopes below
            zero that vary at random in training, around 0.23 (Ref: Xu et al. 2015, arXiv 1505.00853).
        initializer: How the weights start. `auto`: `he_normal`, but `lecun_normal` for `selu`, and `glorot_uniform` for
            `tanh`, `sigmoid` and `linear`.
        batch_norm: BatchNorm `before` the activation (or true), or `after` it.
        dropout: Share of the outputs that a training step leaves out.
        batch_norm_momentum: Share of its statistics that a training step keeps.
        batch_norm_epsilon: Number that BatchNorm adds to the variance.
        activity_l1: Penalty on the absolute values of the outputs, mean over the images of a batch.
        activity_l2: Penalty on the squares of the outputs, mean over the images of a batch.
    """

    units: Annotated[int, Field(ge=1, le=65536)]
    activation: Activation = "relu"
    initializer: Initializer | Literal["auto"] = "auto"
    batch_norm: bool | Literal["before", "after"] = False
    batch_norm_momentum: Fraction = 0.9
    batch_norm_epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-3
    dropout: Fraction = 0.0
    activity_l1: Annotated[float, Field(ge=0)] = 0.0
    activity_l2: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _check_batch_norm(self) -> Self:
        fields = type(self).model_fields
        names = [] if self.batch_norm else ["batch_norm_momentum", "batch_norm_epsilon"]
        refuse(
            f"{name}: has no effect without BatchNorm (got {getattr(self, name):g}). Set batch_norm: true"
            for name in names
            if getattr(self, name) != fields[name].default
        )
        return self


class HeadSpec(Spec):
    """The new layers on top of the backbone.

    Attributes:
        pooling: What becomes of the positions of the features: their mean, their maximum, or both side by side.
        hidden: Hidden layers, from the bottom to the top.
        dropout: Share of the inputs of the last layer that a training step leaves out.
        initializer: How the weights of the last layer start.
        l1: Penalty on the absolute values of each dense kernel of the head.
        l2: Penalty on the squares of each dense kernel of the head.
        max_norm: Largest norm of the weights of each unit of the head; null for no limit.
        input_dropout: Share of the pooled features that a training step leaves out.
        spatial_dropout: Share of the feature maps that a training step leaves out, each with all its positions.
    """

    pooling: Literal["avg", "max", "avg_max"] = "avg"
    input_dropout: Fraction = 0.0
    spatial_dropout: Fraction = 0.0
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


def _off_if_false(value: object) -> object:
    """`off` for false: YAML reads a bare `off` as false."""
    return "off" if value is False else value


class PerformanceSpec(Spec):
    """How the work uses the machine.

    Attributes:
        precision: Format of numbers in training steps and frozen layers; the weights stay float32. `auto`: float32, but
            if computing takes minutes, a few timed steps decide whether bfloat16 is used.
        cache: `auto` stores the outputs of frozen layers, `off` computes them in every epoch.
        cache_budget: Largest size of the feature cache, such as `500MB`. The least recently used features are evicted.
        batch: Images per step. `auto`: 32, or 16 below 1000 training images, so that an epoch has more steps.
        budget: Time that a run may take, in seconds, minutes or hours, such as `10m`. Steps that do not fit are
            shortened or left out, by costs measured during the run. null for no limit.
        reuse_results: True to take steps that were trained before with the same inputs from the result cache. It
            has no effect if `cache` is off.
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
    """A whole recipe: everything that determines a run, besides the images.

    Attributes:
        recipe: Version of the form of recipes.
        name: Name of the recipe, in the record of a run.
        description: One line for `tlcli recipe list`.
        extends: Another recipe, by name or file, one level deep: sections are merged key by key, lists replaced. A file
            is looked for beside this one, then in the current folder.
        quality: What `auto` means in phases with rounds: seconds (`fast`) or accuracy (`balanced`). `best` climbs a
            ladder of runs: as `balanced`, with larger images, with longer rounds, again; and combines what helps.
        seed: Start of all random numbers.
        data: Which images to use, their splits and their size.
        model: Which pretrained network to use.
        head: The new layers on top of it.
        augment: Random changes to training images.
        loss: The loss of training.
        teacher: A classifier to learn from, besides the labels; also just its path.
        optimizer: The optimiser of all phases.
        phases: What is trained, one phase after the other.
        performance: How the work uses the machine.
        report: True for a page `report.html` at the end of a run.
        expect: What must be true of `run.json`, such as `val.accuracy >= 0.90`. If not: exit code 3.
    """

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
        refuse(self._misfits())
        return self

    def _misfits(self) -> Iterator[str]:
        names = [phase.name for phase in self.phases]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            yield f"phases: phase names must be unique (got {', '.join(duplicates)} twice)"
        probed = [index for index, phase in enumerate(self.phases) if phase.starts_from_probe]
        if self.head.hidden and probed:
            yield "head.hidden: the linear probe needs a head without hidden layers. Remove hidden or the probe"
        if self.head.max_norm is not None and probed:
            yield "head.max_norm: it would clip the optimum of the linear probe. Remove max_norm or the probe"
        if self.data.folds and any(phase.soup > 1 for phase in self.phases):
            yield "data.folds: soup needs one set of validation images. Set soup to 1, or use no folds"
        if self.data.folds and any(phase.policy == "depth_search" for phase in self.phases):
            yield "data.folds: policy depth_search needs one set of validation images. Use policy gradual, or no folds"
        if (probed and 0 not in probed) or any(phase.policy == "lp_ft" for phase in self.phases[1:]):
            yield "phases: init: probe and policy: lp_ft must be in the first phase, because they initialise the head"
        if self.teacher is not None and all(phase.epochs == 0 for phase in self.phases):
            yield "teacher: no phase trains, so nothing learns from it. Leave it out, or add a phase with epochs"
