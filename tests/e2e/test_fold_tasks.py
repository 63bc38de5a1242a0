"""`--folds` with `--cluster`: the members are tasks, and the run is that of one process."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray_work import ray_nodes

__all__ = ["ray_nodes"]
pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("ignore")]

RECIPE = """\
recipe: 1
name: folds
data: {size: [32, 32], folds: 3, test: 0.2}
model: {name: mobilenet, weights: random, arguments: {alpha: 0.25}, drop_top: 9}
head: {dropout: 0.2}
phases:
  - {name: head, train: head, init: probe, epochs: 2}
  - {name: unfreeze, train: "top:2", epochs: 2, lr: 1.0e-3, batch_norm: train}
  - {name: stem, train: stem, epochs: 1}
report: false
"""


def test_members_are_tasks_and_the_run_is_that_of_one_process(
    photos: Path, tlcli: Callable, ray_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with layers below the cut point that differ from fold to fold, and the same workers in every step."""
    recipe = tmp_path / "folds.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    results, decisions = {}, {}
    for name, words in {"here": (), "there": ("--cluster", ray_nodes.address)}.items():
        monkeypatch.setenv("TLCLI_CACHE", str(tmp_path / f"cache {name}"))
        run = tmp_path / name
        result = tlcli("finetune", photos, "--recipe", recipe, "--out", run, *words)
        assert result.code == 0, result.stderr
        with (run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
            results[name] = [float(row["probability"]) for row in csv.DictReader(stream)]
        lines = (run / "phases.jsonl").read_text(encoding="utf-8").splitlines()
        decisions[name] = [(line["step"], line["kept"], line["best_epoch"]) for line in map(json.loads, lines)]
    assert "folds: 3 workers" in result.stderr
    assert decisions["there"] == decisions["here"]
    assert len(decisions["here"]) == 3
    assert results["there"] == pytest.approx(results["here"], abs=1e-4)
