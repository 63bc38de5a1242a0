"""Findings about folders, names and links."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tlcli.data.source import scan
from tlcli.errors import DataError
from tlcli.quality.check import CheckResult
from tlcli.quality.finding import Finding
from tlcli.quality.folders import survey

Found = Callable[..., dict[str, Finding]]
Picture = Callable[..., Image.Image]
Looked = Callable[..., CheckResult]


def test_links_in_a_circle(good: Path, found: Found, looked: Looked) -> None:
    (good / "cat" / "up").symlink_to("..")
    (good / "cat" / "self").symlink_to("self")
    finding = found(good)["link_loop"]
    assert set(finding.paths) == {"cat/up", "cat/self"}
    assert finding.severity == "warning"
    assert len(looked(good).index.images) == 40, "nothing is counted twice"


def test_links_in_a_circle_beside_the_class_folders(good: Path, found: Found, looked: Looked) -> None:
    for name, target in (("here", "."), ("up", ".."), ("self", "self"), ("one", "other"), ("other", "one")):
        (good / name).symlink_to(target)
    finding = found(good)["link_loop"]
    assert set(finding.paths) == {"here", "up", "self", "one", "other"}
    assert looked(good).index.classes == ("cat", "dog")
    assert "not_an_image" not in found(good)
    assert scan(good).classes == ("cat", "dog"), "training takes none of them for a class"


def test_links_in_a_circle_in_a_split(given: Path, found: Found) -> None:
    (given / "train" / "round").symlink_to("round")
    (given / "val" / "back").symlink_to("..")
    assert set(found(given)["link_loop"].paths) == {"train/round", "val/back"}


def test_links_to_nowhere(good: Path, found: Found) -> None:
    (good / "dog" / "gone.png").symlink_to("nowhere.png")
    finding = found(good)["broken_link"]
    assert finding.paths == ("dog/gone.png",)
    assert "nowhere.png" in finding.notes["dog/gone.png"]


def test_training_follows_no_circle_either(good: Path) -> None:
    (good / "cat" / "up").symlink_to("..")
    assert len(scan(good).images) == 40


def test_hidden_folders(good: Path, found: Found) -> None:
    (good / ".ipynb_checkpoints").mkdir()
    (good / "cat" / ".git").mkdir()
    assert found(good)["hidden"].paths == (".ipynb_checkpoints/", "cat/.git/")


def test_nested_folders(good: Path, found: Found, picture: Picture) -> None:
    (good / "cat" / "tabby" / "old").mkdir(parents=True)
    picture(901).save(good / "cat" / "tabby" / "1.png")
    picture(902).save(good / "cat" / "tabby" / "old" / "2.png")
    finding = found(good)["nested"]
    assert finding.paths == ("cat/tabby/",)
    assert "2 images" in finding.message


def test_images_outside_classes_and_folders_beside_train(
    good: Path, given: Path, found: Found, picture: Picture
) -> None:
    picture(901).save(given / "val" / "stray.png")
    (given / "extra").mkdir()
    findings = found(given)
    assert findings["stray"].paths == ("val/stray.png",)
    assert findings["unused_folder"].paths == ("extra/",)


def test_splits_with_different_classes(given: Path, found: Found) -> None:
    (given / "val" / "dog").rename(given / "val" / "dgo")
    finding = found(given)["different_classes"]
    assert finding.severity == "error"
    assert finding.notes == {"val/dog/": "is missing", "val/dgo/": "has no folder in train/"}
    with pytest.raises(DataError):
        scan(given)


@pytest.mark.parametrize("other", ["Cat", "cat ", "CAT", " cat"])
def test_class_names_that_differ_by_case_or_white_space(good: Path, found: Found, other: str) -> None:
    (good / "dog").rename(good / other)
    finding = found(good)["alike_classes"]
    assert finding.severity == "error"
    assert set(finding.paths) == {"cat/", f"{other}/"}


def test_class_names_of_two_unicode_forms(good: Path, found: Found, picture: Picture, looked: Looked) -> None:
    for place, form in (("cat", "NFC"), ("dog", "NFD")):
        (good / place).rename(good / unicodedata.normalize(form, "grün"))
    (good / "other").mkdir()
    for number in range(20):
        picture(500 + number).save(good / "other" / f"{number}.png")
    assert found(good)["same_class_name"].count == 2
    assert len(looked(good).index.classes) == 2


def test_compatibility_forms_are_alike(good: Path, found: Found) -> None:
    (good / "dog").rename(good / "ｃａｔ")
    assert found(good)["alike_classes"].count == 2


def test_a_class_name_that_no_list_can_hold(good: Path, found: Found) -> None:
    (good / "dog").rename(good / "d\nog")
    assert found(good)["bad_class_name"].paths == ("d\nog/",)


def test_a_file_name_that_is_no_unicode(good: Path, found: Found) -> None:
    (good / "dog" / "00.png").rename(good / "dog" / os.fsdecode(b"\xff.png"))
    finding = found(good)["bad_file_name"]
    assert finding.to_json()["paths"] == ["dog/\\xff.png"]


def test_classes_that_are_empty_small_or_uneven(good: Path, found: Found, picture: Picture) -> None:
    (good / "empty").mkdir()
    (good / "one").mkdir()
    picture(501).save(good / "one" / "1.png")
    (good / "few").mkdir()
    for number in range(4):
        picture(510 + number).save(good / "few" / f"{number}.png")
    findings = found(good)
    assert findings["empty_class"].paths == ("empty/",)
    assert findings["too_small_class"].paths == ("empty/", "one/")
    assert findings["small_class"].paths == ("few/",)
    assert findings["small_class"].severity == "warning"
    assert findings["imbalance"].paths == ("cat/", "one/")
    assert "only 1" in findings["imbalance"].message


def test_a_class_of_copies_is_too_small(good: Path, found: Found, picture: Picture) -> None:
    for path in sorted((good / "cat").iterdir()):
        picture(901).save(path)
    assert found(good)["too_small_class"].paths == ("cat/",)


def test_an_empty_test_class_is_only_a_warning(given: Path, found: Found) -> None:
    for path in (given / "test" / "dog").iterdir():
        path.unlink()
    finding = found(given)["empty_test_class"]
    assert (finding.severity, finding.paths) == ("warning", ("test/dog/",))


def test_what_finetune_refuses_for_another_reason_is_told(good: Path, found: Found) -> None:
    for path in (good / "dog").iterdir():
        path.rename(good / "cat" / f"x{path.name}")
    (good / "dog").rmdir()
    finding = found(good)["refused"]
    assert "only one class" in finding.message
    assert finding.severity == "error"


def test_it_sees_the_images_that_training_uses(good: Path, picture: Picture) -> None:
    """On a folder with everything in it, the survey and the scan agree."""
    (good / "cat" / "deep" / "er").mkdir(parents=True)
    picture(901).save(good / "cat" / "deep" / "er" / "no_suffix", "PNG")
    (good / "cat" / ".hidden.png").touch()
    (good / "cat" / "up").symlink_to("..")
    (good / "dog" / "gone.png").symlink_to("nowhere.png")
    (good / "dog" / "text.txt").touch()
    index, seen = scan(good), survey(good)
    assert [file.path for file in seen.files] == [image.path for image in index.images]
    assert [seen.classes[file.label] for file in seen.files] == [index.classes[image.label] for image in index.images]
    assert len(index.images) == 41


@pytest.mark.parametrize("make", ["nothing", "file", "empty", "flat"])
def test_nothing_to_look_at_is_an_error(tmp_path: Path, make: str, picture: Picture, looked: Looked) -> None:
    place = tmp_path / "place"
    if make == "file":
        place.touch()
    elif make != "nothing":
        place.mkdir()
    if make == "flat":
        picture(901).save(place / "1.png")
    with pytest.raises(DataError) as error:
        looked(place)
    said = {"nothing": "no such folder", "file": "is a file", "empty": "no images", "flat": "1 images but no class"}
    assert said[make] in error.value.message
