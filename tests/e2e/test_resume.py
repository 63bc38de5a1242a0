"""Resuming killed and stopped runs: the result is that of an uninterrupted run."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = str(Path(sys.executable).with_name("tlcli"))
TIMEOUT_S = 120.0

# Every kind of state that a checkpoint holds: BatchNorm statistics, dropout, augmentation, a schedule, momentum,
# rolled-back steps.
RECIPE = """\
recipe: 1
name: long
data: {size: [32, 32], val: 0.2, test: 0.2}
model: {name: mobilenet, weights: random, arguments: {alpha: 0.25}}
head: {dropout: 0.3}
augment: {preset: strong, mixup: 0.2}
optimizer: {name: adam, schedule: cosine, clip_norm: 1.0}
phases:
  - {name: head, train: head, epochs: 5}
  - {name: everything, policy: all, epochs: 9, lr: 3.0e-3, batch_norm: train}
  - {name: unfreeze, policy: gradual, step: 14, epochs: 6, patience: 4, lr: 1.0e-3, layer_decay: 0.8}
# Without cached results, every run trains.
performance: {batch: 8, reuse_results: false}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "long.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Path]) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "photos")


def history(run: Path) -> list[dict[str, str]]:
    """The rows of history.csv without the times, which may differ between runs."""
    path = run / "history.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        clock = ("seconds", "images_per_second")
        return [{key: value for key, value in row.items() if key not in clock} for row in csv.DictReader(stream)]


def status(run: Path) -> str:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))["status"]


@contextmanager
def running(*words: object) -> Iterator[subprocess.Popen]:
    """tlcli in a new process, which is killed at the end."""

    def accept_ctrl_c() -> None:
        # A test runner in the background ignores Ctrl-C, and child processes inherit this.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [PROGRAM, *map(str, words)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=accept_ctrl_c)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_epochs(run: Path, process: subprocess.Popen, count: int) -> None:
    """Wait until history.csv has `count` epochs."""
    deadline = time.monotonic() + TIMEOUT_S
    while len(history(run)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"fewer than {count} epochs in {TIMEOUT_S} s"
        time.sleep(0.01)


def stop(run: Path, by: signal.Signals, count: int, *words: object) -> tuple[int, str, str]:
    """Start or resume a run and stop it after `count` epochs. Returns exit code, stdout and stderr."""
    with running(*words) as process:
        wait_for_epochs(run, process, count)
        process.send_signal(by)
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def whole(data: Path, recipe: Path, tlcli: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The same run, uninterrupted."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    result = tlcli("finetune", data, "--recipe", recipe, "--out", run, "--json")
    assert result.code == 0, result.stderr
    return run, result.document


@pytest.mark.slow
def test_a_run_that_is_interrupted_three_times_ends_like_an_uninterrupted_one(
    whole: tuple, data: Path, recipe: Path, tlcli: Callable, tmp_path: Path
) -> None:
    run, epochs = tmp_path / "run", len(history(whole[0]))
    first, second, third = sorted(random.sample(range(2, epochs - 1), 3))
    moments = f"killed after {first}, SIGINT after {second}, SIGTERM after {third} of {epochs} epochs"

    # Killed: no clean-up.
    code, _, _ = stop(run, signal.SIGKILL, first, "finetune", data, "--recipe", recipe, "--out", run)
    assert code == -signal.SIGKILL
    assert status(run) == "interrupted", moments
    assert not (run / "model.keras").exists()
    for command in (["evaluate", run], ["predict", run, data]):
        result = tlcli(*command)
        assert result.code == 2
        assert f"tlcli finetune --resume {run}" in result.stderr

    # Changed images: refused, and the run stays as it is.
    added = shutil.copy(data / "red" / "00.bmp", data / "red" / "new.bmp")
    result = tlcli("finetune", "--resume", run)
    Path(added).unlink()
    assert result.code == 2
    assert "the images have changed since the run began" in result.stderr
    assert status(run) == "interrupted"

    # Stopped twice: exit code 130, and the command that resumes.
    for by, count in ((signal.SIGINT, second), (signal.SIGTERM, third)):
        code, stdout, stderr = stop(run, by, count, "finetune", "--resume", run, "--json")
        assert (code, stdout) == (130, ""), (moments, stderr)
        assert f"Interrupted. Resume with: tlcli finetune --resume {run}" in stderr
        assert "Traceback" not in stderr
        assert status(run) == "interrupted"
        assert not (run / ".lock").exists()

    result = tlcli("finetune", "--resume", run, "--json")
    assert result.code == 0, (moments, result.stderr)
    assert history(run) == history(whole[0]), moments
    expected = whole[1]
    assert result.document["scores"] == expected["scores"], moments
    for step, expected_step in zip(result.document["phases"], expected["phases"], strict=True):
        assert {**step, "seconds": 0} == {**expected_step, "seconds": 0}, moments
    assert result.document["model"]["weights_sha256"] == expected["model"]["weights_sha256"]
    assert {path.name for path in run.iterdir()} == {path.name for path in whole[0].iterdir()}
    assert (run / "splits.csv").read_bytes() == (whole[0] / "splits.csv").read_bytes()


def test_a_run_in_progress_is_not_resumed(
    finished: tuple, photos: Path, tiny: Path, tlcli: Callable, tmp_path: Path
) -> None:
    """After it is killed, it resumes with the solution of its linear probe."""
    run = tmp_path / "run"
    with running("finetune", photos, "--recipe", tiny, "--out", run) as process:
        wait_for_epochs(run, process, 1)
        os.kill(process.pid, signal.SIGSTOP)
        before = sorted(path.name for path in run.iterdir())
        result = tlcli("finetune", "--resume", run)
        assert result.code == 2
        assert "a run is in progress in this folder" in result.stderr
        assert sorted(path.name for path in run.iterdir()) == before
        assert status(run) == "interrupted"
    result = tlcli("finetune", "--resume", run, "--json")
    assert result.code == 0, result.stderr
    assert history(run) == history(finished[0])
    assert result.document["scores"] == finished[1].document["scores"]
    assert result.document["seconds"]["prefix"] > 0


def test_a_run_killed_before_the_first_epoch_starts_over(finished: tuple, tlcli: Callable, tmp_path: Path) -> None:
    """There is no checkpoint yet. The result is the same."""
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    for name in ("model.keras", "labels.txt", "history.csv", "phases.jsonl"):
        (run / name).unlink()
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted", "phases": [], "scores": {}}))
    result = tlcli("finetune", "--resume", run, "--json")
    assert result.code == 0, result.stderr
    assert history(run) == history(finished[0])
    assert result.document["scores"] == finished[1].document["scores"]
    assert result.document["started"] == record["started"]


def test_a_run_of_an_earlier_version_keeps_its_split(finished: tuple, tlcli: Callable, tmp_path: Path) -> None:
    """That version split the same images otherwise."""
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted", "phases": [], "scores": {}}))
    earlier = {"train": "val", "val": "train", "test": "test"}
    lines = [line.split(",") for line in (run / "splits.csv").read_text(encoding="utf-8").splitlines()]
    old = "".join(f"{path},{label},{earlier.get(split, split)},{sha}\n" for path, label, split, sha in lines)
    (run / "splits.csv").write_text(old, encoding="utf-8")
    result = tlcli("finetune", "--resume", run, "--json")
    assert result.code == 0, result.stderr
    assert result.document["data"]["counts"] == {"train": 6, "val": 18, "test": 6}
    assert (run / "splits.csv").read_text(encoding="utf-8") == old


def test_a_damaged_checkpoint_is_an_error(tlcli: Callable, finished: tuple, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    (run / "checkpoint").mkdir()
    (run / "checkpoint" / "state.json").write_text("{")
    result = tlcli("finetune", "--resume", run)
    assert result.code == 1
    assert "the checkpoint is damaged" in result.stderr
    assert "Start the run again without --resume" in result.stderr


STORED_RECIPE = RECIPE.replace("preset: strong, mixup: 0.2", "preset: strong, views: 3").replace(
    "  - {name: everything, policy: all, epochs: 9, lr: 3.0e-3, batch_norm: train}\n",
    '  - {name: upper, train: "top:40%", epochs: 9, lr: 3.0e-3, batch_norm: train}\n',
)


@pytest.mark.slow
def test_a_run_on_stored_features_resumes_with_them(data: Path, tlcli: Callable, tmp_path: Path) -> None:
    """Killed in a step that trains on stored views. Later runs find the features of the first and compute none."""
    recipe, run = tmp_path / "stored.yaml", tmp_path / "run"
    recipe.write_text(STORED_RECIPE, encoding="utf-8")
    assert ("views: 3" in STORED_RECIPE, "top:40%" in STORED_RECIPE, "mixup" in STORED_RECIPE) == (True, True, False)
    uninterrupted = tlcli("finetune", data, "--recipe", recipe, "--out", tmp_path / "whole", "--json")
    assert uninterrupted.code == 0, uninterrupted.stderr
    assert "frozen layers: " in uninterrupted.stderr
    # In the second phase.
    count = random.randrange(6, 13)
    code, _, stderr = stop(run, signal.SIGKILL, count, "finetune", data, "--recipe", recipe, "--out", run)
    assert (code, status(run)) == (-signal.SIGKILL, "interrupted")
    assert "upper: training" in stderr
    assert "frozen layers: " not in stderr
    result = tlcli("finetune", "--resume", run, "--json")
    assert result.code == 0, (count, result.stderr)
    assert "frozen layers: " not in result.stderr, count
    assert history(run) == history(tmp_path / "whole"), count
    assert result.document["scores"] == uninterrupted.document["scores"], count
    assert result.document["model"]["weights_sha256"] == uninterrupted.document["model"]["weights_sha256"], count
