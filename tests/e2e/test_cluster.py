"""Commands with `--cluster` on three real nodes: costs, a comparison and a search."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray_work import ray_nodes

__all__ = ["ray_nodes"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CONTRACT = (Path(__file__).resolve().parents[2] / "docs" / "contract.md").read_text(encoding="utf-8")
RECIPE = """\
recipe: 1
name: {name}
data: {{size: [32, 32], val: 0.2, test: 0.2}}
model: {{name: mobilenet, weights: random, arguments: {{alpha: 0.25}}}}
phases:
  - {{name: head, train: head, init: probe, epochs: {epochs}}}
"""


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two recipes, and caches of their own."""
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path / "cache"))
    files = []
    for epochs, name in enumerate(("solved", "trained")):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(RECIPE.format(name=name, epochs=epochs), encoding="utf-8")
    return files


def test_recipes_are_compared_by_tasks(
    recipes: list[Path], photos: Path, tlcli: Callable, ray_nodes: Any, tmp_path: Path
) -> None:
    words = ("--compare", ",".join(map(str, recipes)), "--cluster", ray_nodes.address, "--json")
    result = tlcli("finetune", photos, *words, "--out", tmp_path / "run")
    assert result.code == 0, result.stderr
    assert {row["recipe"] for row in result.document["compared"]} == {"solved", "trained"}
    assert "trained is complete" in result.stderr
    assert (tmp_path / "run" / "model.keras").is_file()


def test_trials_are_tasks(recipes: list[Path], photos: Path, tlcli: Callable, ray_nodes: Any, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("head.dropout: [0.0, 0.2]", encoding="utf-8")
    words = ("-r", recipes[0], "--space", tmp_path / "space.yaml", "--sampler", "grid", "--json")
    result = tlcli("tune", photos, *words, "--cluster", ray_nodes.address, "--out", tmp_path / "search")
    assert result.code == 0, result.stderr
    assert result.document["counts"]["complete"] == 2
    assert result.document["search"]["jobs"] == 3


def test_the_costs_are_measured(
    recipes: list[Path], photos: Path, tlcli: Callable, ray_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlcli.train.scale_rates.PASS_IMAGES", 2000)
    result = tlcli("plan", photos, "-r", recipes[0], "--cluster", ray_nodes.address, "--json")
    assert result.code == 0, result.stderr
    scale = result.document["scale"]
    (named,) = re.findall(r"`plan` also has `scale`: (.*?)\.\n", CONTRACT, re.DOTALL)
    keys = re.findall(r"`([\w.]+?)(?:\[\])?`", named)
    assert set(scale) == set(keys[: keys.index("costs") + 1])
    for cost in scale["costs"]:
        for key in keys[keys.index("costs") + 1 :]:
            value = cost
            for part in key.split("."):
                value = value[part]
            assert value >= 0
    totals = [cost["seconds"]["total"] for cost in scale["costs"]]
    assert totals == sorted(totals)
    assert (scale["nodes"], scale["cores"]) == (3, 3)
