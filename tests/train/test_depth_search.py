"""The depth search: top groups are dropped only if the probe is clearly better without them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """\
recipe: 1
name: deep
data: {size: [32, 32], val: 0.4, test: 0.2}
model: {name: mobilenet, weights: random, arguments: {alpha: 0.25}}
phases:
  - {name: head, train: head, init: probe, epochs: 0}
  - {name: unfreeze, policy: depth_search, step: all, epochs: 1, lr: 1.0e-4}
"""


@pytest.fixture
def run(tlcli: Callable, photos: Path, tmp_path: Path) -> Callable:
    (tmp_path / "deep.yaml").write_text(RECIPE, encoding="utf-8")

    def finetune(out: str, *words: object) -> object:
        return tlcli("finetune", photos, "--recipe", tmp_path / "deep.yaml", "--out", tmp_path / out, "--json", *words)

    return finetune


def test_a_random_network_is_better_without_its_top(run: Callable, tlcli: Callable, tmp_path: Path) -> None:
    """Random layers only blur the colours that distinguish these classes. The written recipe holds the choice."""
    result = run("first")
    assert result.code == 0, result.stderr
    record = result.document
    choice = record["model"]["depth_search"]
    assert choice["drop_top"] > 0
    assert re.match(rf"{choice['drop_top']} groups? dropped: val_loss is ", choice["reason"])
    depths = {depth["drop_top"]: depth for depth in choice["depths"]}
    assert depths[choice["drop_top"]]["val_loss"] == min(depth["val_loss"] for depth in depths.values())
    assert len(record["model"]["groups"]) == len(depths) - choice["drop_top"]
    assert record["recipe"]["model"]["drop_top"] == choice["drop_top"]
    assert [phase["policy"] for phase in record["recipe"]["phases"]] == ["fixed", "gradual"]
    assert f"depth search: {choice['drop_top']} group" in result.stderr
    assert tlcli("evaluate", tmp_path / "first").code == 0
    again = tlcli("finetune", "--recipe", tmp_path / "first" / "recipe.yaml", "--out", tmp_path / "again", "--json")
    assert again.document["scores"]["test"]["accuracy"] == record["scores"]["test"]["accuracy"]
    assert again.document["scores"]["val"]["loss"] == pytest.approx(record["scores"]["val"]["loss"], rel=1e-4)


@pytest.mark.slow
def test_too_small_a_gain_drops_nothing(run: Callable) -> None:
    record = run("kept", "--set", "phases.1.until.min_delta=100").document
    assert record["model"]["depth_search"]["drop_top"] == 0
    assert record["recipe"]["model"]["drop_top"] == 0
    reason = record["model"]["depth_search"]["reason"]
    assert reason.startswith("no group dropped: val_loss is ")
    assert reason.endswith(" required)")


def test_the_search_requires_validation_images(run: Callable) -> None:
    result = run("none", "--set", "data.val=0")
    assert result.code == 2
    assert "validation images" in json.loads(result.stdout)["error"]["message"]
