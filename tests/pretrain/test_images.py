"""Image sets: all images in sub-folders, every content once, unreadable files listed."""

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
    """40 images, in sub-folders, deeper sub-folders and the folder itself."""
    folder = draw(tmp_path / "heap", ["a", "b"], count=20)
    (folder / "deep" / "er").mkdir(parents=True)
    for path in sorted((folder / "a").iterdir())[:5]:
        path.rename(folder / "deep" / "er" / path.name)
    for path in sorted((folder / "b").iterdir())[:5]:
        path.rename(folder / path.name)
    return folder


def load(folder: Path, events: list | None = None) -> images.ImageSet:
    progress = (lambda *event: events.append(event)) if events is not None else (lambda *event: None)
    return images.load_image_set(folder, side=12, cache=folder.parent / "cache", progress=progress)


def test_all_images_are_found_and_decoded(heap: Path) -> None:
    events: list[tuple[str, int, int]] = []
    loaded = load(heap, events)
    assert (loaded.name, len(loaded), loaded.copies, loaded.unreadable) == ("heap", 40, 0, ())
    assert len({loaded.pixels[row].tobytes() for row in loaded.rows}) == 40
    with Image.open(heap / "00.bmp") as image:
        middle = image.crop((4, 0, 44, 40)).resize((12, 12), Image.Resampling.BILINEAR)
    assert any(np.array_equal(loaded.pixels[row], np.asarray(middle)) for row in loaded.rows)
    assert {("reading", 40, 40), ("decoding", 40, 40)} <= set(events)


def test_copies_count_once_and_other_files_are_ignored(heap: Path) -> None:
    before = load(heap)
    shutil.copy(heap / "00.bmp", heap / "again.bmp")
    (heap / "notes.txt").write_text("not an image", encoding="utf-8")
    loaded = load(heap)
    assert (len(loaded), loaded.copies) == (40, 1)
    assert loaded.sha256 == before.sha256


def test_unreadable_files_are_left_out_and_listed(heap: Path) -> None:
    (heap / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not an image")
    loaded = load(heap)
    assert len(loaded) == 40
    assert [path for path, reason in loaded.unreadable if reason] == ["a/broken.jpg"]


def test_too_few_images_are_an_error(heap: Path) -> None:
    for path in sorted(heap.rglob("*.bmp"))[:9]:
        path.write_bytes(b"BM not an image")
    with pytest.raises(DataError, match=r"too few distinct readable images \(got 31 in 40 files\)\. At least 32"):
        load(heap)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "there is no such folder"),
        ("file", "is a file, not a folder"),
        ("empty", r"\(got 0\)\. At least 32"),
    ],
)
def test_a_folder_with_images_is_required(name: str, message: str, tmp_path: Path) -> None:
    if name == "file":
        (tmp_path / name).write_text("x", encoding="utf-8")
    if name == "empty":
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)
