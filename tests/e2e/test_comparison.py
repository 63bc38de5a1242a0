"""Several recipes on one split: the best becomes the run, what was interrupted goes on, what fails is told."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = str(Path(sys.executable).with_name("tlcli"))
SHARED = """\
recipe: 1
name: {name}
data: {{size: [32, 32], val: 0.2, test: 0.2}}
model: {{name: mobilenet, weights: random, arguments: {{alpha: 0.25}}}}
phases:
  - {{name: head, train: head, init: probe, epochs: 0}}
  - {{name: all, policy: all, epochs: {epochs}, lr: {lr}}}
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Callable[..., str]:
    def write(**lr: float) -> str:
        for name, rate in lr.items():
            text = SHARED.format(name=name, epochs=2, lr=rate)
            (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
        return ",".join(str(tmp_path / f"{name}.yaml") for name in lr)

    return write


def test_the_best_becomes_the_run(recipes: Callable, photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    said = tlcli("finetune", photos, "--compare", recipes(gentle=1e-6, bold=1e-3), "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.stderr
    note: dict[str, Any] = said.document
    assert note["run"] == str(tmp_path / "run")
    rows = {Path(row["run"]).name: row for row in note["compared"]}
    assert list(rows) == ["gentle", "bold"]
    best = max(rows.values(), key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert note["scores"]["val"]["accuracy"] == best["val_accuracy"]
    for name, row in rows.items():
        single = json.loads((Path(row["run"]) / "run.json").read_text(encoding="utf-8"))
        assert single["recipe"]["name"] == name
        assert single["scores"]["val"]["loss"] == row["val_loss"]
        assert single["data"]["counts"] == note["data"]["counts"]
    # The run folder is like any other: usable, and whole.
    own = {path.name for path in (tmp_path / "run").iterdir()}
    assert {path.name for path in Path(best["run"]).iterdir()} <= own
    assert tlcli("evaluate", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "model.keras").read_bytes() == (Path(best["run"]) / "model.keras").read_bytes()
    # All on one split.
    assert tlcli("compare", *rows_of(rows), "--json").document["same_split"] is True


def rows_of(rows: dict[str, Any]) -> list[str]:
    return [row["run"] for row in rows.values()]


@pytest.mark.slow
def test_a_recipe_that_fails_is_told_and_the_others_go_on(
    recipes: Callable, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    # Every step multiplies the kernel of the head by -19, until it is not a number.
    wild = SHARED.format(name="wild", epochs=6, lr=10.0)
    wild += "head: {l2: 1.0}\noptimizer: {name: sgd}\nperformance: {batch: 2}\n"
    (tmp_path / "wild.yaml").write_text(wild, encoding="utf-8")
    words = ["--compare", f"{tmp_path / 'wild.yaml'},{recipes(gentle=1e-6)}", "--out", tmp_path / "run", "--json"]
    said = tlcli("finetune", photos, *words)
    assert said.code == 0, said.stderr
    assert [Path(row["run"]).name for row in said.document["compared"]] == ["gentle"]
    assert "wild failed: " in said.stderr
    assert json.loads((tmp_path / "run/compared/wild/run.json").read_text(encoding="utf-8"))["status"] == "failed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "head-only"], "takes two recipes or more"),
        (["--compare", "head-only,head-only"], "two recipes are called 'head-only'"),
        (
            ["--compare", "head-only,lp-ft", "--set", "phases.1.epochs=1"],
            "--compare head-only: --set phases.1.epochs=1",
        ),
        (["--compare", "head-only,two-phase", "--set", "phases.0.train=block99"], "phases[0].train"),
        (["--compare", "head-only,lp-ft", "--set", "data.val=0"], "data.val is 0"),
        (["--compare", "head-only,nothing-like-it"], "nothing-like-it"),
        (["--compare", "head-only,full", "--recipe", "full"], "goes without --recipe"),
        (["--compare", "head-only,demo"], "use the images differently (data.val, data.test)"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    words: list[str], message: str, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    said = tlcli("finetune", photos, "--model", "mobilenet_synthetic", *words, "--out", tmp_path / "run")
    assert said.code == 2, said.stderr
    assert message in said.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on(recipes: Callable, photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["finetune", photos, "--compare", recipes(one=1e-5, two=1e-4), "--out", run]
    process = subprocess.Popen(
        [PROGRAM, *map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        ends = time.monotonic() + 180
        while not (run / "compared" / "two" / "run.json").is_file():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < ends
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"tlcli finetune --resume {run}" in said
    assert not (run / "run.json").exists()
    first = (run / "compared" / "one" / "run.json").stat().st_mtime_ns
    again = tlcli("finetune", "--resume", run, "--json")
    assert again.code == 0, again.stderr
    assert [Path(row["run"]).name for row in again.document["compared"]] == ["one", "two"]
    assert (run / "compared" / "one" / "run.json").stat().st_mtime_ns == first
    done = tlcli("finetune", "--resume", run)
    assert done.code == 2
    assert "the run is complete" in done.stderr


@pytest.mark.slow
def test_a_comparison_whose_end_was_missing_is_ended(
    recipes: Callable, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert tlcli("finetune", photos, "--compare", recipes(one=1e-5, two=1e-4), "--out", run).code == 0
    (run / "run.json").unlink()
    shutil.rmtree(run / "compared" / "two")
    said = tlcli("finetune", "--resume", run, "--json")
    assert said.code == 0, said.stderr
    assert len(said.document["compared"]) == 2
