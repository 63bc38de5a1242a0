"""Photographs whose class in ImageNet is known: its class 985 is the daisy; roses of gardens have none."""

from pathlib import Path

import numpy as np
from PIL import Image

DAISY = 985


def daisies_and_roses(flowers: Path, side: int, *, daisies: int | None = 60, roses: int = 20) -> np.ndarray:
    """Pixels of daisies, then of roses, from the folder of `tf_flowers`: float32 (images, side, side, 3), 0-255."""
    chosen = sorted((flowers / "train" / "daisy").iterdir())[:daisies]
    if daisies is None:
        chosen += sorted((flowers / "val" / "daisy").iterdir())
    paths = [*chosen, *sorted((flowers / "train" / "roses").iterdir())[:roses]]
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((side, side))) for path in paths]
    return np.stack(pixels).astype("float32")
