"""Every bundled recipe on the bundled network. `ci-smoke` trains in tests/cli/test_recipe_run.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.recipe import load

SMALL = ["--set", "model.name=mobilenet_synthetic", "--set", "data.size=[32,32]"]


@pytest.mark.parametrize("name", load.names())
def test_every_recipe_can_be_planned(name: str, photos: Path, tlcli: Callable) -> None:
    result = tlcli("plan", photos, "--recipe", name, *SMALL, "--json")
    assert result.code == 0, result.stderr
    plan = result.document
    assert [phase["name"] for phase in plan["phases"]] == [phase.name for phase in load.load(name).phases]
    assert plan["phases"][-1]["trainable_parameters"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*load.names()} - {"ci-smoke"}))
def test_every_recipe_trains(name: str, photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    """With one epoch per step, and a single step per phase."""
    shorter = [
        f"phases.{index}.{key}={value}"
        for index, phase in enumerate(load.load(name).phases)
        for key, value in (("epochs", 1), *([("step", "all")] if phase.is_gradual else []))
        if key != "epochs" or phase.epochs != 0
    ]
    settings = [word for text in [*shorter, "data.val=0.2", "data.test=0.2"] for word in ("--set", text)]
    result = tlcli("recipe", "run", name, "--data", photos, *SMALL, *settings, "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.stderr
    run = result.document
    assert run["status"] == "complete"
    assert run["scores"]["val"]["count"] > 0
    assert {step["name"] for step in run["phases"]} >= {load.load(name).phases[0].name}
    assert (tmp_path / "run" / "model.keras").is_file()
