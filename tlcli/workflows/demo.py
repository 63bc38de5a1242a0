"""What `tlcli demo` works on: the handwritten digits that scikit-learn carries, and a run from nothing to compare."""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tlcli.paths import replacing
from tlcli.recipe import load
from tlcli.report import record
from tlcli.workflows.request import Request

# Digits a class in all.
DIGITS = 60
SIZE = 64


def write_digits(folder: Path, *, per_class: int = DIGITS) -> Path:
    """Write `per_class` digits of each class as 64 × 64 PNG files under `folder/<digit>/`; existing files stay."""
    digits = load_digits()
    seen = dict.fromkeys(range(10), 0)
    for image, label in zip(digits.images, digits.target, strict=True):
        number = int(label)
        if seen[number] == per_class:
            continue
        seen[number] += 1
        data = _png(image)
        path = folder / str(number) / f"{hashlib.sha256(data).hexdigest()[:12]}.png"
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_bytes(data)
    return folder


def from_scratch(run: Path, out: Path) -> Request:
    """The same job for the same network from random weights: same images and split, and more than enough epochs.

    Args:
        run: A complete run of the recipe `demo`.
        out: Folder of the new run.
    """
    recipe = load.load("demo")
    bounds = recipe.augment.model_dump(include={"preset", "rotation", "zoom", "shift"})
    options = {
        "data.path": record.read(run).data["path"],
        "data.val": recipe.data.val,
        "data.test": recipe.data.test,
        "model.name": recipe.model.name,
        **{f"augment.{name}": value for name, value in bounds.items()},
    }
    return Request(recipe="from-scratch", options=options, out=out)


def _png(image: np.ndarray) -> bytes:
    """An 8 × 8 digit with values 0-16 as a larger grey PNG, dark ink on white as on paper."""
    grey = Image.fromarray((255 - image * (255 / 16)).astype(np.uint8))
    data = io.BytesIO()
    grey.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(data, format="PNG")
    return data.getvalue()
