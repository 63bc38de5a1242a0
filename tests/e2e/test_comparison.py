"""`finetune --compare`: the best run is kept, an interrupted comparison resumes, a failed recipe is reported."""

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
RECIPE = """\
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
    """Writes a recipe file for each learning rate and returns the value of `--compare`."""

    def write(**lr: float) -> str:
        for name, rate in lr.items():
            text = RECIPE.format(name=name, epochs=2, lr=rate)
            (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
        return ",".join(str(tmp_path / f"{name}.yaml") for name in lr)

    return write


def test_the_run_folder_is_that_of_the_best_run(
    recipes: Callable, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    import numpy as np
    from answers import assert_one_answer

    compare = recipes(gentle=1e-6, bold=1e-3)
    result = tlcli("finetune", photos, "--compare", compare, "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.stderr
    record: dict[str, Any] = result.document
    assert record["run"] == str(tmp_path / "run")
    rows = {Path(row["run"]).name: row for row in record["compared"]}
    assert list(rows) == ["gentle", "bold"]
    best = max(rows.values(), key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert record["scores"]["val"]["accuracy"] == best["val_accuracy"]
    for name, row in rows.items():
        single = json.loads((Path(row["run"]) / "run.json").read_text(encoding="utf-8"))
        assert single["recipe"]["name"] == name
        assert single["scores"]["val"]["loss"] == row["val_loss"]
        assert single["data"]["counts"] == record["data"]["counts"]
    # The run folder is complete and usable like any other.
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {path.name for path in Path(best["run"]).iterdir()} <= files
    assert tlcli("evaluate", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "model.keras").read_bytes() == (Path(best["run"]) / "model.keras").read_bytes()
    images = np.random.default_rng(0).uniform(0, 255, (2, 40, 50, 3)).astype(np.float32)
    assert_one_answer(tmp_path / "run" / "model.keras", images)
    runs = [row["run"] for row in rows.values()]
    assert tlcli("compare", *runs, "--json").document["same_split"] is True


@pytest.mark.slow
def test_a_failed_recipe_is_reported_and_the_others_continue(
    recipes: Callable, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    # Every step multiplies the kernel of the head by -19 until it overflows.
    diverging = RECIPE.format(name="diverging", epochs=6, lr=10.0)
    diverging += "head: {l2: 1.0}\noptimizer: {name: sgd}\nperformance: {batch: 2}\n"
    (tmp_path / "diverging.yaml").write_text(diverging, encoding="utf-8")
    words = ["--compare", f"{tmp_path / 'diverging.yaml'},{recipes(gentle=1e-6)}", "--out", tmp_path / "run", "--json"]
    result = tlcli("finetune", photos, *words)
    assert result.code == 0, result.stderr
    assert [Path(row["run"]).name for row in result.document["compared"]] == ["gentle"]
    assert "diverging failed: " in result.stderr
    assert json.loads((tmp_path / "run/compared/diverging/run.json").read_text(encoding="utf-8"))["status"] == "failed"


@pytest.mark.slow
def test_an_interrupted_comparison_resumes(recipes: Callable, photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["finetune", photos, "--compare", recipes(one=1e-5, two=1e-4), "--out", run]
    process = subprocess.Popen(
        [PROGRAM, *map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        deadline = time.monotonic() + 180
        while not (run / "compared" / "two" / "run.json").is_file():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"tlcli finetune --resume {run}" in stderr
    assert not (run / "run.json").exists()
    first = (run / "compared" / "one" / "run.json").stat().st_mtime_ns
    resumed = tlcli("finetune", "--resume", run, "--json")
    assert resumed.code == 0, resumed.stderr
    assert [Path(row["run"]).name for row in resumed.document["compared"]] == ["one", "two"]
    assert (run / "compared" / "one" / "run.json").stat().st_mtime_ns == first
    complete = tlcli("finetune", "--resume", run)
    assert complete.code == 2
    assert "the run is complete" in complete.stderr


@pytest.mark.slow
def test_a_comparison_without_its_last_run_is_completed(
    recipes: Callable, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert tlcli("finetune", photos, "--compare", recipes(one=1e-5, two=1e-4), "--out", run).code == 0
    (run / "run.json").unlink()
    shutil.rmtree(run / "compared" / "two")
    result = tlcli("finetune", "--resume", run, "--json")
    assert result.code == 0, result.stderr
    assert len(result.document["compared"]) == 2
