from collections.abc import Callable

import imagehash
import numpy as np
import pytest
from PIL import Image

from tlcli.quality import near_duplicates
from tlcli.quality.near_duplicates import Hashes


def _word(found: imagehash.ImageHash) -> int:
    return int("".join("01"[bool(bit)] for bit in found.hash.ravel()), 2)


def test_the_hashes_are_those_of_imagehash_bit_for_bit(picture: Callable[..., Image.Image]) -> None:
    sizes = [(32, 32), (240, 180), (97, 400), (1000, 33), (7, 5)]
    small = [near_duplicates.shrunk(picture(seed, sizes[seed % len(sizes)])) for seed in range(60)]
    found = near_duplicates.hashed(small)
    assert len({hashes for _, hashes in found}) > 50
    for image, (_, hashes) in zip(small, found, strict=True):
        assert hashes == Hashes(_word(imagehash.phash(image)), _word(imagehash.dhash(image)))


def test_a_picture_has_the_same_hashes_in_any_company(picture: Callable[..., Image.Image]) -> None:
    small = [near_duplicates.shrunk(picture(seed, (240, 180))) for seed in range(33)]
    assert [near_duplicates.hashed([each])[0] for each in small] == near_duplicates.hashed(small)


def test_frequencies_that_are_not_there_do_not_depend_on_rounding() -> None:
    """Stripes have frequencies in one direction only; in the other all are nought, whatever the levels."""
    stripes = np.tile(np.where(np.arange(32) % 8 < 4, 0, 60), (32, 1)).astype(np.uint8)
    (_, dark), (_, light) = near_duplicates.hashed([Image.fromarray(stripes), Image.fromarray(stripes * 3)])
    assert dark is not None
    assert dark == light


@pytest.mark.parametrize("level", [0, 128, 255])
def test_one_colour_has_contrast_nought_and_no_hashes(level: int) -> None:
    assert near_duplicates.hashed([Image.new("L", (32, 32), level)]) == [(0.0, None)]


def test_of_nothing_there_is_nothing() -> None:
    assert near_duplicates.hashed([]) == []
