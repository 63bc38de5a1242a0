"""Copies, exact ones and near ones: in a class, under two classes, in two splits; and who goes into quarantine."""

import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tlcli.data import exclude
from tlcli.data.source import scan
from tlcli.quality import duplicates, quarantine
from tlcli.quality.check import CheckResult
from tlcli.quality.finding import Finding

Found = Callable[..., dict[str, Finding]]
Looked = Callable[..., CheckResult]
Picture = Callable[..., Image.Image]


def copied(home: Path, source: str, target: str) -> None:
    shutil.copy(home / source, home / target)


def again(home: Path, source: str, target: str) -> None:
    """The same picture in another file."""
    with Image.open(home / source) as image:
        image.convert("RGB").save(home / target, quality=90)


def test_copies_in_a_class(good: Path, found: Found) -> None:
    copied(good, "cat/03.png", "cat/x.png")
    copied(good, "cat/03.png", "cat/y.png")
    finding = found(good)["duplicate"]
    assert finding.groups == (("cat/03.png", "cat/x.png", "cat/y.png"),)
    assert finding.severity == "warning"
    assert list(quarantine.entries([finding])) == ["cat/x.png", "cat/y.png"], "one is kept"


def test_copies_under_two_classes(good: Path, found: Found) -> None:
    copied(good, "cat/03.png", "dog/x.png")
    findings = found(good)
    assert findings.keys() == {"label_conflict"}
    finding = findings["label_conflict"]
    assert finding.groups == (("cat/03.png", "dog/x.png"),)
    assert finding.severity == "error"
    assert quarantine.entries([finding]) == {
        "cat/03.png": "the same as dog/x.png, under another class",
        "dog/x.png": "the same as cat/03.png, under another class",
    }, "nobody knows which is right"


def test_exact_leaks(given: Path, found: Found) -> None:
    copied(given, "test/cat/03.png", "train/cat/x.png")
    copied(given, "test/cat/04.png", "val/cat/y.png")
    copied(given, "val/dog/05.png", "train/dog/z.png")
    findings = found(given)
    assert findings.keys() == {"leak"}
    finding = findings["leak"]
    assert finding.severity == "error"
    assert finding.paths == ("train/cat/x.png", "val/cat/y.png", "train/dog/z.png")
    assert list(quarantine.entries([finding])) == ["train/cat/x.png", "train/dog/z.png", "val/cat/y.png"]


def test_near_copies_in_a_class(good: Path, found: Found) -> None:
    again(good, "cat/03.png", "cat/x.jpg")
    findings = found(good)
    assert findings.keys() == {"near_duplicate"}
    assert findings["near_duplicate"].groups == (("cat/03.png", "cat/x.jpg"),)
    assert list(quarantine.entries(findings.values())) == ["cat/x.jpg"]


def test_near_copies_under_two_classes_stay(good: Path, found: Found) -> None:
    again(good, "cat/03.png", "dog/x.jpg")
    findings = found(good)
    assert findings.keys() == {"near_conflict"}
    assert findings["near_conflict"].groups == (("cat/03.png", "dog/x.jpg"),)
    assert quarantine.entries(findings.values()) == {}


def test_near_leaks(given: Path, found: Found) -> None:
    again(given, "test/cat/03.png", "train/cat/x.jpg")
    again(given, "test/dog/04.png", "val/dog/y.jpg")
    findings = found(given)
    assert findings.keys() == {"near_leak"}
    assert findings["near_leak"].severity == "warning"
    assert findings["near_leak"].paths == ("train/cat/x.jpg", "val/dog/y.jpg")
    assert list(quarantine.entries(findings.values())) == ["train/cat/x.jpg", "val/dog/y.jpg"]


def test_pictures_of_one_colour_are_not_near_each_other(good: Path, found: Found) -> None:
    for number in range(5):
        Image.new("RGB", (64, 48), (200, 200, 200 + number)).save(good / "cat" / f"w{number}.png")
    findings = found(good)
    assert findings.keys() == {"blank"}
    assert findings["blank"].count == 5


def test_copies_of_a_blank_picture_are_copies(good: Path, found: Found) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (64, 48), "white").save(good / "cat" / f"{name}.png")
    assert found(good)["duplicate"].groups == (("cat/a.png", "cat/b.png"),)


def test_what_goes_anyway_is_not_the_copy_that_is_kept(good: Path, looked: Looked) -> None:
    copied(good, "cat/03.png", "dog/x.png")
    again(good, "cat/03.png", "cat/near1.jpg")
    with Image.open(good / "cat/03.png") as image:
        image.convert("RGB").save(good / "cat" / "near2.jpg", quality=70)
    left_out = quarantine.entries(looked(good).findings)
    assert left_out.keys() == {"cat/03.png", "dog/x.png", "cat/near2.jpg"}
    assert left_out["cat/near2.jpg"] == "nearly the same as cat/near1.jpg"


def test_after_quarantine_nothing_of_it_is_left(given: Path, looked: Looked, tmp_path: Path) -> None:
    copied(given, "train/cat/03.png", "train/dog/#x.png")
    copied(given, "train/cat/04.png", 'train/cat/"y".png')
    copied(given, "test/cat/05.png", "train/cat/tab\tline\n.png")
    again(given, "test/cat/06.png", "train/cat/ z .jpg")
    (given / "train" / "dog" / "broken.jpg").write_text("no picture")
    found = looked(given)
    assert {each.kind for each in found.findings} == {"label_conflict", "duplicate", "leak", "near_leak", "unreadable"}
    listed = quarantine.entries(found.findings)
    quarantine.write_list(tmp_path / "bad.txt", listed, data=given, use=None)
    again_found = looked(given, exclude=tmp_path / "bad.txt")
    assert again_found.findings == ()
    assert again_found.excluded == len(listed) == 6
    index = scan(given, exclude=tmp_path / "bad.txt")
    assert set(index.excluded) == set(listed) == set(exclude.read(tmp_path / "bad.txt").lines)
    assert not set(listed) & {image.path for image in index.images}


def test_many_near_pairs_are_boiled_down_to_the_same_groups(good: Path, looked: Looked, monkeypatch: object) -> None:
    for number in range(6):
        with Image.open(good / "cat" / "00.png") as image:
            image.convert("RGB").save(good / "cat" / f"x{number}.jpg", quality=70 + 5 * number)
    whole = looked(good).findings
    monkeypatch.setattr(duplicates, "_EDGES", 2)  # type: ignore[attr-defined]
    assert looked(good).findings == whole
    assert whole[0].count == 7
