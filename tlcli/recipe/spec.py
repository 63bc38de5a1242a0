"""What every section of a recipe is made of: the base class, and kinds of values that several sections share."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


def _as_text(value: object) -> object:
    """YAML takes a bare 10 for a number; what is missing then is the unit."""
    return str(value) if isinstance(value, int | float) else value


def _is_duration(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?\s*[smh]", text) or not re.search(r"[1-9]", text):
        raise ValueError(f"a time is a number above 0 with s, m or h: 90s, 10m, 1.5h (got {text})")
    return text


Fraction = Annotated[float, Field(ge=0, lt=1)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Percent = Annotated[str, StringConstraints(pattern=r"^(100|[1-9]\d?)%$")]
Duration = Annotated[str, BeforeValidator(_as_text), AfterValidator(_is_duration)]
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
