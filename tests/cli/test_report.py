"""`tlcli report`: the page of one run, a page for several, and errors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run(finished: tuple, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def test_the_page_of_a_run_is_replaced(run: Path, tlcli: Callable) -> None:
    (run / "report.html").write_text("old", encoding="utf-8")
    result = tlcli("report", run)
    assert (result.code, result.stdout) == (0, f"page       {run}/report.html\n")
    assert "<h2>Confusions</h2>" in (run / "report.html").read_text(encoding="utf-8")


def test_the_document_names_images_that_are_missing(run: Path, tlcli: Callable, tmp_path: Path) -> None:
    document = json.loads((run / "run.json").read_text(encoding="utf-8"))
    document["data"]["path"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(document), encoding="utf-8")
    result = tlcli("report", run, "--out", tmp_path / "page.html", "--json")
    assert result.code == 0
    assert result.document["bytes"] == (tmp_path / "page.html").stat().st_size
    assert set(result.document["missing"].values()) == {"no longer there"}
    assert "images of the page cannot be shown" in result.stderr


def test_several_runs_are_compared(run: Path, tlcli: Callable, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other<b>"))
    document = json.loads((other / "run.json").read_text(encoding="utf-8"))
    document["scores"]["val"]["accuracy"] = 0.0
    document["recipe"]["seed"] = 7
    (other / "run.json").write_text(json.dumps(document), encoding="utf-8")
    assert tlcli("report", other, run, "--out", tmp_path / "page.html").code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "run is best" in page
    assert "other&lt;b&gt;" in page
    assert "<b>" not in page
    assert '>seed</th><td class="text">7</td><td class="text">0</td>' in page


def test_an_existing_file_is_kept(run: Path, tlcli: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("mine", encoding="utf-8")
    result = tlcli("report", run, "--out", tmp_path / "mine.html")
    assert result.code == 2
    assert "already exists" in result.stderr
    assert (tmp_path / "mine.html").read_text(encoding="utf-8") == "mine"


def test_an_interrupted_run_needs_no_classifier(run: Path, tlcli: Callable) -> None:
    document = json.loads((run / "run.json").read_text(encoding="utf-8"))
    document.update(status="interrupted", scores={})
    (run / "run.json").write_text(json.dumps(document), encoding="utf-8")
    (run / "model.keras").unlink()
    assert tlcli("report", run).code == 0
    assert "The run is interrupted." in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "content"),
    [("predictions.csv", "path,label\nx,y\n"), ("phases.jsonl", "{}\n"), ("history.csv", "phase\nhead\n")],
)
def test_a_damaged_file_is_named(file: str, content: str, run: Path, tlcli: Callable) -> None:
    (run / file).write_text(content, encoding="utf-8")
    result = tlcli("report", run)
    assert result.code == 2
    assert str(run / file) in result.stderr


def test_other_folders_and_repeated_runs_are_errors(run: Path, tlcli: Callable, tmp_path: Path) -> None:
    assert "is not a run folder" in tlcli("report", tmp_path).stderr
    assert "named twice" in tlcli("report", run, run).stderr
