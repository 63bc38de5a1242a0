"""Value types that several recipe sections share, and the base class of the sections."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


def _as_text(value: object) -> object:
    """A number as text. YAML reads a bare 10 as a number; the error must then be the missing unit."""
    return str(value) if isinstance(value, int | float) else value


def _check_duration(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?\s*[smh]", text) or not re.search(r"[1-9]", text):
        raise ValueError(f"a time must be a number above 0 with s, m or h, for example 90s, 10m or 1.5h (got {text})")
    return text


Fraction = Annotated[float, Field(ge=0, lt=1)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Percent = Annotated[str, StringConstraints(pattern=r"^(100|[1-9]\d?)%$")]
Duration = Annotated[str, BeforeValidator(_as_text), AfterValidator(_check_duration)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Initializer = Literal[
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal", "zeros"
]
Activation = Literal[
    "relu", "leaky_relu", "prelu", "rrelu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softplus", "linear"
]
Schedule = Literal["none", "piecewise", "plateau", "exponential", "power", "cosine", "cosine_restarts", "one_cycle"]
BatchNormPolicy = Literal["frozen", "affine", "train"]
Resize = Literal["crop", "pad", "stretch"]


class Spec(BaseModel):
    """Base class of the recipe sections: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def seconds_of(text: str) -> float:
    """Convert a time such as `10m` to seconds.

    >>> seconds_of("1.5 h")
    5400.0
    """
    return float(text.rstrip("smh ")) * {"s": 1.0, "m": 60.0, "h": 3600.0}[text.rstrip()[-1]]


def bytes_of(text: str) -> int:
    """Convert a size such as `8GB` to bytes. Units are decimal.

    >>> bytes_of("1.5 kB")
    1500
    """
    number = text.rstrip("BkKMGT ")
    factor = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    return int(float(number) * factor[text[len(number) :].strip().upper().rstrip("B")])
