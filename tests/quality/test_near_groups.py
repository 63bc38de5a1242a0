"""Near-duplicates that the split keeps together. They are the same for every input size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.data.pixels import open_cache
from tlcli.data.small_copy import shrink
from tlcli.data.source import scan
from tlcli.data.split import make_splits
from tlcli.quality.near_groups import find_near_groups

Sample = Callable[[str], Path]


@pytest.fixture
def with_copies(clean_data: Path) -> Path:
    """Two classes of 20 images. The first five cats are also there as JPEG files."""
    for number in range(5):
        with Image.open(clean_data / "cat" / f"{number:02}.png") as image:
            image.convert("RGB").save(clean_data / "cat" / f"z{number}.jpg", quality=80)
    return clean_data


def near_groups(data: Path, home: Path) -> tuple[tuple[str, ...], ...]:
    index = scan(data)
    return find_near_groups(index, open_cache(index, size=(16, 16), mode="crop", folder=home / "pixels"))


def paths_of(data: Path, groups: tuple[tuple[str, ...], ...]) -> list[list[str]]:
    names = {image.sha256: image.path for image in scan(data).images}
    return sorted(sorted(names[sha] for sha in group) for group in groups)


def test_recompressed_copies_are_found_and_share_a_split(with_copies: Path, tmp_path: Path) -> None:
    index = scan(with_copies)
    groups = near_groups(with_copies, tmp_path)
    assert paths_of(with_copies, groups) == [[f"cat/{number:02}.png", f"cat/z{number}.jpg"] for number in range(5)]
    name_of = {image.path: name for image, name in make_splits(index, val=0.2, test=0.2, near=groups).rows()}
    assert all(name_of[f"cat/{number:02}.png"] == name_of[f"cat/z{number}.jpg"] for number in range(5))
    alone = {image.path: name for image, name in make_splits(index, val=0.2, test=0.2).rows()}
    assert any(alone[f"cat/{number:02}.png"] != alone[f"cat/z{number}.jpg"] for number in range(5))


@pytest.mark.parametrize("side", [16, 32, 224])
def test_copies_do_not_depend_on_the_input_size(
    make_image: Callable[..., Image.Image], tmp_path: Path, side: int
) -> None:
    """Large photographs are decoded at different scales for different networks."""
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(3):
            image = make_image(ord(label) + 100 * number, (1500, 1100))
            image.save(tmp_path / "data" / label / f"{number}.jpg", quality=90)
            image.save(tmp_path / "data" / label / f"{number}.png")
    index = scan(tmp_path / "data")
    pixels = open_cache(index, size=(side, side), mode="crop", folder=tmp_path / "cache")
    assert pixels.copies.shape == (12, 32, 32)
    for image in index.images:
        with Image.open(index.file(image)) as file:
            file.draft("RGB", (359, 359))
            expected = np.asarray(shrink(file.convert("RGB")))
        assert (pixels.copies[pixels.rows[image.sha256]] == expected).all()
    assert len(find_near_groups(index, pixels)) == 6


def test_a_broken_image_and_one_of_one_colour_are_near_nothing(clean_data: Path, tmp_path: Path) -> None:
    for name in ("x1", "x2"):
        (clean_data / "cat" / f"{name}.jpg").write_bytes(b"\xff\xd8\xff" + name.encode())
        Image.new("RGB", (32, 32), "gray").save(clean_data / "cat" / f"{name}.png", compress_level=int(name[1]))
    assert near_groups(clean_data, tmp_path) == ()


def test_real_photographs(sample: Sample, tmp_path: Path) -> None:
    """The pairs were looked at: each shows the same object, photographed twice."""
    groups = near_groups(sample("trashnet"), tmp_path)
    assert len(groups) == 21
    assert all(len(group) == 2 for group in groups)
