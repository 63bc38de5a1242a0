"""Value types that several recipe sections share, and the base class of the sections."""

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from tlcli.storage.location import named


def _as_text(value: object) -> object:
    """A number as text. YAML reads a bare 10 as a number; the error must then be the missing unit."""
    return str(value) if isinstance(value, int | float) else value


# A number above 0 with a unit.
_DURATION = r"^(?=.*[1-9])\d+(\.\d+)?\s*[smh]$"


def checked_duration(text: str) -> str:
    """The text of a time such as `10m`.

    Raises:
        ValueError: If it is none.
    """
    if not re.fullmatch(_DURATION, text):
        raise ValueError(f"a time must be a number above 0 with s, m or h, for example 90s, 10m or 1.5h (got {text})")
    return text


Location = Annotated[Path, BeforeValidator(lambda value: named(value) if isinstance(value, str) else value)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
PIXELS = {"type": "integer", "minimum": 1, "maximum": 4096}
Percent = Annotated[str, StringConstraints(pattern=r"^(100|[1-9]\d?)%$")]
Duration = Annotated[
    str,
    BeforeValidator(_as_text),
    AfterValidator(checked_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION}),
]
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


def descriptions(section: type[BaseModel]) -> dict[str, str]:
    """What each key of a section means: the entries below `Attributes:` of its docstring."""
    _, _, attributes = (inspect.getdoc(section) or "").partition("\nAttributes:\n")
    entries = re.split(r"^ {4}(?=\w+: )", attributes, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, _, text in (entry.partition(": ") for entry in entries)}


def _describe(schema: dict[str, Any], section: type[BaseModel]) -> None:
    """Complete the JSON Schema of a section: descriptions from its docstring instead of titles made of names."""
    text = (inspect.getdoc(section) or "").partition("\nAttributes:\n")[0]
    schema["description"] = " ".join(text.split())
    schema.pop("title", None)
    means = descriptions(section)
    for name, key in schema["properties"].items():
        key.pop("title", None)
        key["description"] = means.get(name, "")
        if "$ref" in key:
            # The defaults of a section stand at its keys.
            key.pop("default", None)


class BrokenRules(ValueError):
    """Rules of a section that its values break together, each with the message of one."""

    def __init__(self, messages: tuple[str, ...]) -> None:
        super().__init__("; ".join(messages))
        self.messages = messages


def refuse(messages: Iterable[str]) -> None:
    """Refuse a section for all reasons at once; without one it is accepted.

    Args:
        messages: What is wrong. A message about one key begins with it and a colon.

    Raises:
        BrokenRules: If there is a message.
    """
    if listed := tuple(messages):
        raise BrokenRules(listed)


class Spec(BaseModel):
    """Base class of the recipe sections: immutable, without unknown keys. Docstrings describe each key.

    The descriptions are those of the JSON Schema and of the page of all keys.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_describe)


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
