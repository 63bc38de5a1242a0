"""Runs side by side: the best run, the split, and the differences."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.report import comparison


@pytest.fixture
def another(finished: tuple, tmp_path: Path) -> Callable[..., Path]:
    """Copies the finished run with other scores or another recipe."""

    def make(folder_name: str, *, accuracy: float, loss: float, **recipe: object) -> Path:
        folder = tmp_path / folder_name
        shutil.copytree(finished[0], folder)
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        record["scores"]["val"] |= {"accuracy": accuracy, "loss": loss}
        record["recipe"] |= recipe
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
        return folder

    return make


def test_the_best_has_the_lowest_validation_loss_then_the_highest_accuracy(another: Callable) -> None:
    runs = [
        another("a", accuracy=0.9, loss=0.5),
        another("b", accuracy=0.7, loss=0.4),
        another("c", accuracy=0.8, loss=0.4),
    ]
    table = comparison.side_by_side(runs)
    assert table["best"] == str(runs[2])
    assert table["same_split"]
    assert [row["val_accuracy"] for row in table["runs"]] == [0.9, 0.7, 0.8]
    assert table["differences"] == {}


def test_runs_with_different_splits_are_not_ranked(another: Callable) -> None:
    runs = [another("a", accuracy=0.7, loss=0.1), another("b", accuracy=0.9, loss=0.5)]
    splits = runs[1] / "splits.csv"
    splits.write_text(splits.read_text(encoding="utf-8").replace(",val,", ",test,", 1), encoding="utf-8")
    table = comparison.side_by_side(runs)
    assert (table["same_split"], table["best"]) == (False, None)


def test_differences_are_listed_by_key(another: Callable) -> None:
    phases = [{"name": "head", "train": "head"}, {"name": "unfreeze", "policy": "gradual"}]
    runs = [
        another("a", accuracy=0.7, loss=0.1, seed=1, name="one", phases=phases),
        another("b", accuracy=0.7, loss=0.1, seed=2, name="two", phases=phases[:1]),
    ]
    assert comparison.side_by_side(runs)["differences"] == {
        "seed": [1, 2],
        "phases.1.name": ["unfreeze", None],
        "phases.1.policy": ["gradual", None],
    }


def test_compare_prints_a_table_or_json(another: Callable, tlcli: Callable) -> None:
    runs = [another("a", accuracy=0.7, loss=0.1, seed=1), another("b", accuracy=0.9, loss=0.5, seed=2)]
    assert tlcli("compare", *runs, "--json").document == comparison.side_by_side(runs) | {"skipped": {}}
    result = tlcli("compare", *runs)
    assert result.code == 0
    (line,) = [line for line in result.stdout.splitlines() if line.endswith("best")]
    assert str(runs[0]) in line
    assert "0.700" in line
    assert "best: lowest validation loss" in result.stdout
    assert any(line.split() == ["seed", "1", "2"] for line in result.stdout.splitlines())


def test_values_are_shown_as_in_yaml(another: Callable, tlcli: Callable) -> None:
    runs = [
        another("a", accuracy=0.7, loss=0.1, report=True, phases=[{"step": ["30%", "20%"], "interpolate": True}]),
        another("b", accuracy=0.9, loss=0.5, report=True, phases=[{"step": 1, "lr": 1e-5}]),
    ]
    found = [line.split("  ") for line in tlcli("compare", *runs).stdout.splitlines() if line.startswith("phases")]
    assert [[cell.strip() for cell in line if cell] for line in found] == [
        ["phases.0.step", "[30%, 20%]", "1"],
        ["phases.0.interpolate", "true", "–"],
        ["phases.0.lr", "–", "1.0e-05"],
    ]


@pytest.mark.parametrize("name", ["efficientnet-lite0", "EfficientNet_Lite0", "keras:EfficientNetLite0"])
def test_two_spellings_of_a_network_are_no_difference(name: str, another: Callable) -> None:
    models = [{"name": text, "weights": None} for text in ("efficientnet_lite0", name, "/a/efficientnet_lite0")]
    runs = [another(str(number), accuracy=0.7, loss=0.1, model=model) for number, model in enumerate(models)]
    for run in runs:
        document = json.loads((run / "run.json").read_text(encoding="utf-8"))
        document["model"] |= {"name": "efficientnet_lite0", "source": "keras:EfficientNetLite0"}
        (run / "run.json").write_text(json.dumps(document), encoding="utf-8")
    assert comparison.side_by_side(runs[:2])["differences"] == {}
    shown = comparison.side_by_side(runs)["differences"]
    assert shown == {"model.name": ["efficientnet_lite0", "efficientnet_lite0", "/a/efficientnet_lite0"]}


def test_a_folder_that_is_not_a_run_is_refused(another: Callable, tlcli: Callable, tmp_path: Path) -> None:
    run = another("a", accuracy=0.7, loss=0.1)
    result = tlcli("compare", run, tmp_path / "nowhere")
    assert result.code == 2
    assert "there is no such run" in result.stderr
