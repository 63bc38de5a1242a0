"""Near-duplicate images: perceptual hashes, and the pairs whose hashes differ in a few bits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image

from tlcli.data.small_copy import COPY_SIDE

Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

# Most bits in which the hashes of near-duplicates differ. Chosen by looking at pairs of photographs; docs/adr/011 has
# the figures.
MAX_FREQUENCY_BITS = 4
MAX_DIFFERENCE_BITS = 7

_HASH_SIDE = 8
_HASH_BITS = 64
# Standard deviation of gray levels (0-255) below which an image has no features to compare.
_FLAT = 4.0
# The lowest frequencies of the cosine transform (DCT-II), one per row.
_WAVES = 2 * np.cos(np.pi / (2 * COPY_SIDE) * np.outer(np.arange(_HASH_SIDE), 2 * np.arange(COPY_SIDE) + 1))
# Number of set bits of every 16-bit number. NumPy 1 has no bit count.
_BIT_COUNTS = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


@dataclass(frozen=True, slots=True)
class Hashes:
    """Two perceptual hashes of 64 bits: of low frequencies (phash), and of differences between neighbours (dhash)."""

    frequencies: int
    differences: int


def compute_hashes(copies: Sequence[Image.Image]) -> list[tuple[float, Hashes | None]]:
    """Contrast and hashes of each small gray copy.

    The contrast is the standard deviation of the gray levels, 0-128. An image of one colour has no hashes, because it
    would be near all others of one colour.
    """
    if not copies:
        return []
    levels = np.stack([np.asarray(copy) for copy in copies]).astype(np.float64)
    contrasts = levels.std(axis=(1, 2)).tolist()
    low = (_WAVES @ levels @ _WAVES.T).reshape(len(copies), -1)
    # A frequency that is absent is 0 up to rounding errors, which must not decide the bit.
    low = low.round(6)
    frequencies = _to_words(low > np.median(low, axis=1, keepdims=True))
    rows = [copy.resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.LANCZOS) for copy in copies]
    tiny = np.stack([np.asarray(row) for row in rows])
    differences = _to_words((tiny[:, :, 1:] > tiny[:, :, :-1]).reshape(len(copies), -1))
    return [
        (contrast, None if contrast < _FLAT else Hashes(*pair))
        for contrast, *pair in zip(contrasts, frequencies, differences, strict=True)
    ]


def is_near(one: Hashes, other: Hashes) -> bool:
    """True if two images are near-duplicates."""
    return (one.frequencies ^ other.frequencies).bit_count() <= MAX_FREQUENCY_BITS and (
        one.differences ^ other.differences
    ).bit_count() <= MAX_DIFFERENCE_BITS


def near_pairs(
    hashes: Sequence[Hashes], *, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Indices, Indices]]:
    """All near pairs, each once, in portions: their smaller and larger indices, `int64 (pairs,)` each.

    Memory grows with the hashes, not with the pairs. Frequency hashes that differ in at most 4 bits are equal in one of
    5 bands (pigeonhole principle), so only hashes with an equal band are compared. `progress` is called with
    (images compared, images): each band counts as a fifth of the images.
    """
    frequencies = np.array([pair.frequencies for pair in hashes], np.uint64)
    differences = np.array([pair.differences for pair in hashes], np.uint64)
    cuts = np.linspace(0, _HASH_BITS, MAX_FREQUENCY_BITS + 2).astype(int)
    bands = [(frequencies >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1) for low, high in pairwise(cuts)]
    for number, band in enumerate(bands):
        if progress:
            progress(len(hashes) * number // len(bands), len(hashes))
        for left, right in _equal_pairs(band):
            keep = _count_bits(frequencies[left] ^ frequencies[right]) <= MAX_FREQUENCY_BITS
            left, right = left[keep], right[keep]
            keep = _count_bits(differences[left] ^ differences[right]) <= MAX_DIFFERENCE_BITS
            for earlier in bands[:number]:
                keep &= earlier[left] != earlier[right]
            if keep.any():
                left, right = left[keep], right[keep]
                yield np.minimum(left, right), np.maximum(left, right)
    if progress:
        progress(len(hashes), len(hashes))


def find_representatives(hashes: Sequence[Hashes]) -> list[int]:
    """The index of the representative of each image: the first earlier representative near it, else itself.

    No two representatives are near each other. Unlike in chains of near pairs, every image is near its representative.
    """
    representatives: list[int] = []
    result: list[int] = []
    for index, own in enumerate(hashes):
        representative = next((earlier for earlier in representatives if is_near(hashes[earlier], own)), index)
        if representative == index:
            representatives.append(index)
        result.append(representative)
    return result


def _equal_pairs(band: Words) -> Iterator[tuple[Indices, Indices]]:
    """All pairs of equal values: in sorted order, each value with the next, then with the next but one, and so on."""
    order = np.argsort(band, kind="stable")
    ordered = band[order]
    starts = np.arange(len(ordered) - 1)
    step = 1
    while len(starts):
        starts = starts[starts + step < len(ordered)]
        starts = starts[ordered[starts] == ordered[starts + step]]
        if len(starts):
            yield order[starts], order[starts + step]
        step += 1


def _to_words(bits: npt.NDArray[np.bool_]) -> list[int]:
    """Rows of 64 bits as integers, the first bit the highest."""
    return [int(word) for word in np.packbits(bits, axis=1).view(">u8")[:, 0]]


def _count_bits(words: Words) -> npt.NDArray[np.uint8]:
    """Number of set bits of each word."""
    return np.asarray(_BIT_COUNTS[words.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.uint8))
