"""Perceptual hashes, near pairs and their representatives."""

import random
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tlcli.data.small_copy import shrink
from tlcli.quality import near_duplicates
from tlcli.quality.images import read_files
from tlcli.quality.near_duplicates import MAX_DIFFERENCE_BITS, MAX_FREQUENCY_BITS, Hashes

MakeImage = Callable[..., Image.Image]
WORD = st.integers(0, 2**64 - 1)


def to_word(result: imagehash.ImageHash) -> int:
    return int("".join("01"[bool(bit)] for bit in result.hash.ravel()), 2)


def test_hashes_equal_those_of_imagehash_bit_for_bit(make_image: MakeImage) -> None:
    sizes = [(32, 32), (240, 180), (97, 400), (1000, 33), (7, 5)]
    copies = [shrink(make_image(seed, sizes[seed % len(sizes)])) for seed in range(60)]
    result = near_duplicates.compute_hashes(copies)
    assert len({hashes for _, hashes in result}) > 50
    for copy, (_, hashes) in zip(copies, result, strict=True):
        assert hashes == Hashes(to_word(imagehash.phash(copy)), to_word(imagehash.dhash(copy)))


def test_hashes_do_not_depend_on_the_other_images(make_image: MakeImage) -> None:
    copies = [shrink(make_image(seed, (240, 180))) for seed in range(33)]
    assert [near_duplicates.compute_hashes([copy])[0] for copy in copies] == near_duplicates.compute_hashes(copies)


def test_absent_frequencies_do_not_depend_on_rounding() -> None:
    """Stripes have frequencies in one direction only; in the other all are 0, whatever the levels."""
    stripes = np.tile(np.where(np.arange(32) % 8 < 4, 0, 60), (32, 1)).astype(np.uint8)
    copies = [Image.fromarray(stripes), Image.fromarray(stripes * 3)]
    (_, dark), (_, light) = near_duplicates.compute_hashes(copies)
    assert dark is not None
    assert dark == light


@pytest.mark.parametrize("level", [0, 128, 255])
def test_one_colour_has_zero_contrast_and_no_hashes(level: int) -> None:
    assert near_duplicates.compute_hashes([Image.new("L", (32, 32), level)]) == [(0.0, None)]


def test_no_images_have_no_hashes() -> None:
    assert near_duplicates.compute_hashes([]) == []


def flip(word: int, bits: list[int]) -> int:
    for bit in bits:
        word ^= 1 << bit
    return word


@st.composite
def hash_lists(draw: st.DrawFn) -> list[Hashes]:
    """Random hashes, and others that differ from them in a few bits."""
    hashes = draw(st.lists(st.builds(Hashes, WORD, WORD), min_size=0, max_size=12))
    for one in draw(st.lists(st.sampled_from(hashes), max_size=20)) if hashes else []:
        frequency_bits = draw(st.lists(st.integers(0, 63), max_size=6))
        difference_bits = draw(st.lists(st.integers(0, 63), max_size=9))
        hashes.append(Hashes(flip(one.frequencies, frequency_bits), flip(one.differences, difference_bits)))
    return draw(st.permutations(hashes))


def all_pairs(hashes: list[Hashes]) -> list[tuple[int, int]]:
    """The near pairs, by comparing every pair."""
    return [
        (one, other)
        for one in range(len(hashes))
        for other in range(one + 1, len(hashes))
        if near_duplicates.is_near(hashes[one], hashes[other])
    ]


def near_pairs(hashes: list[Hashes]) -> list[tuple[int, int]]:
    return sorted(
        (int(one), int(other))
        for left, right in near_duplicates.near_pairs(hashes)
        for one, other in zip(left, right, strict=True)
    )


@settings(max_examples=200)
@given(hash_lists())
def test_every_near_pair_is_found_once(hashes: list[Hashes]) -> None:
    assert near_pairs(hashes) == all_pairs(hashes)


def test_the_limits_are_inclusive() -> None:
    """The farthest pair that is near, for every bit, and the nearest that is not."""
    zero = Hashes(0, 0)
    for start in range(60):
        bits = [start, *random.Random(start).sample([bit for bit in range(64) if bit != start], MAX_FREQUENCY_BITS)]
        assert near_pairs([zero, Hashes(flip(0, bits[:-1]), 0)]) == [(0, 1)]
        assert near_pairs([zero, Hashes(flip(0, bits), 0)]) == []
    assert near_pairs([zero, Hashes(0, 2**MAX_DIFFERENCE_BITS - 1)]) == [(0, 1)]
    assert near_pairs([zero, Hashes(0, 2 ** (MAX_DIFFERENCE_BITS + 1) - 1)]) == []


@given(hash_lists())
def test_images_are_near_their_representatives_which_are_not_near_each_other(hashes: list[Hashes]) -> None:
    result = near_duplicates.find_representatives(hashes)
    assert all(near_duplicates.is_near(hashes[first], hashes[index]) for index, first in enumerate(result))
    representatives = sorted(set(result))
    assert all(result[index] == index for index in representatives)
    assert all_pairs([hashes[index] for index in representatives]) == []


def test_100_000_images_are_compared_in_seconds() -> None:
    """The work grows with the images, not with their square."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**63, (100_000, 2), np.int64)
    hashes = [Hashes(int(one), int(other)) for one, other in words]
    calls: list[tuple[int, int]] = []
    pairs = near_duplicates.near_pairs(hashes, progress=lambda *call: calls.append(call))
    assert sum(len(left) for left, _ in pairs) == 0
    assert calls[::5] == [(0, 100_000), (100_000, 100_000)]


def hashes_of(image: Image.Image, path: Path, **settings: object) -> Hashes | None:
    image.save(path, **settings)
    (content,) = read_files([path], (64, 64))
    return content.image.hashes  # type: ignore[union-attr]


def test_changed_copies_are_near_and_other_images_are_not(tmp_path: Path, make_image: MakeImage) -> None:
    image = make_image(1, (240, 180))
    own = hashes_of(image, tmp_path / "own.png")
    copies = {
        "compressed": hashes_of(image, tmp_path / "c.jpg", quality=40),
        "smaller": hashes_of(image.resize((120, 90)), tmp_path / "s.png"),
        "gray": hashes_of(image.convert("L"), tmp_path / "g.png"),
        "a little brighter": hashes_of(image.point(lambda value: value * 1.05), tmp_path / "b.png"),
    }
    assert [name for name, hashes in copies.items() if not near_duplicates.is_near(own, hashes)] == []
    others = [hashes_of(make_image(seed, (240, 180)), tmp_path / f"{seed}.png") for seed in range(2, 40)]
    assert [hashes for hashes in others if near_duplicates.is_near(own, hashes)] == []


def test_images_of_one_colour_have_no_hashes(tmp_path: Path) -> None:
    assert hashes_of(Image.new("RGB", (90, 90), "white"), tmp_path / "w.jpg") is None
    noise = np.random.default_rng(0).integers(250, 256, (90, 90, 3), np.uint8)
    assert hashes_of(Image.fromarray(noise), tmp_path / "n.jpg") is None
