"""Findings about folders, names, links and class sizes."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tlcli.data.source import scan
from tlcli.data.split import make_splits
from tlcli.errors import DataError
from tlcli.quality.check import CheckResult
from tlcli.quality.finding import Finding
from tlcli.quality.folders import survey

FindingsOf = Callable[..., dict[str, Finding]]
MakeImage = Callable[..., Image.Image]
RunCheck = Callable[..., CheckResult]


def test_links_in_a_circle(clean_data: Path, findings_of: FindingsOf, run_check: RunCheck) -> None:
    (clean_data / "cat" / "up").symlink_to("..")
    (clean_data / "cat" / "self").symlink_to("self")
    finding = findings_of(clean_data)["link_loop"]
    assert set(finding.paths) == {"cat/up", "cat/self"}
    assert finding.severity == "warning"
    assert len(run_check(clean_data).index.images) == 40, "no image is counted twice"


def test_links_in_a_circle_beside_the_class_folders(
    clean_data: Path, findings_of: FindingsOf, run_check: RunCheck
) -> None:
    for name, target in (("here", "."), ("up", ".."), ("self", "self"), ("one", "other"), ("other", "one")):
        (clean_data / name).symlink_to(target)
    finding = findings_of(clean_data)["link_loop"]
    assert set(finding.paths) == {"here", "up", "self", "one", "other"}
    assert run_check(clean_data).index.classes == ("cat", "dog")
    assert "not_an_image" not in findings_of(clean_data)
    assert scan(clean_data).classes == ("cat", "dog"), "training uses none of them as a class"


def test_links_in_a_circle_in_a_split(clean_splits: Path, findings_of: FindingsOf) -> None:
    (clean_splits / "train" / "round").symlink_to("round")
    (clean_splits / "val" / "back").symlink_to("..")
    assert set(findings_of(clean_splits)["link_loop"].paths) == {"train/round", "val/back"}


def test_links_to_nowhere(clean_data: Path, findings_of: FindingsOf) -> None:
    (clean_data / "dog" / "gone.png").symlink_to("nowhere.png")
    finding = findings_of(clean_data)["broken_link"]
    assert finding.paths == ("dog/gone.png",)
    assert "nowhere.png" in finding.notes["dog/gone.png"]


def test_training_does_not_follow_a_circle_either(clean_data: Path) -> None:
    (clean_data / "cat" / "up").symlink_to("..")
    assert len(scan(clean_data).images) == 40


def test_hidden_folders(clean_data: Path, findings_of: FindingsOf) -> None:
    (clean_data / ".ipynb_checkpoints").mkdir()
    (clean_data / "cat" / ".git").mkdir()
    assert findings_of(clean_data)["hidden"].paths == (".ipynb_checkpoints/", "cat/.git/")


def test_nested_folders(clean_data: Path, findings_of: FindingsOf, make_image: MakeImage) -> None:
    (clean_data / "cat" / "tabby" / "old").mkdir(parents=True)
    make_image(901).save(clean_data / "cat" / "tabby" / "1.png")
    make_image(902).save(clean_data / "cat" / "tabby" / "old" / "2.png")
    finding = findings_of(clean_data)["nested"]
    assert finding.paths == ("cat/tabby/",)
    assert "2 images" in finding.message


def test_images_outside_classes_and_folders_beside_train(
    clean_data: Path, clean_splits: Path, findings_of: FindingsOf, make_image: MakeImage
) -> None:
    make_image(901).save(clean_splits / "val" / "stray.png")
    (clean_splits / "extra").mkdir()
    findings = findings_of(clean_splits)
    assert findings["stray"].paths == ("val/stray.png",)
    assert findings["unused_folder"].paths == ("extra/",)


def test_splits_with_different_classes(clean_splits: Path, findings_of: FindingsOf) -> None:
    (clean_splits / "val" / "dog").rename(clean_splits / "val" / "dgo")
    finding = findings_of(clean_splits)["different_classes"]
    assert finding.severity == "error"
    assert finding.notes == {"val/dog/": "is missing", "val/dgo/": "has no folder in train/"}
    with pytest.raises(DataError):
        scan(clean_splits)


@pytest.mark.parametrize("other", ["Cat", "cat ", "CAT", " cat"])
def test_class_names_that_differ_by_case_or_white_space(clean_data: Path, findings_of: FindingsOf, other: str) -> None:
    (clean_data / "dog").rename(clean_data / other)
    finding = findings_of(clean_data)["alike_classes"]
    assert finding.severity == "error"
    assert set(finding.paths) == {"cat/", f"{other}/"}


def test_class_names_of_two_unicode_forms(
    clean_data: Path, findings_of: FindingsOf, make_image: MakeImage, run_check: RunCheck
) -> None:
    for folder, form in (("cat", "NFC"), ("dog", "NFD")):
        (clean_data / folder).rename(clean_data / unicodedata.normalize(form, "grün"))
    (clean_data / "other").mkdir()
    for number in range(20):
        make_image(500 + number).save(clean_data / "other" / f"{number}.png")
    assert findings_of(clean_data)["same_class_name"].count == 2
    assert len(run_check(clean_data).index.classes) == 2


def test_compatibility_forms_are_alike(clean_data: Path, findings_of: FindingsOf) -> None:
    (clean_data / "dog").rename(clean_data / "ｃａｔ")
    assert findings_of(clean_data)["alike_classes"].count == 2


def test_a_class_name_with_a_control_character(clean_data: Path, findings_of: FindingsOf) -> None:
    (clean_data / "dog").rename(clean_data / "d\nog")
    assert findings_of(clean_data)["bad_class_name"].paths == ("d\nog/",)


def test_a_file_name_that_is_not_utf_8(clean_data: Path, findings_of: FindingsOf) -> None:
    (clean_data / "dog" / "00.png").rename(clean_data / "dog" / os.fsdecode(b"\xff.png"))
    finding = findings_of(clean_data)["bad_file_name"]
    assert finding.to_json()["paths"] == ["dog/\\xff.png"]


def test_classes_that_are_empty_small_or_uneven(
    clean_data: Path, findings_of: FindingsOf, make_image: MakeImage
) -> None:
    (clean_data / "empty").mkdir()
    (clean_data / "one").mkdir()
    make_image(501).save(clean_data / "one" / "1.png")
    (clean_data / "few").mkdir()
    for number in range(4):
        make_image(510 + number).save(clean_data / "few" / f"{number}.png")
    findings = findings_of(clean_data)
    assert findings["empty_class"].paths == ("empty/",)
    assert findings["too_small_class"].paths == ("one/",)
    assert findings["too_small_class"].notes == {"one/": "1 different image"}
    assert findings["small_class"].paths == ("few/",)
    assert findings["small_class"].severity == "warning"
    assert findings["imbalance"].paths == ("cat/", "one/")
    assert "only 1" in findings["imbalance"].message


def test_a_class_of_copies_is_too_small(clean_data: Path, findings_of: FindingsOf, make_image: MakeImage) -> None:
    for path in sorted((clean_data / "cat").iterdir()):
        make_image(901).save(path)
    assert findings_of(clean_data)["too_small_class"].paths == ("cat/",)


def test_an_empty_test_class_is_only_a_warning(clean_splits: Path, findings_of: FindingsOf) -> None:
    for path in (clean_splits / "test" / "dog").iterdir():
        path.unlink()
    finding = findings_of(clean_splits)["empty_test_class"]
    assert (finding.severity, finding.paths) == ("warning", ("test/dog/",))


def test_a_class_that_a_split_leaves_without_test_images_is_a_warning(
    clean_data: Path, findings_of: FindingsOf, make_image: MakeImage
) -> None:
    (clean_data / "few").mkdir()
    for number in range(2):
        make_image(910 + number).save(clean_data / "few" / f"{number}.png")
    finding = findings_of(clean_data)["empty_test_class"]
    assert (finding.severity, finding.paths) == ("warning", ("few/",))
    splits = make_splits(scan(clean_data), val=0.15, test=0.15)
    assert [text for text in splits.warnings if "class few has no test images" in text], "as plan says"


def test_any_other_reason_why_finetune_refuses_is_a_finding(clean_data: Path, findings_of: FindingsOf) -> None:
    for path in (clean_data / "dog").iterdir():
        path.rename(clean_data / "cat" / f"x{path.name}")
    (clean_data / "dog").rmdir()
    finding = findings_of(clean_data)["refused"]
    assert "only one class" in finding.message
    assert finding.severity == "error"


def test_the_survey_finds_the_images_that_training_uses(clean_data: Path, make_image: MakeImage) -> None:
    """The survey and the scan agree on a folder with nested, hidden, linked and other files."""
    (clean_data / "cat" / "deep" / "er").mkdir(parents=True)
    make_image(901).save(clean_data / "cat" / "deep" / "er" / "no_suffix", "PNG")
    (clean_data / "cat" / ".hidden.png").touch()
    (clean_data / "cat" / "up").symlink_to("..")
    (clean_data / "dog" / "gone.png").symlink_to("nowhere.png")
    (clean_data / "dog" / "text.txt").touch()
    index, surveyed = scan(clean_data), survey(clean_data)
    assert [file.path for file in surveyed.files] == [image.path for image in index.images]
    assert [surveyed.classes[file.label] for file in surveyed.files] == [
        index.classes[image.label] for image in index.images
    ]
    assert len(index.images) == 41


@pytest.mark.parametrize("make", ["nothing", "file", "empty", "flat"])
def test_nothing_to_check_is_an_error(tmp_path: Path, make: str, make_image: MakeImage, run_check: RunCheck) -> None:
    data = tmp_path / "data"
    if make == "file":
        data.touch()
    elif make != "nothing":
        data.mkdir()
    if make == "flat":
        make_image(901).save(data / "1.png")
    with pytest.raises(DataError) as error:
        run_check(data)
    messages = {"nothing": "no such folder", "file": "is a file", "empty": "no images", "flat": "1 image but no class"}
    assert messages[make] in error.value.message
