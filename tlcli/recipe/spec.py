"""What every section of a recipe is made of: the base class, and kinds of values that several sections share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Fraction = Annotated[float, Field(ge=0, lt=1)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Percent = Annotated[str, StringConstraints(pattern=r"^(100|[1-9]\d?)%$")]
Duration = Annotated[str, StringConstraints(pattern=r"^[1-9]\d*(\.\d+)?\s*[smh]$")]
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
