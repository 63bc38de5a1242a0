"""Runs that are killed, stopped and taken up again: the same result as if nothing had happened."""

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
PATIENCE_S = 120.0

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
  - {name: thaw, policy: gradual, step: 14, epochs: 6, patience: 4, lr: 1.0e-3, layer_decay: 0.8}
# Every run trains for itself.
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
    path = run / "history.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        # How long something took is the one thing that may differ.
        clock = ("seconds", "images_per_second")
        return [{key: value for key, value in row.items() if key not in clock} for row in csv.DictReader(stream)]


def status(run: Path) -> str:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))["status"]


@contextmanager
def running(*words: object) -> Iterator[subprocess.Popen]:
    """The program in a process of its own, gone at the end."""

    def heed_ctrl_c() -> None:
        # A test runner in the background hands on that Ctrl-C is ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [PROGRAM, *map(str, words)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed_ctrl_c)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until_epochs(run: Path, process: subprocess.Popen, count: int) -> None:
    """Wait until so many epochs stand in history.csv."""
    deadline = time.monotonic() + PATIENCE_S
    while len(history(run)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {count} epochs in {PATIENCE_S} s"
        time.sleep(0.01)


def stopped(run: Path, how: signal.Signals, count: int, *words: object) -> tuple[int, str, str]:
    """Start or resume a run and stop it after so many epochs; exit code, stdout and stderr."""
    with running(*words) as process:
        until_epochs(run, process, count)
        process.send_signal(how)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
        return process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def whole(data: Path, recipe: Path, tlcli: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The same run without interruption."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    said = tlcli("finetune", data, "--recipe", recipe, "--out", run, "--json")
    assert said.code == 0, said.stderr
    return run, said.document


@pytest.mark.slow
def test_a_run_killed_and_stopped_three_times_ends_as_if_nothing_had_happened(
    whole: tuple, data: Path, recipe: Path, tlcli: Callable, tmp_path: Path
) -> None:
    run, epochs = tmp_path / "run", len(history(whole[0]))
    first, second, third = sorted(random.sample(range(2, epochs - 1), 3))
    moments = f"killed after {first}, SIGINT after {second}, SIGTERM after {third} of {epochs} epochs"

    # Killed: nothing could be tidied up.
    code, _, _ = stopped(run, signal.SIGKILL, first, "finetune", data, "--recipe", recipe, "--out", run)
    assert code == -signal.SIGKILL
    assert status(run) == "interrupted", moments
    assert not (run / "model.keras").exists()
    for command in (["evaluate", run], ["predict", run, data]):
        said = tlcli(*command)
        assert said.code == 2
        assert f"tlcli finetune --resume {run}" in said.stderr

    # Other images: refused, and the run stays as it was.
    stray = shutil.copy(data / "red" / "00.bmp", data / "red" / "new.bmp")
    said = tlcli("finetune", "--resume", run)
    Path(stray).unlink()
    assert said.code == 2
    assert "the images have changed since the run began" in said.stderr
    assert status(run) == "interrupted"

    # Stopped politely, twice: exit code 130 and what to type.
    for how, count in ((signal.SIGINT, second), (signal.SIGTERM, third)):
        code, stdout, stderr = stopped(run, how, count, "finetune", "--resume", run, "--json")
        assert (code, stdout) == (130, ""), (moments, stderr)
        assert f"Interrupted. Go on with: tlcli finetune --resume {run}" in stderr
        assert "Traceback" not in stderr
        assert status(run) == "interrupted"
        assert not (run / ".lock").exists()

    said = tlcli("finetune", "--resume", run, "--json")
    assert said.code == 0, (moments, said.stderr)
    assert history(run) == history(whole[0]), moments
    wanted = whole[1]
    assert said.document["scores"] == wanted["scores"], moments
    for mine, other in zip(said.document["phases"], wanted["phases"], strict=True):
        assert {**mine, "seconds": 0} == {**other, "seconds": 0}, moments
    assert said.document["model"]["weights_sha256"] == wanted["model"]["weights_sha256"]
    assert {path.name for path in run.iterdir()} == {path.name for path in whole[0].iterdir()}
    assert (run / "splits.csv").read_bytes() == (whole[0] / "splits.csv").read_bytes()


def test_a_run_in_progress_is_left_alone(
    finished: tuple, photos: Path, tiny: Path, tlcli: Callable, tmp_path: Path
) -> None:
    """Then it is killed and taken up: the solution of its linear probe is not lost."""
    run = tmp_path / "run"
    with running("finetune", photos, "--recipe", tiny, "--out", run) as process:
        until_epochs(run, process, 1)
        os.kill(process.pid, signal.SIGSTOP)
        before = sorted(path.name for path in run.iterdir())
        said = tlcli("finetune", "--resume", run)
        assert said.code == 2
        assert "a run is in progress in this folder" in said.stderr
        assert sorted(path.name for path in run.iterdir()) == before
        assert status(run) == "interrupted"
    said = tlcli("finetune", "--resume", run, "--json")
    assert said.code == 0, said.stderr
    assert history(run) == history(finished[0])
    assert said.document["scores"] == finished[1].document["scores"]
    assert said.document["seconds"]["prefix"] > 0


def test_killed_before_the_first_epoch(finished: tuple, tlcli: Callable, tmp_path: Path) -> None:
    """There is no checkpoint yet: the run starts over, to the same result."""
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    for name in ("model.keras", "labels.txt", "history.csv", "phases.jsonl"):
        (run / name).unlink()
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted", "phases": [], "scores": {}}))
    said = tlcli("finetune", "--resume", run, "--json")
    assert said.code == 0, said.stderr
    assert history(run) == history(finished[0])
    assert said.document["scores"] == finished[1].document["scores"]
    assert said.document["started"] == record["started"]


def test_a_damaged_checkpoint_is_told(tlcli: Callable, finished: tuple, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    (run / "checkpoint").mkdir()
    (run / "checkpoint" / "state.json").write_text("{")
    said = tlcli("finetune", "--resume", run)
    assert said.code == 1
    assert "the checkpoint is damaged" in said.stderr
    assert "Start the run anew" in said.stderr


STORED_RECIPE = RECIPE.replace("preset: strong, mixup: 0.2", "preset: strong, views: 3").replace(
    "  - {name: everything, policy: all, epochs: 9, lr: 3.0e-3, batch_norm: train}\n",
    '  - {name: upper, train: "top:40%", epochs: 9, lr: 3.0e-3, batch_norm: train}\n',
)


@pytest.mark.slow
def test_a_run_above_stored_outputs_is_taken_up_where_they_are(data: Path, tlcli: Callable, tmp_path: Path) -> None:
    """Killed in a step that is fed stored renderings. Every process finds those of the first, and computes no pass."""
    recipe, run = tmp_path / "stored.yaml", tmp_path / "run"
    recipe.write_text(STORED_RECIPE, encoding="utf-8")
    assert ("views: 3" in STORED_RECIPE, "top:40%" in STORED_RECIPE, "mixup" in STORED_RECIPE) == (True, True, False)
    plain = tlcli("finetune", data, "--recipe", recipe, "--out", tmp_path / "whole", "--json")
    assert plain.code == 0, plain.stderr
    assert "frozen layers: " in plain.stderr
    # Somewhere in the second phase.
    count = random.randrange(6, 13)
    code, _, stderr = stopped(run, signal.SIGKILL, count, "finetune", data, "--recipe", recipe, "--out", run)
    assert (code, status(run)) == (-signal.SIGKILL, "interrupted")
    assert "upper: training" in stderr
    assert "frozen layers: " not in stderr
    said = tlcli("finetune", "--resume", run, "--json")
    assert said.code == 0, (count, said.stderr)
    assert "frozen layers: " not in said.stderr, count
    assert history(run) == history(tmp_path / "whole"), count
    assert said.document["scores"] == plain.document["scores"], count
    assert said.document["model"]["weights_sha256"] == plain.document["model"]["weights_sha256"], count
