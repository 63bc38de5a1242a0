"""Exact and near duplicates: in a class, in two classes, in two splits; and which of them the quarantine list has."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tlcli.data import exclude
from tlcli.data.source import scan
from tlcli.quality import components, quarantine
from tlcli.quality.check import CheckResult
from tlcli.quality.finding import Finding

FindingsOf = Callable[..., dict[str, Finding]]
RunCheck = Callable[..., CheckResult]


def copy_file(home: Path, source: str, target: str) -> None:
    shutil.copy(home / source, home / target)


def save_as_jpeg(home: Path, source: str, target: str) -> None:
    """Save an image again, so that only its bytes differ."""
    with Image.open(home / source) as image:
        image.convert("RGB").save(home / target, quality=90)


def test_copies_in_a_class(clean_data: Path, findings_of: FindingsOf) -> None:
    copy_file(clean_data, "cat/03.png", "cat/x.png")
    copy_file(clean_data, "cat/03.png", "cat/y.png")
    finding = findings_of(clean_data)["duplicate"]
    assert finding.groups == (("cat/03.png", "cat/x.png", "cat/y.png"),)
    assert finding.severity == "warning"
    assert list(quarantine.entries([finding])) == ["cat/x.png", "cat/y.png"], "one is kept"


def test_copies_in_two_classes(clean_data: Path, findings_of: FindingsOf) -> None:
    copy_file(clean_data, "cat/03.png", "dog/x.png")
    findings = findings_of(clean_data)
    assert findings.keys() == {"label_conflict"}
    finding = findings["label_conflict"]
    assert finding.groups == (("cat/03.png", "dog/x.png"),)
    assert finding.severity == "error"
    assert quarantine.entries([finding]) == {
        "cat/03.png": "the same as dog/x.png, in another class",
        "dog/x.png": "the same as cat/03.png, in another class",
    }, "nobody knows which is right"


def test_exact_leaks(clean_splits: Path, findings_of: FindingsOf) -> None:
    copy_file(clean_splits, "test/cat/03.png", "train/cat/x.png")
    copy_file(clean_splits, "test/cat/04.png", "val/cat/y.png")
    copy_file(clean_splits, "val/dog/05.png", "train/dog/z.png")
    findings = findings_of(clean_splits)
    assert findings.keys() == {"leak"}
    finding = findings["leak"]
    assert finding.severity == "error"
    assert finding.paths == ("train/cat/x.png", "val/cat/y.png", "train/dog/z.png")
    assert list(quarantine.entries([finding])) == ["train/cat/x.png", "train/dog/z.png", "val/cat/y.png"]


def test_near_copies_in_a_class(clean_data: Path, findings_of: FindingsOf) -> None:
    save_as_jpeg(clean_data, "cat/03.png", "cat/x.jpg")
    findings = findings_of(clean_data)
    assert findings.keys() == {"near_duplicate"}
    assert findings["near_duplicate"].groups == (("cat/03.png", "cat/x.jpg"),)
    assert list(quarantine.entries(findings.values())) == ["cat/x.jpg"]


def test_near_copies_in_two_classes_stay(clean_data: Path, findings_of: FindingsOf) -> None:
    save_as_jpeg(clean_data, "cat/03.png", "dog/x.jpg")
    findings = findings_of(clean_data)
    assert findings.keys() == {"near_conflict"}
    assert findings["near_conflict"].groups == (("cat/03.png", "dog/x.jpg"),)
    assert quarantine.entries(findings.values()) == {}


def test_near_leaks(clean_splits: Path, findings_of: FindingsOf) -> None:
    save_as_jpeg(clean_splits, "test/cat/03.png", "train/cat/x.jpg")
    save_as_jpeg(clean_splits, "test/dog/04.png", "val/dog/y.jpg")
    findings = findings_of(clean_splits)
    assert findings.keys() == {"near_leak"}
    assert findings["near_leak"].severity == "warning"
    assert findings["near_leak"].paths == ("train/cat/x.jpg", "val/dog/y.jpg")
    assert list(quarantine.entries(findings.values())) == ["train/cat/x.jpg", "val/dog/y.jpg"]


def test_images_of_one_colour_are_not_near_duplicates(clean_data: Path, findings_of: FindingsOf) -> None:
    for number in range(5):
        Image.new("RGB", (64, 48), (200, 200, 200 + number)).save(clean_data / "cat" / f"w{number}.png")
    findings = findings_of(clean_data)
    assert findings.keys() == {"blank"}
    assert findings["blank"].count == 5


def test_copies_of_a_blank_image_are_duplicates(clean_data: Path, findings_of: FindingsOf) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (64, 48), "white").save(clean_data / "cat" / f"{name}.png")
    assert findings_of(clean_data)["duplicate"].groups == (("cat/a.png", "cat/b.png"),)


def test_an_image_left_out_for_another_reason_is_not_the_copy_to_keep(clean_data: Path, run_check: RunCheck) -> None:
    copy_file(clean_data, "cat/03.png", "dog/x.png")
    save_as_jpeg(clean_data, "cat/03.png", "cat/near1.jpg")
    with Image.open(clean_data / "cat/03.png") as image:
        image.convert("RGB").save(clean_data / "cat" / "near2.jpg", quality=70)
    left_out = quarantine.entries(run_check(clean_data).findings)
    assert left_out.keys() == {"cat/03.png", "dog/x.png", "cat/near2.jpg"}
    assert left_out["cat/near2.jpg"] == "nearly the same as cat/near1.jpg"


def test_excluding_the_quarantine_list_leaves_no_findings(
    clean_splits: Path, run_check: RunCheck, tmp_path: Path
) -> None:
    copy_file(clean_splits, "train/cat/03.png", "train/dog/#x.png")
    copy_file(clean_splits, "train/cat/04.png", 'train/cat/"y".png')
    copy_file(clean_splits, "test/cat/05.png", "train/cat/tab\tline\n.png")
    save_as_jpeg(clean_splits, "test/cat/06.png", "train/cat/ z .jpg")
    (clean_splits / "train" / "dog" / "broken.jpg").write_text("no image")
    result = run_check(clean_splits)
    assert {finding.kind for finding in result.findings} == {
        "label_conflict",
        "duplicate",
        "leak",
        "near_leak",
        "unreadable",
    }
    listed = quarantine.entries(result.findings)
    quarantine.write_list(tmp_path / "bad.txt", listed, data=clean_splits, command=None)
    second = run_check(clean_splits, exclude=tmp_path / "bad.txt")
    assert second.findings == ()
    assert second.excluded == len(listed) == 6
    index = scan(clean_splits, exclude=tmp_path / "bad.txt")
    assert set(index.excluded) == set(listed) == set(exclude.read_list(tmp_path / "bad.txt").lines)
    assert not set(listed) & {image.path for image in index.images}


def test_reducing_the_near_pairs_does_not_change_the_groups(
    clean_data: Path, run_check: RunCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        with Image.open(clean_data / "cat" / "00.png") as image:
            image.convert("RGB").save(clean_data / "cat" / f"x{number}.jpg", quality=70 + 5 * number)
    expected = run_check(clean_data).findings
    monkeypatch.setattr(components, "_MAX_EDGES", 2)
    assert run_check(clean_data).findings == expected
    assert expected[0].count == 7
