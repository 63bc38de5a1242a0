"""Folds from the command line: the files of the run, and what has no meaning with folds."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest


def test_a_run_on_folds(photos: Path, tiny: Path, tlcli: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = tlcli("finetune", photos, "--recipe", tiny, "--folds", "3", "--out", run, "--json")
    assert result.code == 0, result.stderr
    record = result.document
    assert record["recipe"]["data"]["folds"] == 3
    assert (record["data"]["counts"]["val"], record["scores"]["val"]["count"]) == (0, record["data"]["counts"]["train"])
    folds = record["scores"]["val"]["folds"]
    assert folds["count"] == len(folds["accuracy"]) == 3
    assert folds["mean"] == pytest.approx(sum(folds["accuracy"]) / 3)
    with (run / "splits.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["split"], row["fold"] != "") for row in rows} == {("train", True), ("test", False)}
    assert set(Counter((row["label"], row["fold"]) for row in rows if row["fold"]).values()) <= {2, 3}
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        predictions = [row for row in csv.DictReader(stream) if row["split"] == "val"]
    hits = sum(row["label"] == row["predicted"] for row in predictions)
    assert hits / len(predictions) == pytest.approx(record["scores"]["val"]["accuracy"])
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<span>3 folds</span>" in page
    assert ">deviation " in page
    # The final classifier has seen all of them, so they are no validation images of it.
    assert tlcli("evaluate", run, "--split", "val").code == 2
    again = tlcli("finetune", "--resume", run)
    assert again.code == 2


def test_folds_need_images_without_a_val_folder(photos: Path, tiny: Path, tlcli: Callable, tmp_path: Path) -> None:
    wrong = tlcli("plan", photos, "--recipe", tiny, "--folds", "3", "--set", f"data.val={photos}", "--json")
    assert (wrong.code, "leave val out" in json.dumps(wrong.document)) == (2, True), wrong.stderr
    searching = tlcli("plan", photos, "--recipe", "depth-search", "--folds", "3", "--json")
    assert (searching.code, "depth_search" in json.dumps(searching.document)) == (2, True)
