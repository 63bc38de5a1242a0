"""A run with quality best: its rungs, the classifier of several of them, and a run that is resumed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tlcli.errors import ModelError
from tlcli.report import record
from tlcli.report.ensemble_run import write_ensemble
from tlcli.report.predictions import read_predictions

pytestmark = pytest.mark.extras  # Three trainings.

# Small heads that start at random differ with the seed, so that their mean is better than each.
RECIPE = """\
recipe: 1
name: little
quality: best
data: {size: [48, 48], val: 0.5, test: 0.2}
model: {name: mobilenet_synthetic}
head: {hidden: [{units: 16, activation: gelu}]}
phases:
  - {name: head, train: head, epochs: 16, lr: 0.004}
performance: {batch: 8}
expect: [val.accuracy > 0.4, seconds.total > 0]
"""


@pytest.fixture(scope="module")
def hues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of forty images that differ in hue, with so much chance that about a quarter cannot be told."""
    home, rng = tmp_path_factory.mktemp("data") / "hues", np.random.default_rng(0)
    for label in range(3):
        folder = home / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(60):
            base = 120 + rng.normal(0, 12, 3) + 28 * (np.arange(3) == label)
            pixels = np.clip(base + rng.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return home


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "little.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def best(hues: Path, recipe: Path, tlcli: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("runs") / "best"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        result = tlcli("finetune", hues, "--recipe", recipe, "--out", folder, "--json")
    assert result.code == 0, result.stderr
    return folder, result


def test_the_rungs_stand_beside_each_other_and_the_result_is_that_of_the_best(best: tuple) -> None:
    folder, result = best
    run, rows = result.document, {row["recipe"]: row for row in result.document["compared"]}
    assert list(rows) == ["balanced", "longer", "again-1"]
    assert "rung 3, again-1" in result.stderr
    chosen = [name for name, row in rows.items() if row["in_result"]]
    assert f"result: {' + '.join(chosen)}" in result.stderr
    assert run["recipe"]["quality"] == "best"
    assert [verdict["passed"] for verdict in run["expectations"]] == [True, True]
    assert run["seconds"]["total"] == pytest.approx(sum(row["seconds"] for row in rows.values()), abs=0.1)
    splits = {name: (folder / "compared" / name / "splits.csv").read_bytes() for name in rows}
    assert set(splits.values()) == {(folder / "splits.csv").read_bytes()}, "seeds differ, the split does not"
    text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    assert "quality: best" in text
    assert "again-1" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_mean_of_several_runs_is_a_run(best: tuple, tmp_path: Path, tlcli: Callable) -> None:
    """Its scores are those of its own file, and its predictions those of its members."""
    folder, _ = best
    members = [folder / "compared" / name for name in ("again-1", "balanced")]
    out = tmp_path / "mean"
    out.mkdir()
    record.write(out, write_ensemble(out, members, temperature=0.8))
    run = record.read(out)
    assert [member["run"] for member in run.model["members"]] == ["again-1", "balanced"]
    scores = tlcli("evaluate", out, "--json").document
    assert scores["accuracy"] == pytest.approx(run.scores["test"]["accuracy"])
    assert scores["loss"] == pytest.approx(run.scores["test"]["loss"], abs=1e-4)
    parts = [{row.path: row for row in read_predictions(place)} for place in (*members, out)]
    for path, row in parts[-1].items():
        if (label := parts[0][path].predicted) == parts[1][path].predicted:
            assert row.predicted == label, "where the members agree, so does the mean"


def cut_off(folder: Path, target: Path, *rungs: str) -> Path:
    """A copy of a ladder, as if it had been killed before these rungs."""
    shutil.copytree(folder, target)
    for rung in rungs:
        shutil.rmtree(target / "compared" / rung)
    for name in ("run.json", "model.keras", "report.html"):
        (target / name).unlink()
    for file in [target / "compare.json", *target.glob("recipes/*.yaml")]:
        file.write_text(file.read_text(encoding="utf-8").replace(str(folder), str(target)), encoding="utf-8")
    return target


def test_a_ladder_goes_on_without_rungs_that_fail(
    best: tuple, tmp_path: Path, tlcli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose images do not fit the network. How its network was chosen is not forgotten."""

    def refuse(*_args: object, **_options: object) -> None:
        raise ModelError("has a fixed size")

    monkeypatch.setattr("tlcli.workflows.best.finetune", refuse)
    broken = cut_off(best[0], tmp_path / "broken", "longer", "again-1")
    compare, probes = broken / "compare.json", [{"model": "mobilenet_synthetic", "val_loss": 0.5}]
    listed = json.loads(compare.read_text(encoding="utf-8")) | {"chosen_from": probes}
    compare.write_text(json.dumps(listed), encoding="utf-8")
    resumed = tlcli("finetune", "--resume", broken, "--json")
    assert resumed.code == 0, resumed.stderr
    assert "longer failed: has a fixed size" in resumed.stderr
    assert [row["recipe"] for row in resumed.document["compared"]] == ["balanced"]
    assert resumed.document["model"]["chosen_from"] == probes


def test_an_interrupted_ladder_continues(best: tuple, tmp_path: Path, tlcli: Callable) -> None:
    """As if it had been killed in the last rung: what is complete is not trained again."""
    folder, result = best
    broken = cut_off(folder, tmp_path / "broken", "again-1")
    compare = json.loads((broken / "compare.json").read_text(encoding="utf-8"))
    resumed = tlcli("finetune", "--resume", broken, "--json")
    assert resumed.code == 0, resumed.stderr
    assert "rung 3, again-1" in resumed.stderr
    assert "rung 2" not in resumed.stderr
    assert compare["recipes"] == ["balanced", "longer", "again-1"]
    for split in ("val", "test"):
        assert resumed.document["scores"][split]["loss"] == pytest.approx(result.document["scores"][split]["loss"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--compare", "head-only,two-phase"), "quality best is a comparison of its own runs"),
        (("--folds", "3"), "folds and quality best"),
        (("--set", "data.val=0"), "data.val is 0"),
        (("--log", "tensorboard"), "logs one run"),
    ],
)
def test_what_does_not_go_together_is_one_error(
    options: tuple[str, ...], words: str, hues: Path, recipe: Path, tlcli: Callable
) -> None:
    named = () if "--compare" in options else ("--recipe", recipe)
    result = tlcli("finetune", hues, *named, "--quality", "best", *options)
    assert result.code == 2
    assert words in result.stderr
