"""Near-duplicates that the split keeps together: found in files, cached, and the same for every input size."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

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


def paths_of(data: Path, groups: tuple[tuple[str, ...], ...]) -> list[list[str]]:
    names = {image.sha256: image.path for image in scan(data).images}
    return sorted(sorted(names[sha] for sha in group) for group in groups)


def test_recompressed_copies_are_found_and_share_a_split(with_copies: Path, tmp_path: Path) -> None:
    index = scan(with_copies)
    groups = find_near_groups(index, folder=tmp_path / "hashes")
    assert paths_of(with_copies, groups) == [[f"cat/{number:02}.png", f"cat/z{number}.jpg"] for number in range(5)]
    name_of = {image.path: name for image, name in make_splits(index, val=0.2, test=0.2, near=groups).rows()}
    assert all(name_of[f"cat/{number:02}.png"] == name_of[f"cat/z{number}.jpg"] for number in range(5))
    alone = {image.path: name for image, name in make_splits(index, val=0.2, test=0.2).rows()}
    assert any(alone[f"cat/{number:02}.png"] != alone[f"cat/z{number}.jpg"] for number in range(5))


def test_hashes_are_read_from_the_cache_and_computed_again_if_it_is_damaged(with_copies: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    folder = tmp_path / "hashes"

    def find() -> tuple[tuple[str, ...], ...]:
        calls.clear()
        return find_near_groups(scan(with_copies), folder=folder, progress=lambda *done: calls.append(done))

    first = find()
    assert calls[-1] == (45, 45)
    assert find() == first
    assert calls == []
    (cache,) = folder.iterdir()
    for damage in ("", "[1, 2]", json.dumps([["a", "b"]] * 45), '{"a": 1}', json.dumps([[1, 2, 3]] * 45)):
        cache.write_text(damage, encoding="utf-8")
        assert find() == first, damage
        assert calls, damage


def test_a_broken_image_and_one_of_one_colour_are_near_nothing(clean_data: Path, tmp_path: Path) -> None:
    for name in ("x1", "x2"):
        (clean_data / "cat" / f"{name}.jpg").write_bytes(b"\xff\xd8\xff" + name.encode())
        Image.new("RGB", (32, 32), "gray").save(clean_data / "cat" / f"{name}.png", compress_level=int(name[1]))
    assert find_near_groups(scan(clean_data), folder=tmp_path / "hashes") == ()


def test_real_photographs(sample: Sample, tmp_path: Path) -> None:
    """The pairs were looked at: each shows the same object, photographed twice."""
    groups = find_near_groups(scan(sample("trashnet")), folder=tmp_path)
    assert len(groups) == 21
    assert all(len(group) == 2 for group in groups)
