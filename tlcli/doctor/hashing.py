"""Perceptual hashes of pictures, of many at once: hashing one by one would take as long as decoding it.

Ref: `phash` and `dhash` as the imagehash library computes them, whose bits these are (Zauner 2010, "Implementation and
benchmarking of perceptual image hash functions").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

# Side of the gray picture that both hashes are taken of, pixels. Shrinking in two steps, the first by whole numbers,
# takes a fraction of the time.
_SMALL, _ON_THE_WAY = 32, 96
_SIDE = 8
# Deviation of gray levels (0-255) below which a picture has nothing to be recognised by.
_FLAT = 4.0
# The lowest frequencies of the cosine transform (DCT-II), one a row.
_WAVES = 2 * np.cos(np.pi / (2 * _SMALL) * np.outer(np.arange(_SIDE), 2 * np.arange(_SMALL) + 1))


@dataclass(frozen=True, slots=True)
class Hashes:
    """Two perceptual hashes of 64 bits: by low frequencies, and by differences between neighbours."""

    frequencies: int
    differences: int


def shrunk(rgb: Image.Image) -> Image.Image:
    """The small gray copy that a picture is recognised by."""
    gray = rgb.convert("L")
    across, down = max(gray.width // _ON_THE_WAY, 1), max(gray.height // _ON_THE_WAY, 1)
    reduced = gray.reduce((across, down)) if max(across, down) > 1 else gray
    return reduced.resize((_SMALL, _SMALL), Image.Resampling.BILINEAR)


def hashed(small: Sequence[Image.Image]) -> list[tuple[float, Hashes | None]]:
    """For each small gray copy its contrast, the deviation of its gray levels (0-128), and its hashes.

    No hashes for a picture of one colour, which is like any other of its kind.
    """
    if not small:
        return []
    levels = np.stack([np.asarray(each) for each in small]).astype(np.float64)
    contrasts = levels.std(axis=(1, 2)).tolist()
    low = (_WAVES @ levels @ _WAVES.T).reshape(len(small), -1)
    # A frequency that is not there at all is 0, but for rounding, which must not choose the bit.
    low = low.round(6)
    frequencies = _words(low > np.median(low, axis=1, keepdims=True))
    rows = [each.resize((_SIDE + 1, _SIDE), Image.Resampling.LANCZOS) for each in small]
    tiny = np.stack([np.asarray(each) for each in rows])
    differences = _words((tiny[:, :, 1:] > tiny[:, :, :-1]).reshape(len(small), -1))
    return [
        (contrast, None if contrast < _FLAT else Hashes(*pair))
        for contrast, *pair in zip(contrasts, frequencies, differences, strict=True)
    ]


def _words(bits: npt.NDArray[np.bool_]) -> list[int]:
    """Rows of 64 bits as whole numbers, the first bit the highest."""
    return [int(word) for word in np.packbits(bits, axis=1).view(">u8")[:, 0]]
