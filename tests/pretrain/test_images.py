"""Pictures without labels: wherever they lie, each content once, what cannot be read named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.errors import DataError
from tlcli.pretrain import images


@pytest.fixture
def heap(draw: Callable, tmp_path: Path) -> Path:
    """40 pictures in folders, sub-folders and none."""
    folder = draw(tmp_path / "heap", ["a", "b"], count=20)
    (folder / "deep" / "er").mkdir(parents=True)
    for path in sorted((folder / "a").iterdir())[:5]:
        path.rename(folder / "deep" / "er" / path.name)
    for path in sorted((folder / "b").iterdir())[:5]:
        path.rename(folder / path.name)
    return folder


def load(folder: Path, told: list | None = None) -> images.ImageSet:
    note = (lambda *event: told.append(event)) if told is not None else (lambda *event: None)
    return images.load_images(folder, side=12, cache=folder.parent / "cache", progress=note)


def test_all_are_found_and_decoded(heap: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = load(heap, told)
    assert (found.name, len(found), found.copies, found.unreadable) == ("heap", 40, 0, ())
    assert len({found.pixels[row].tobytes() for row in found.rows}) == 40
    with Image.open(heap / "00.bmp") as image:
        middle = image.crop((4, 0, 44, 40)).resize((12, 12), Image.Resampling.BILINEAR)
    assert any(np.array_equal(found.pixels[row], np.asarray(middle)) for row in found.rows)
    assert {("reading", 40, 40), ("decoding", 40, 40)} <= set(told)


def test_copies_count_once_and_other_files_not_at_all(heap: Path) -> None:
    before = load(heap)
    shutil.copy(heap / "00.bmp", heap / "again.bmp")
    (heap / "notes.txt").write_text("no picture", encoding="utf-8")
    found = load(heap)
    assert (len(found), found.copies) == (40, 1)
    assert found.sha256 == before.sha256


def test_what_cannot_be_read_is_named_and_passed_over(heap: Path) -> None:
    (heap / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    found = load(heap)
    assert len(found) == 40
    assert [path for path, reason in found.unreadable if reason] == ["a/broken.jpg"]


def test_too_few_are_an_error(heap: Path) -> None:
    for path in sorted(heap.rglob("*.bmp"))[:9]:
        path.write_bytes(b"BM no picture")
    with pytest.raises(DataError, match=r"too few different readable pictures .got 31 in 40 files, at least 32"):
        load(heap)


@pytest.mark.parametrize("what", ["missing", "file", "empty"])
def test_there_must_be_a_folder_of_pictures(what: str, tmp_path: Path) -> None:
    if what == "file":
        (tmp_path / what).write_text("x", encoding="utf-8")
    if what == "empty":
        (tmp_path / what).mkdir()
    said = {"missing": "there is no such folder", "file": "a folder is expected", "empty": "got 0, at least 32"}
    with pytest.raises(DataError, match=said[what]):
        load(tmp_path / what)
