"""Scanning DATA: layouts, classes, names, links, and errors."""

import hashlib
import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tlcli.data.source import FolderIndex, scan
from tlcli.errors import DataError

Sample = Callable[[str], Path]


def put(root: Path, *paths: str) -> Path:
    """Images of different content at these paths."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        colour = hashlib.sha256(path.encode()).digest()
        Image.new("RGB", (8, 8), (colour[0], colour[1], colour[2])).save(file, format="PNG")
    return root


def paths_of(index: FolderIndex, given: str | None) -> list[str]:
    return [image.path for image in index.images if image.given == given]


def test_class_folders_give_sorted_classes_images_and_hashes(tmp_path: Path) -> None:
    index = scan(put(tmp_path, "dog/2.png", "dog/1.png", "cat/deep/er/3.png"))
    assert index.classes == ("cat", "dog")
    assert [(image.path, image.label) for image in index.images] == [
        ("cat/deep/er/3.png", 0),
        ("dog/1.png", 1),
        ("dog/2.png", 1),
    ]
    first = index.images[0]
    content = index.file(first).read_bytes()
    assert (first.sha256, first.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert (index.given_splits, index.counts(), index.ignored) == ((), {"cat": 1, "dog": 2}, ())


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Train", "VALID", "Test"), ("TRAIN", "validation", "test")],
)
def test_split_folders_are_recognised_in_any_case(tmp_path: Path, train: str, val: str, test: str) -> None:
    put(tmp_path, *(f"{split}/{name}/{split}.png" for split in (train, val, test) for name in ("a", "b")))
    index = scan(tmp_path)
    assert index.classes == ("a", "b")
    assert index.given_splits == ("train", "val", "test")
    assert paths_of(index, "val") == [f"{val}/a/{val}.png", f"{val}/b/{val}.png"]


@pytest.mark.parametrize("beside", ["val", "test", None])
def test_train_with_one_or_no_folder_beside_it(tmp_path: Path, beside: str | None) -> None:
    put(tmp_path, "train/a/1.png", "train/b/2.png")
    if beside:
        put(tmp_path, f"{beside}/a/3.png", f"{beside}/b/4.png", "notes/5.png")
    index = scan(tmp_path)
    assert index.given_splits == (("train", beside) if beside else ("train",))
    assert index.ignored == (("notes/",) if beside else ())


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    index = scan(put(tmp_path, "train/1.png", "bus/2.png", "val/3.png"))
    assert index.classes == ("bus", "train", "val")
    assert index.given_splits == ()


def test_a_val_folder_elsewhere(tmp_path: Path) -> None:
    put(tmp_path, "home/a/1.png", "home/b/2.png", "other/a/3.png", "other/b/4.png")
    index = scan(tmp_path / "home", val=tmp_path / "other")
    assert paths_of(index, "val") == ["../other/a/3.png", "../other/b/4.png"]
    assert paths_of(index, "train") == ["a/1.png", "b/2.png"]
    assert all(index.file(image).is_file() for image in index.images)


def test_a_val_folder_inside_data_is_not_a_class_and_replaces_the_one_of_data(tmp_path: Path) -> None:
    put(tmp_path, "one/a/1.png", "one/b/2.png", "one/held/a/3.png", "one/held/b/4.png")
    index = scan(tmp_path / "one", val=tmp_path / "one" / "held")
    assert index.classes == ("a", "b")
    put(tmp_path, *(f"two/{split}/{name}/5.png" for split in ("train", "val") for name in "ab"))
    index = scan(tmp_path / "two", val=tmp_path / "one" / "held")
    assert paths_of(index, "val") == ["../one/held/a/3.png", "../one/held/b/4.png"]
    assert index.ignored == ("val/",)


def test_a_val_folder_elsewhere_if_data_is_a_link(tmp_path: Path) -> None:
    put(tmp_path, "far/away/home/a/1.png", "far/away/home/b/2.png", "other/a/3.png", "other/b/4.png")
    (tmp_path / "link").symlink_to(tmp_path / "far/away/home")
    index = scan(tmp_path / "link", val=tmp_path / "other")
    assert all(index.file(image).is_file() for image in index.images)


def test_content_decides_for_other_extensions(tmp_path: Path) -> None:
    put(tmp_path, "a/photo.txt", "a/noext", "b/1.PNG")
    Image.new("L", (2, 2)).save(tmp_path / "a" / "scan", format="TIFF")
    Image.new("L", (2, 2)).save(tmp_path / "a" / "camera.nef", format="TIFF")
    (tmp_path / "a" / "memo").write_text("BM is how this text begins, and it is long enough")
    (tmp_path / "b" / "empty.jpg").touch()
    (tmp_path / "readme.md").write_text("hello")
    put(tmp_path, "stray.png")
    index = scan(tmp_path)
    assert paths_of(index, None) == ["a/noext", "a/photo.txt", "a/scan", "b/1.PNG", "b/empty.jpg"]
    assert index.ignored == ("a/camera.nef", "a/memo", "readme.md", "stray.png")


def test_hidden_names_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png", ".git/3.png", "__MACOSX/a/4.png", "a/.5.png", "a/.thumbs/6.png")
    for name in ("Thumbs.db", "a/desktop.ini", "a/.DS_Store"):
        (tmp_path / name).write_text("x")
    index = scan(tmp_path)
    assert index.classes == ("a", "b")
    assert paths_of(index, None) == ["a/1.png", "b/2.png"]
    assert index.ignored == ()


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    put(tmp_path, "data/a/1.png", "data/b/2.png", "store/3.png")
    (tmp_path / "data/a/more").symlink_to(tmp_path / "store")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/b/gone.png").symlink_to(tmp_path / "nowhere.png")
    index = scan(tmp_path / "data")
    assert paths_of(index, None) == ["a/1.png", "a/more/3.png", "b/2.png"]
    assert index.ignored == ("b/gone.png",)


def test_classes_give_order_and_subset(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    index = scan(tmp_path, classes=["c", "a"])
    assert index.classes == ("c", "a")
    assert [(image.path, image.label) for image in index.images] == [("a/1.png", 1), ("c/3.png", 0)]


def test_class_names_are_unicode_nfc(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Blüte")
    put(tmp_path, f"{decomposed}/1.png", "Gras/2.png")
    index = scan(tmp_path, classes=["Gras", "Blüte"])
    assert index.classes == ("Gras", unicodedata.normalize("NFC", "Blüte"))
    assert index.file(index.images[0]).is_file()


def test_without_keeps_the_classes(tmp_path: Path) -> None:
    index = scan(put(tmp_path, "a/1.png", "b/2.png", "b/3.png"))
    less = index.without({index.images[0].sha256})
    assert (less.counts(), index.counts()) == ({"a": 0, "b": 2}, {"a": 1, "b": 2})


def test_progress_counts_every_file(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    scan(put(tmp_path, "a/1.png", "b/2.png", "b/3.png"), progress=lambda done, of: calls.append((done, of)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_real_sets(sample: Sample) -> None:
    flowers = scan(sample("tf_flowers"))
    assert flowers.classes == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    assert (flowers.given_splits, len(flowers.images)) == (("train", "val"), 1837)
    digits = scan(sample("sign_digits"))
    assert digits.classes == tuple("0123456789")


WRONG: dict[str, tuple[list[str], str, str]] = {
    "images without class folders": (["1.png", "2.png"], "holds 2 images but no class folders", "one folder of images"),
    "nothing": ([], "holds no images", "one folder of images"),
    "one class": (["a/1.png"], "holds only one class (got 'a')", "one folder of images"),
    "wrapped": (["wrap/a/1.png", "wrap/b/2.png"], "holds only one class (got 'wrap')", "/wrap?"),
    "no train": (["val/a/1.png", "test/a/2.png"], "holds test/ and val/ but no train/ folder", "train/"),
    "train without classes": (["train/1.png", "val/2.png"], "holds 1 image but no class folders", "train/cat"),
    "two val folders": (
        ["train/a/1.png", "train/b/1.png", "val/a/2.png", "valid/a/3.png"],
        "two folders are for the same split (got train/, val/, valid/)",
        "Keep one",
    ),
    "missing in val": (
        ["train/a/1.png", "train/b/2.png", "train/c/2.png", "val/a/3.png"],
        "the val folder lacks b, c",
        "Classes: a, b, c",
    ),
    "more in test": (
        ["train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png", "test/z/5.png"],
        "the test folder also has z",
        "Classes: a, b",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_layouts_are_errors(tmp_path: Path, name: str) -> None:
    paths, message, hint = WRONG[name]
    with pytest.raises(DataError) as caught:
        scan(put(tmp_path, *paths))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert str(tmp_path) in caught.value.where


def test_class_folder_without_images(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png", "c/keep")
    (tmp_path / "c" / "keep").rename(tmp_path / "c" / "photo.heic")
    (tmp_path / "c" / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match=r"class folder 'c' holds no images \(1 other file such as 'photo\.heic'\)"):
        scan(tmp_path)


def test_empty_given_folders(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "train/b/2.png")
    for name in "ab":
        (tmp_path / "test" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="the test folder holds no images"):
        scan(tmp_path)
    (tmp_path / "test").rename(tmp_path / "val")
    with pytest.raises(DataError, match="val: class folders 'a', 'b' hold no images"):
        scan(tmp_path)


def test_all_names_that_cannot_be_written_are_listed(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b\x07/2.png", "c\x1b/3.png")
    with pytest.raises(DataError, match=r"names of class folders have characters .* \(got 'b\\x07', 'c\\x1b'\)"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("classes", "message", "hint"),
    [
        (["rozes", "daisy"], "no class folder 'rozes'", "Did you mean 'roses'?"),
        (["rozes", "dazy"], "no class folders 'rozes', 'dazy' in", "Did you mean 'roses'? Did you mean 'daisy'?"),
        (["roses"], "holds only one class (got 'roses')", ""),
        (["roses", "roses"], "class 'roses' is named twice", "once"),
        ([], "no class is left", ""),
    ],
)
def test_wrong_class_lists(tmp_path: Path, classes: list[str], message: str, hint: str) -> None:
    put(tmp_path, "roses/1.png", "daisy/2.png")
    with pytest.raises(DataError) as caught:
        scan(tmp_path, classes=classes)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.where == "data.classes"


def test_missing_folder_suggests_a_sibling(tmp_path: Path) -> None:
    put(tmp_path, "flowers/a/1.png")
    with pytest.raises(DataError, match="Did you mean 'flowers'\\?"):
        scan(tmp_path / "flowrs")
    with pytest.raises(DataError, match="no such folder"):
        scan(tmp_path / "nowhere" / "at" / "all")


def test_file_instead_of_folder(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    with pytest.raises(DataError, match="DATA is a file"):
        scan(tmp_path / "a.png")
    put(tmp_path, "data/a/1.png", "data/b/2.png")
    with pytest.raises(DataError, match=r"data\.val is a file"):
        scan(tmp_path / "data", val=tmp_path / "a.png")


def test_class_names_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b\nc/2.png")
    with pytest.raises(DataError, match="cannot be written"):
        scan(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf_8_or_not_distinct(tmp_path: Path) -> None:
    put(tmp_path, "one/a/1.png", "one/b/2.png")
    os.rename(tmp_path / "one/b/2.png", os.fsencode(tmp_path / "one/b") + b"/\xff.png")
    with pytest.raises(DataError, match="not valid UTF-8"):
        scan(tmp_path / "one")
    put(tmp_path, *(f"two/{unicodedata.normalize(form, 'ü')}/1.png" for form in ("NFC", "NFD")))
    with pytest.raises(DataError, match="different Unicode forms"):
        scan(tmp_path / "two")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user can read everything")
def test_errors_name_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(DataError, match="Permission denied") as caught:
            scan(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o700)
    assert caught.value.where == str(tmp_path / "b")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user can read everything")
def test_an_image_without_permission_is_unreadable(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png", "b/3.png")
    (tmp_path / "b/2.png").chmod(0)
    index = scan(tmp_path)
    assert index.unreadable == (("b/2.png", "cannot be read (Permission denied)"),)
    assert [image.path for image in index.images] == ["a/1.png", "b/3.png"]


def test_an_image_that_is_replaced_by_a_broken_link_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png", "b/3.png")
    (tmp_path / "b/2.png").unlink()
    (tmp_path / "b/2.png").symlink_to(tmp_path / "b/2.png")
    index = scan(tmp_path)
    assert [image.path for image in index.images] == ["a/1.png", "b/3.png"]
