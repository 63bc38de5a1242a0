"""ModelCard: what must be known of a pretrained network before it is built."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Preprocessing = Literal["none", "tf", "torch", "caffe"]


class GroupPattern(BaseModel):
    r"""One line of the group table: layers whose name matches `pattern` end a group called `name`.

    `name` may use the pattern's captures as `{1}`, `{2}`: `block{1}` with `block_(\d+)_.*` gives block1, block2 …
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    pattern: str


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
