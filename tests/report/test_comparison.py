"""Runs side by side: which is best, whether they compare, and what sets them apart."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.report import comparison


@pytest.fixture
def another(finished: tuple, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the finished run with other scores, or another recipe."""

    def make(folder_name: str, *, accuracy: float, loss: float, **recipe: object) -> Path:
        folder = tmp_path / folder_name
        shutil.copytree(finished[0], folder)
        note = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        note["scores"]["val"] |= {"accuracy": accuracy, "loss": loss}
        note["recipe"] |= recipe
        (folder / "run.json").write_text(json.dumps(note), encoding="utf-8")
        return folder

    return make


def test_the_best_has_the_highest_validation_accuracy_then_the_lowest_loss(another: Callable) -> None:
    runs = [
        another("a", accuracy=0.7, loss=0.1),
        another("b", accuracy=0.9, loss=0.5),
        another("c", accuracy=0.9, loss=0.4),
    ]
    found = comparison.side_by_side(runs)
    assert found["best"] == str(runs[2])
    assert found["same_split"]
    assert [row["val_accuracy"] for row in found["runs"]] == [0.7, 0.9, 0.9]
    assert found["differences"] == {}


def test_runs_of_other_splits_are_not_ranked(another: Callable) -> None:
    runs = [another("a", accuracy=0.7, loss=0.1), another("b", accuracy=0.9, loss=0.5)]
    splits = runs[1] / "splits.csv"
    splits.write_text(splits.read_text(encoding="utf-8").replace(",val,", ",test,", 1), encoding="utf-8")
    found = comparison.side_by_side(runs)
    assert (found["same_split"], found["best"]) == (False, None)


def test_differences_are_told_by_key(another: Callable) -> None:
    phases = [{"name": "head", "train": "head"}, {"name": "thaw", "policy": "gradual"}]
    runs = [
        another("a", accuracy=0.7, loss=0.1, seed=1, name="one", phases=phases),
        another("b", accuracy=0.7, loss=0.1, seed=2, name="two", phases=phases[:1]),
    ]
    assert comparison.side_by_side(runs)["differences"] == {
        "seed": [1, 2],
        "phases.1.name": ["thaw", None],
        "phases.1.policy": ["gradual", None],
    }


def test_compare_says_the_same_as_a_table_and_as_json(another: Callable, tlcli: Callable) -> None:
    runs = [another("a", accuracy=0.7, loss=0.1, seed=1), another("b", accuracy=0.9, loss=0.5, seed=2)]
    said = tlcli("compare", *runs, "--json")
    assert said.document == comparison.side_by_side(runs)
    told = tlcli("compare", *runs)
    assert told.code == 0
    (line,) = [line for line in told.stdout.splitlines() if line.endswith("best")]
    assert str(runs[1]) in line
    assert "0.900" in line
    assert any(line.split() == ["seed", "1", "2"] for line in told.stdout.splitlines())


def test_what_is_no_complete_run_is_refused(another: Callable, tlcli: Callable, tmp_path: Path) -> None:
    run = another("a", accuracy=0.7, loss=0.1)
    said = tlcli("compare", run, tmp_path / "nowhere")
    assert said.code == 2
    assert "there is no such run" in said.stderr
