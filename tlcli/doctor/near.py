"""Pictures that are nearly the same: pairs of hashes a few bits apart, found without comparing all with all.

Ref: the perceptual hashes are those of the imagehash library; multi-index hashing is Norouzi et al. 2012, CVPR.
Two hashes that differ in at most `BITS` bits are equal in one of `BITS` + 1 bands of them at least (pigeonhole), so
only hashes that share a band are compared.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tlcli.doctor.hashing import Hashes

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
