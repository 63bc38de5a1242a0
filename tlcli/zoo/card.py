"""ModelCard: what must be known of a pretrained network before it is built."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_serializer, model_validator

from tlcli.recipe.spec import BatchNormPolicy, Percent

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True)]
Preprocessing = Literal["none", "tf", "torch", "caffe"]


class GroupPattern(BaseModel):
    r"""One line of the group table: layers whose name matches `pattern` end a group called `name`.

    `name` may use the pattern's captures as `{1}`, `{2}`: `block{1}` with `block_(\d+)_.*` gives block1, block2 …
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    pattern: str


class FineTuning(BaseModel):
    """How the network is thawed where a recipe leaves it open: what `auto` stands for in a phase.

    `step: auto` leaves it to the number of images, see `train.cost.thawed_at_once`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    step: Annotated[int, Field(ge=1)] | Literal["all", "auto"] | Percent = "auto"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    batch_norm: BatchNormPolicy = "frozen"
    epochs: Annotated[int, Field(ge=1)] = 3


class ModelCard(BaseModel):
    """One entry of the zoo: where a network comes from and what it expects.

    Attributes:
        name: The name users type, snake case, for example `mobilenet_v2`.
        source: Kind of source and handle, `keras:MobileNetV2` or `file:PATH`.
        size: Input height and width the weights were trained at, pixels.
        min_size: Smallest height and width the network takes, pixels.
        preprocessing: What the weights expect of RGB 0-255: `none` takes them as they are, `tf` scales to -1..1,
            `torch` scales to 0..1 and normalises by ImageNet mean and deviation, `caffe` is BGR minus the mean.
            None where a file does not tell; the recipe must, in `model.preprocessing`.
        groups: Ordered patterns on layer names; empty means automatic groups.
        arguments: Architecture arguments, such as `{"alpha": 0.5}`.
        weights: The card's own weights, a Keras `.weights.h5` without top: in a card file its name beside the card,
            once read its absolute path, in JSON its name again. None: those that the source itself provides.
        sha256: Hash of that file, 64 hexadecimal digits.
        data: What the network was trained on, in words; empty means ImageNet.
        fine_tuning: How it is thawed where the recipe says `auto`. The usual small steps and frozen BatchNorm suit
            weights trained on photographs; what was trained on something else has to learn more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str
    title: str
    size: Annotated[int, Field(ge=1)]
    min_size: Annotated[int, Field(ge=1)]
    preprocessing: Preprocessing | None
    parameters: int | None = None
    imagenet_top1: float | None = None
    licence: str
    paper: str = ""
    groups: tuple[GroupPattern, ...] = ()
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    sha256: Sha256 | None = None
    data: str = ""
    fine_tuning: FineTuning = FineTuning()

    @model_validator(mode="after")
    def _hash_its_weights(self) -> Self:
        if (self.weights is None) != (self.sha256 is None):
            given, missing = ("sha256", "weights") if self.weights is None else ("weights", "sha256")
            raise ValueError(f"{given} needs {missing} beside it")
        return self

    @field_serializer("weights", when_used="json")
    def _weights_without_folder(self, weights: str | None) -> str | None:
        # Records travel; the folders of the machine they were made on stay there.
        return None if weights is None else Path(weights).name
