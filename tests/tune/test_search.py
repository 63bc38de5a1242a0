"""`tlcli tune` on a tiny network: trials never see the test images, a failed one stops nothing, the best is usable."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tlcli.recipe import load, space
from tlcli.tune.search import Search, begin
from tlcli.tune.study import Study

pytestmark = pytest.mark.extras  # Searches take long.

PROGRAM = str(Path(sys.executable).with_name("tlcli"))
RECIPE = """\
recipe: 1
name: small
data: {size: [32, 32], val: 0.2, test: 0.2}
model: {name: mobilenet, weights: random, arguments: {alpha: 0.25}}
phases:
  - {name: head, train: head, init: probe, epochs: 1}
"""
# 16 pixels are too few for the network.
SPACE = "size: [32, 16]\nphases.0.lr: [1e-4, 1e-3]\n"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    path.with_name("space.yaml").write_text(SPACE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def searched(
    recipe: Path, photos: Path, tlcli: Callable, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of a finished search, and its JSON document. Tests must not change it."""
    out = tmp_path_factory.mktemp("search") / "grid"
    space_file = recipe.with_name("space.yaml")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        words = ("--space", space_file, "--sampler", "grid", "--out", out, "--json")
        result = tlcli("tune", photos, "-r", recipe, *words)
    assert result.code == 0, result.stderr
    assert "1 of 4  trial 1  " in result.stderr
    return out, result.document


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_combination_that_cannot_work_is_a_failed_trial(searched: tuple) -> None:
    document = searched[1]
    assert document["counts"] == {"complete": 2, "pruned": 0, "failed": 2}
    for row in document["trials"]:
        too_small = row["values"]["data.size"] == "[16, 16]"
        assert row["state"] == ("failed" if too_small else "complete")
        assert ("at least 32 × 32" in row["message"]) == too_small


def test_the_best_has_the_lowest_loss_and_its_recipe_repeats_it(searched: tuple) -> None:
    out, document = searched
    best, complete = document["best"], [row for row in document["trials"] if row["state"] == "complete"]
    assert best["val_loss"] == min(row["val_loss"] for row in complete)
    run = json.loads((out / "best" / "run.json").read_text(encoding="utf-8"))
    assert run["status"] == "complete"
    assert run["scores"]["val"]["loss"] == best["val_loss"]
    found = load.load(str(out / "best.yaml"))
    assert (found.name, found.report, found.phases[0].lr) == ("small-tuned", True, float(best["values"]["phases.0.lr"]))
    assert json.loads((out / "tune.json").read_text(encoding="utf-8")) == {
        key: value for key, value in document.items() if key != "run"
    }


def test_only_the_best_recipe_is_scored_on_test_images(searched: tuple) -> None:
    out, document = searched
    trials = [folder for folder in sorted((out / "trials").iterdir()) if (folder / "run.json").is_file()]
    assert len(trials) == 2
    for folder in trials:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert set(run["scores"]) == {"val", "train"}
        for name in ("splits.csv", "predictions.csv"):
            assert {row["split"] for row in rows_of(folder / name)} <= {"train", "val"}
    best = json.loads((out / "best" / "run.json").read_text(encoding="utf-8"))
    test = best["scores"]["test"]
    assert document["test"] == {key: test[key] for key in ("accuracy", "loss", "count")}
    assert test["count"] == best["data"]["counts"]["test"] > 0
    # The same images train, validate and test as without a search.
    assert [row for row in rows_of(out / "best" / "splits.csv") if row["split"] != "test"] == rows_of(
        trials[0] / "splits.csv"
    )


def test_the_page_shows_every_trial(searched: tuple) -> None:
    page = (searched[0] / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert page.count("at least 32 × 32") == 2
    for row in searched[1]["trials"]:
        assert f'<th scope="row">{row["trial"]}</th>' in page


def test_a_complete_search_is_not_resumed(searched: tuple, tlcli: Callable) -> None:
    result = tlcli("tune", "--resume", searched[0])
    assert (result.code, "the search is complete" in result.stderr) == (2, True)


def test_an_interrupted_search_is_resumed(recipe: Path, photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    started = load.load(str(recipe), options={"data.path": str(photos)})
    varied = space.parse("phases.0.lr: [1e-4, 1e-3]", started)
    search = Search(out=tmp_path / "search", trials=2, sampler="grid")
    with begin(search, started, varied):
        study = Study(search, varied)
        study.prepare()
        study.ask()
    result = tlcli("tune", photos, "--resume", search.out)
    assert (result.code, "keeps its settings (got DATA)" in result.stderr) == (2, True)
    result = tlcli("tune", "--resume", search.out, "--trials", 1)
    assert result.code == 0, result.stderr
    document = json.loads((search.out / "tune.json").read_text(encoding="utf-8"))
    assert [row["state"] for row in document["trials"]] == ["complete"]
    assert "test accuracy of trial" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--set", "data.val=0"], "data.val is 0, but validation images choose the best trial"),
        (["--budget", "10"], "--budget: a time must be a number above 0"),
        (["--sampler", "grid"], "a grid needs a list"),
        (["-m", "mobilenet,nonesuch"], "nonesuch"),
        (["-m", "mobilenet,mobilenet"], "names a network twice"),
    ],
)
def test_mistakes_end_before_a_folder_is_made(
    words: list[str], message: str, recipe: Path, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    result = tlcli("tune", photos, "-r", recipe, "--out", tmp_path / "search", *words)
    assert result.code == 2
    assert message in result.stderr
    assert not (tmp_path / "search").exists()


def test_networks_are_chosen_by_their_probe(photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    words = (
        "-r",
        "head-only",
        "--set",
        "data.size=[32,32]",
        "--weights",
        "random",
        "--out",
        tmp_path / "run",
        "--json",
    )
    result = tlcli("finetune", photos, "-m", "mobilenet_synthetic,squeezenet", *words)
    assert result.code == 0, result.stderr
    rows = result.document["model"]["chosen_from"]
    assert {row["model"] for row in rows} == {"mobilenet_synthetic", "squeezenet"}
    best = min(rows, key=lambda row: row["val_loss"])
    assert result.document["model"]["name"] == best["model"]
    assert best["val_loss"] == pytest.approx(result.document["phases"][0]["val_loss"], rel=1e-4), "judged as a step is"
    assert all(row["seconds"] > 0 for row in rows)
    assert f"chosen: {best['model']} (validation loss " in result.stderr


@pytest.mark.slow
def test_processes_share_a_study_and_stop_together(recipe: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    recipe.with_name("wide.yaml").write_text("phases.0.lr: {low: 1e-5, high: 1e-2, log: true}", encoding="utf-8")
    words = ["--space", str(recipe.with_name("wide.yaml")), "--trials", "12", "-j", "2", "--out", str(out)]
    command = [PROGRAM, "tune", str(photos), "-r", str(recipe), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True) as process:
        assert process.stderr is not None
        while "trial" not in (line := process.stderr.readline()):
            assert line, "the search ended early"
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130, errors
    assert f"Resume with: tlcli tune --resume {out}" in errors
    time.sleep(1)
    done = subprocess.run(
        [PROGRAM, "tune", "--resume", str(out), "--json"], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert len(document["trials"]) == 12
    assert len(list(out.glob("trials/*/model.keras"))) == 3
