"""Near-duplicate images: perceptual hashes, and the pairs whose hashes differ in a few bits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

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


# Chosen by looking at pairs of photographs; docs/adr/011 has the figures.
BITS = 4
BITS_OF_DIFFERENCES = 7

Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_WIDTH = 64
_ONES = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def is_near(one: Hashes, other: Hashes) -> bool:
    """Whether two pictures are nearly the same."""
    return (one.frequencies ^ other.frequencies).bit_count() <= BITS and (
        one.differences ^ other.differences
    ).bit_count() <= BITS_OF_DIFFERENCES


def pairs(
    hashes: Sequence[Hashes], *, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Indices, Indices]]:
    """All pairs that are near, each once, some at a time: their smaller and larger indices, `int64 (pairs,)` each.

    Memory is that of the hashes, not of the pairs.
    """
    frequencies = np.array([each.frequencies for each in hashes], np.uint64)
    differences = np.array([each.differences for each in hashes], np.uint64)
    cuts = np.linspace(0, _WIDTH, BITS + 2).astype(int)
    bands = [(frequencies >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1) for low, high in pairwise(cuts)]
    for number, band in enumerate(bands):
        if progress:
            progress(number, len(bands))
        for left, right in _sharing(band):
            keep = _ones(frequencies[left] ^ frequencies[right]) <= BITS
            left, right = left[keep], right[keep]
            keep = _ones(differences[left] ^ differences[right]) <= BITS_OF_DIFFERENCES
            for earlier in bands[:number]:
                keep &= earlier[left] != earlier[right]
            if keep.any():
                left, right = left[keep], right[keep]
                yield np.minimum(left, right), np.maximum(left, right)
    if progress:
        progress(len(bands), len(bands))


def stars(hashes: Sequence[Hashes]) -> list[int]:
    """For each picture the first one before it that stands for it, or itself: no two that stand are near.

    Unlike chains of near pairs, everything is near what stands for it.
    """
    standing: list[int] = []
    leaders: list[int] = []
    for index, own in enumerate(hashes):
        leader = next((each for each in standing if is_near(hashes[each], own)), index)
        if leader == index:
            standing.append(index)
        leaders.append(leader)
    return leaders


def _sharing(band: Words) -> Iterator[tuple[Indices, Indices]]:
    """All pairs whose values are equal: along the sorted values, each with the next, with the next but one …."""
    order = np.argsort(band, kind="stable")
    line = band[order]
    here = np.arange(len(line) - 1)
    step = 1
    while len(here):
        here = here[here + step < len(line)]
        here = here[line[here] == line[here + step]]
        if len(here):
            yield order[here], order[here + step]
        step += 1


def _ones(words: Words) -> npt.NDArray[np.uint8]:
    """How many bits of each are set. NumPy 1 has no bit count."""
    return np.asarray(_ONES[words.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.uint8))
