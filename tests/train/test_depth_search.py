"""The depth search: top groups are dropped where the probe is clearly better without them, and only there."""

import json
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
  - {name: thaw, policy: depth_search, step: all, epochs: 1, lr: 1.0e-4}
"""


@pytest.fixture
def run(tlcli: Callable, photos: Path, tmp_path: Path) -> Callable:
    (tmp_path / "deep.yaml").write_text(RECIPE, encoding="utf-8")

    def finetune(out: str, *words: object) -> object:
        return tlcli("finetune", photos, "--recipe", tmp_path / "deep.yaml", "--out", tmp_path / out, "--json", *words)

    return finetune


def test_a_random_network_is_better_without_its_top(run: Callable, tlcli: Callable, tmp_path: Path) -> None:
    """Random layers only blur the colours that tell these classes apart. What was chosen is in the recipe."""
    said = run("first")
    assert said.code == 0, said.stderr
    note = said.document
    found = note["model"]["depth_search"]
    assert found["drop_top"] > 0
    assert f"{found['drop_top']} group" in found["reason"]
    depths = {depth["drop_top"]: depth for depth in found["depths"]}
    assert depths[found["drop_top"]]["val_loss"] == min(depth["val_loss"] for depth in depths.values())
    assert len(note["model"]["groups"]) == len(depths) - found["drop_top"]
    assert note["recipe"]["model"]["drop_top"] == found["drop_top"]
    assert [phase["policy"] for phase in note["recipe"]["phases"]] == ["fixed", "gradual"]
    assert "depth search: " in said.stderr
    assert tlcli("evaluate", tmp_path / "first").code == 0
    again = tlcli("finetune", "--recipe", tmp_path / "first" / "recipe.yaml", "--out", tmp_path / "again", "--json")
    assert again.document["scores"]["test"]["accuracy"] == note["scores"]["test"]["accuracy"]
    assert again.document["scores"]["val"]["loss"] == pytest.approx(note["scores"]["val"]["loss"], rel=1e-4)


@pytest.mark.slow
def test_what_is_not_sure_enough_drops_nothing(run: Callable) -> None:
    said = run("kept", "--set", "phases.1.until.min_delta=100")
    note = said.document
    assert note["model"]["depth_search"]["drop_top"] == 0
    assert note["recipe"]["model"]["drop_top"] == 0
    assert "too little to drop" in note["model"]["depth_search"]["reason"]


def test_without_validation_images_there_is_nothing_to_search_by(run: Callable) -> None:
    said = run("none", "--set", "data.val=0")
    assert said.code == 2
    assert "validation images" in json.loads(said.stdout)["error"]["message"]
