"""Demo: handwritten digits from scikit-learn, and the requests for the runs after the first."""

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

# Images per class.
PER_CLASS = 60
# Height and width of an image, pixels.
SIDE = 64


def write_digits(folder: Path, *, per_class: int = PER_CLASS) -> Path:
    """Write `per_class` images per class as 64 × 64 PNG files in `folder/<digit>/`. Existing files stay."""
    digits = load_digits()
    counts = dict.fromkeys(range(10), 0)
    for image, label in zip(digits.images, digits.target, strict=True):
        digit = int(label)
        if counts[digit] == per_class:
            continue
        counts[digit] += 1
        data = _png(image)
        path = folder / str(digit) / f"{hashlib.sha256(data).hexdigest()[:12]}.png"
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_bytes(data)
    return folder


def on_patches(data: Path, out: Path) -> Request:
    """The request for a new head on the default network, for the patches in a folder."""
    return Request(recipe="head-only", options={"data.path": str(data.absolute())}, out=out)


def from_scratch(run: Path, out: Path) -> Request:
    """The request for the same network from random weights, on the same images and split, with epochs in plenty.

    Args:
        run: Folder of a complete run of the recipe `demo`.
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
        # Only its score is shown.
        "report": False,
    }
    return Request(recipe="from-scratch", options=options, out=out)


def _png(image: np.ndarray) -> bytes:
    """A digit as a 64 × 64 grey PNG, dark on white, from a float (8, 8) array, 0-16."""
    grey = Image.fromarray((255 - image * (255 / 16)).astype(np.uint8))
    data = io.BytesIO()
    grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(data, format="PNG")
    return data.getvalue()
