import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tlcli.quality import near_duplicates
from tlcli.quality.images import read_files
from tlcli.quality.near_duplicates import Hashes

WORD = st.integers(0, 2**64 - 1)


@st.composite
def hashes(draw: st.DrawFn) -> list[Hashes]:
    """Some hashes, and others a few bits from them."""
    found = draw(st.lists(st.builds(Hashes, WORD, WORD), min_size=0, max_size=12))
    for one in draw(st.lists(st.sampled_from(found), max_size=20)) if found else []:
        bits = draw(st.lists(st.integers(0, 63), max_size=6))
        others = draw(st.lists(st.integers(0, 63), max_size=9))
        found.append(Hashes(_flipped(one.frequencies, bits), _flipped(one.differences, others)))
    return draw(st.permutations(found))


def _flipped(word: int, bits: list[int]) -> int:
    for bit in bits:
        word ^= 1 << bit
    return word


def all_pairs(found: list[Hashes]) -> list[tuple[int, int]]:
    return [
        (one, other)
        for one in range(len(found))
        for other in range(one + 1, len(found))
        if near_duplicates.is_near(found[one], found[other])
    ]


def pairs(found: list[Hashes]) -> list[tuple[int, int]]:
    return sorted(
        (int(one), int(other))
        for left, right in near_duplicates.pairs(found)
        for one, other in zip(left, right, strict=True)
    )


@settings(max_examples=200)
@given(hashes())
def test_it_finds_each_pair_that_comparing_all_finds_once(found: list[Hashes]) -> None:
    assert pairs(found) == all_pairs(found)


def test_the_limits_are_in_the_pairs() -> None:
    """The farthest pair that is near, each bit of it, and the nearest that is not."""
    zero = Hashes(0, 0)
    for start in range(60):
        bits = [start, *random.Random(start).sample([bit for bit in range(64) if bit != start], near_duplicates.BITS)]
        assert pairs([zero, Hashes(_flipped(0, bits[:-1]), 0)]) == [(0, 1)]
        assert pairs([zero, Hashes(_flipped(0, bits), 0)]) == []
    assert pairs([zero, Hashes(0, 2**near_duplicates.BITS_OF_DIFFERENCES - 1)]) == [(0, 1)]
    assert pairs([zero, Hashes(0, 2 ** (near_duplicates.BITS_OF_DIFFERENCES + 1) - 1)]) == []


@given(hashes())
def test_everything_is_near_what_stands_for_it_and_these_are_not_near(found: list[Hashes]) -> None:
    leaders = near_duplicates.stars(found)
    assert all(near_duplicates.is_near(found[leader], found[index]) for index, leader in enumerate(leaders))
    standing = sorted(set(leaders))
    assert all(leaders[index] == index for index in standing)
    assert all_pairs([found[index] for index in standing]) == []


def test_the_work_grows_with_the_images_and_not_with_their_square() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**63, (100_000, 2), np.int64)
    found = [Hashes(int(one), int(other)) for one, other in words]
    seen: list[tuple[int, int]] = []
    assert sum(len(left) for left, _ in near_duplicates.pairs(found, progress=lambda *now: seen.append(now))) == 0
    assert seen[-1] == (5, 5)


def _hashes_of(image: Image.Image, path: Path, **settings: object) -> Hashes | None:
    image.save(path, **settings)
    (look,) = read_files([str(path)], (64, 64))
    return look.found.hashes  # type: ignore[union-attr]


def test_changed_copies_are_near_and_other_pictures_are_not(
    tmp_path: Path, picture: Callable[..., Image.Image]
) -> None:
    image = picture(1, (240, 180))
    own = _hashes_of(image, tmp_path / "own.png")
    copies = {
        "compressed": _hashes_of(image, tmp_path / "c.jpg", quality=40),
        "smaller": _hashes_of(image.resize((120, 90)), tmp_path / "s.png"),
        "gray": _hashes_of(image.convert("L"), tmp_path / "g.png"),
        "a little brighter": _hashes_of(image.point(lambda value: value * 1.05), tmp_path / "b.png"),
    }
    assert [name for name, found in copies.items() if not near_duplicates.is_near(own, found)] == []
    others = [_hashes_of(picture(seed, (240, 180)), tmp_path / f"{seed}.png") for seed in range(2, 40)]
    assert [found for found in others if near_duplicates.is_near(own, found)] == []


def test_pictures_of_one_colour_have_nothing_to_be_recognised_by(tmp_path: Path) -> None:
    assert _hashes_of(Image.new("RGB", (90, 90), "white"), tmp_path / "w.jpg") is None
    noise = np.random.default_rng(0).integers(250, 256, (90, 90, 3), np.uint8)
    assert _hashes_of(Image.fromarray(noise), tmp_path / "n.jpg") is None
