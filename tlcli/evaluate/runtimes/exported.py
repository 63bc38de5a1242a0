"""What the runtimes of exported files share: one class, a function that runs the file, and the errors."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from tlcli.errors import ModelError
from tlcli.model.metadata import ClassifierMetadata
from tlcli.recipe.fields import Resize

# The key, or the name of the member, under which exported files hold `ClassifierMetadata` as JSON.
KEY = "tlcli"
THREADS = os.cpu_count() or 1
Run = Callable[[np.ndarray], np.ndarray]
"""From images (batch, height, width, 3) of the dtype that the file takes to probabilities (batch, classes)."""


@dataclass(frozen=True)
class ExportedRuntime:
    """An exported classifier; see `Runtime`.

    Attributes:
        about: Classes, size and resize mode.
        dtype: What the file takes, uint8 or float32.
        is_sized: True if it takes images of `size` only; False with the resize inside.
        batch: Images a call.
        run: Runs the file.
    """

    about: ClassifierMetadata
    dtype: Literal["uint8", "float32"]
    is_sized: bool
    batch: int
    run: Run

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""
        return self.about.classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.about.size

    @property
    def resize(self) -> Resize:
        """How images are resized to `size`."""
        return self.about.resize

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """See `Runtime.probabilities`. Files with the resize inside take images of any height and width.

        Raises:
            ModelError: The file has no resize inside, and the images are of another size.
        """
        if self.is_sized and images.shape[1:3] != self.size:
            given, own = (" × ".join(map(str, size)) for size in (images.shape[1:3], self.size))
            raise ModelError(f"the classifier has no resize inside and takes images of {own} (got {given})")
        if self.dtype == "uint8" and images.dtype != np.uint8:
            images = np.clip(np.rint(images), 0, 255)
        images = np.ascontiguousarray(images, self.dtype)
        parts = [self.run(images[start : start + self.batch]) for start in range(0, len(images), self.batch)]
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, len(self.classes)), np.float32)


def input_dtype(path: Path, found: str) -> Literal["uint8", "float32"]:
    """The dtype of the input of a file.

    Raises:
        ModelError: It is neither uint8 nor float32.
    """
    if found in ("uint8", "float32"):
        return found  # type: ignore[return-value]
    raise not_exported(path, f"its input is {found}")


def read_about(path: Path, text: str | bytes | None) -> ClassifierMetadata:
    """The description inside a file.

    Raises:
        ModelError: There is none, or it is damaged.
    """
    if text is None:
        raise not_exported(path, "it holds no class names")
    try:
        return ClassifierMetadata.model_validate_json(text)
    except ValidationError as error:
        raise not_exported(path, "its class names are damaged") from error


def not_exported(path: Path, reason: str) -> ModelError:
    """The error for a file that tlcli has not written."""
    return ModelError(
        f"is not an exported classifier: {reason}", where=str(path), hint="Give a file that `tlcli export` wrote."
    )


def unreadable(path: Path, runtime: str, error: Exception) -> ModelError:
    """The error for a file that its runtime does not load or run."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError(
        f"{runtime} cannot run the file ({lines[0][:200]})", where=str(path), hint="Restore it, or export it again."
    )


def missing(package: str, extra: str) -> ModelError:
    """The error for a runtime that is not installed."""
    return ModelError(
        f"this classifier needs {package}, which is not installed", hint=f"Install it: pip install 'tlcli[{extra}]'"
    )
