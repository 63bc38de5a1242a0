"""`tlcli predict` and `evaluate`: CSV, JSON lines, confidence, copies by class, and the page."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tlcli.errors import ModelError, OutputError, UsageError
from tlcli.evaluate.sorting import require_sortable

HOSTILE = "=<script>alert(1)<N{DIVISION SLASH}script>.png"


@pytest.fixture
def images(tmp_path: Path, photos: Path) -> Path:
    """Images of each class, two of one name, one with a hostile name, and a file that is none."""
    folder = tmp_path / "images"
    for name in ("red", "green"):
        (folder / name).mkdir(parents=True)
        shutil.copy(photos / name / "03.bmp", folder / name / "same.bmp")
    Image.open(photos / "blue" / "05.bmp").save(folder / HOSTILE)
    (folder / "broken.jpg").write_text("no image")
    return folder


def test_csv_cells_are_no_formulas(
    images: Path, finished: tuple, tlcli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)
    result = tlcli("predict", finished[0], "red", "green", *(path.name for path in images.glob("*.*")), "--csv")
    assert result.code == 1
    rows = {row["path"]: row for row in csv.DictReader(io.StringIO(result.stdout))}
    assert set(rows) == {"red/same.bmp", "green/same.bmp", f"'{HOSTILE}", "broken.jpg"}
    assert rows["red/same.bmp"]["label"] == "red"
    assert rows["broken.jpg"]["error"]
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows.values() for cell in row.values())


def test_errors_are_marked_as_such(images: Path, finished: tuple, tlcli: Callable) -> None:
    """Without colour, too."""
    result = tlcli("predict", finished[0], images / "broken.jpg", images / "red")
    assert f"{images / 'broken.jpg'}  error: " in result.stdout.splitlines()[0]
    assert "  error: " not in result.stdout.splitlines()[1]
    for pattern, reason in (("none-*.jpg", "no file matches"), ("none.jpg", "there is no such file")):
        missing = tlcli("predict", finished[0], images / pattern)
        assert f"{pattern}: {reason}. Name files" in missing.stderr


def test_json_lines_are_the_entries_of_json(images: Path, finished: tuple, tlcli: Callable) -> None:
    lines = tlcli("predict", finished[0], images, "--top", 2, "--jsonl")
    whole = tlcli("predict", finished[0], images, "--top", 2, "--json")
    assert [json.loads(line) for line in lines.stdout.splitlines()] == whole.document
    assert lines.code == whole.code == 1
    assert tlcli("predict", finished[0], images, "--jsonl", "--csv").code == 2


def test_images_below_the_confidence_are_unsure(images: Path, finished: tuple, tlcli: Callable) -> None:
    image = images / "red" / "same.bmp"
    (row,) = tlcli("predict", finished[0], image, "--json").document
    above, below = (row["probability"] + step for step in (1e-4, -1e-4))
    if above <= 1:
        (unsure,) = tlcli("predict", finished[0], image, "--min-confidence", above, "--json").document
        assert unsure == row | {"label": "unsure"}
    (certain,) = tlcli("predict", finished[0], image, "--min-confidence", below, "--json").document
    assert certain == row


def test_images_are_copied_by_class(
    images: Path, finished: tuple, tlcli: Callable, tmp_path: Path, photos: Path
) -> None:
    before = {path: path.read_bytes() for path in images.rglob("*.*")}
    both = tmp_path / "both"
    both.mkdir()
    shutil.copytree(images / "red", both / "one")
    shutil.copytree(images / "red", both / "two")
    result = tlcli("predict", finished[0], both, "--sort-into", tmp_path / "sorted")
    assert result.code == 0, result.stderr
    copies = sorted(path.relative_to(tmp_path / "sorted").as_posix() for path in (tmp_path / "sorted").rglob("*.*"))
    assert copies == ["red/same-2.bmp", "red/same.bmp"]
    assert (tmp_path / "sorted" / "red" / "same.bmp").read_bytes() == (photos / "red" / "03.bmp").read_bytes()
    again = tlcli("predict", finished[0], images, "--sort-into", tmp_path / "sorted")
    assert again.code == 2
    assert "is not an empty folder" in again.stderr
    result = tlcli("predict", finished[0], images, "--sort-into", tmp_path / "other", "--min-confidence", 1)
    assert result.code == 1
    assert {path.name for path in (tmp_path / "other").iterdir()} <= {"unsure", "red", "green", "blue"}
    assert {path: path.read_bytes() for path in images.rglob("*.*")} == before


@pytest.mark.parametrize("name", ["..", "", "a/b", "a\\b", "/etc"])
def test_a_class_name_never_leaves_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be a folder"):
        require_sortable(tmp_path / "new", ["cat", name], min_confidence=0.0)


def test_a_class_called_unsure_and_a_file_in_the_way_are_refused(tmp_path: Path) -> None:
    require_sortable(tmp_path / "new", ["unsure"], min_confidence=0.0)
    with pytest.raises(UsageError, match="called 'unsure' itself"):
        require_sortable(tmp_path / "new", ["unsure"], min_confidence=0.5)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is not an empty folder"):
        require_sortable(tmp_path / "file", ["cat"], min_confidence=0.0)


def test_an_evaluation_lists_every_image(photos: Path, finished: tuple, tlcli: Callable) -> None:
    result = tlcli("evaluate", finished[0], photos, "--csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    scores = tlcli("evaluate", finished[0], photos, "--json").document
    assert len(rows) == 30
    assert sum(row["correct"] == "true" for row in rows) / 30 == pytest.approx(scores["accuracy"])
    assert all((row["label"] == row["predicted"]) == (row["correct"] == "true") for row in rows)
    assert tlcli("evaluate", finished[0], photos, "--csv", "--json").code == 2


def test_the_page_shows_wrong_labels_and_escapes_names(
    photos: Path, finished: tuple, tlcli: Callable, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for name in ("red", "green"):
        (data / name).mkdir(parents=True)
    shutil.copy(photos / "red" / "03.bmp", data / "red" / "03.bmp")
    # A red image among the green ones: its label is wrong, its name is markup.
    Image.open(photos / "red" / "04.bmp").save(data / "green" / HOSTILE)
    page = tmp_path / "scores.html"
    result = tlcli("evaluate", finished[0], data, "--html", page)
    assert result.code == 0, result.stderr
    text = page.read_text(encoding="utf-8")
    assert "50.0 % of 2 images are classified correctly" in text
    assert '<b class="bad">red</b>' in text
    assert "but is <b>green</b>" in text
    assert "No images of blue" in text
    assert set(re.findall(r'href="#(pair-[0-9-]+)"', text)) == set(re.findall(r'id="(pair-[0-9-]+)"', text)) != set()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert text.count("data:image/jpeg;base64,") == 3, "the mistake, and both images behind the matrix"
    again = tlcli("evaluate", finished[0], data, "--html", page)
    assert again.code == 2
    assert "already exists" in again.stderr


def test_csv_keeps_the_class_of_unsure_images(images: Path, finished: tuple, tlcli: Callable) -> None:
    words = ["predict", finished[0], images, "--csv"]
    certain = list(csv.DictReader(io.StringIO(tlcli(*words).stdout)))
    unsure = list(csv.DictReader(io.StringIO(tlcli(*words, "--min-confidence", 1).stdout)))
    assert {row["unsure"] for row in certain if not row["error"]} == {"false"}
    assert "true" in {row["unsure"] for row in unsure}
    assert [row["label"] for row in unsure] == [row["label"] for row in certain]


def test_evaluate_leaves_out_and_names_files_that_cannot_be_read(
    photos: Path, finished: tuple, tlcli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photos, tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "red" / "05.bmp").write_bytes(b"BM no image")
    result = tlcli("evaluate", finished[0], "own", "--json")
    assert (result.code, result.document["count"]) == (1, 29)
    (unreadable,) = result.document["unreadable"]
    assert unreadable["path"] == "own/red/05.bmp"
    assert f"skipped own/red/05.bmp: {unreadable['error']}" in result.stderr
    assert result.stderr.splitlines()[-1] == "29 of 30 scored, 1 not read"
    table = list(csv.DictReader(io.StringIO(tlcli("evaluate", finished[0], "own", "--csv").stdout)))
    assert table[0]["path"] == "own/blue/00.bmp", "as given, as predict does"
    shutil.rmtree(tmp_path / "own")
    (tmp_path / "own" / "red").mkdir(parents=True)
    (tmp_path / "own" / "red" / "05.bmp").write_bytes(b"BM no image")
    alone = tlcli("evaluate", finished[0], "own")
    assert alone.code == 2
    assert "none of 1 image can be read" in alone.stderr
