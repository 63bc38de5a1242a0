"""Backends: a classifier answers alike on TensorFlow and JAX, compiled programs are kept, devices share batches."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Programs that a run compiles, those of a few numbers included. Operations outside of compiled functions, each of which
# is a program for every shape, would make them hundreds.
MAX_PROGRAMS = 70
SCRIPT = """
import json, sys
import numpy as np
from answers import assert_one_answer
images = np.random.default_rng(0).uniform(0, 255, (3, 40, 50, 3)).astype(np.float32)
print(json.dumps(assert_one_answer(sys.argv[1], images).tolist()))
"""


@pytest.mark.extras
@pytest.mark.parametrize("batch_norm", ["affine", "train"])
def test_a_classifier_gives_the_same_answer_on_jax(
    batch_norm: str, tlcli: Callable, photos: Path, tiny: Path, tmp_path: Path
) -> None:
    pytest.importorskip("jax", reason="needs tlcli[jax]")
    phase = f"{{name: all, policy: all, epochs: 2, lr: 1.0e-4, batch_norm: {batch_norm}}}"
    result = tlcli("finetune", photos, "--recipe", tiny, "--set", f"phases=[{phase}]", "--out", tmp_path / "run")
    assert result.code == 0, result.stderr
    answers = []
    for backend in ("tensorflow", "jax"):
        support = str(Path(__file__).parent.parent / "support")
        environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": support}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run" / "model.keras")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    for left, right in zip(*answers, strict=True):
        assert left == pytest.approx(right, abs=1e-4)


# tlcli with room for a table of so many bytes on the device.
WITH_ROOM = """
import sys
from tlcli.cli.main import cli
from tlcli.train import session
session.table_bytes = lambda: int(sys.argv[1])
try:
    cli.main(sys.argv[2:])
finally:
    assert "tensorflow" not in sys.modules, "it takes seconds to load"
"""


@pytest.mark.extras
def test_jax_compiles_a_step_once_and_keeps_it_for_the_next_run(photos: Path, tiny: Path, tmp_path: Path) -> None:
    """The last batch of an epoch has the shape of the others, and the second process reads all programs from disk.

    So does the training of the third, on fewer images. The fourth learns the same from inputs on the device.
    """
    pytest.importorskip("jax", reason="needs tlcli[jax]")
    cache = tmp_path / "cache"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TLCLI_CACHE": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    phase = "{name: all, policy: all, epochs: 2, lr: 1.0e-3, schedule: cosine, batch_norm: train}"
    settings = [f"phases=[{phase}]", "performance.batch=8", "performance.reuse_results=false"]
    programs = []
    for number, room, test in ((1, 0, 0.15), (2, 0, 0.15), (3, 0, 0.4), (4, 10**9, 0.15)):
        words = ["finetune", str(photos), "--recipe", str(tiny), "--out", str(tmp_path / f"run{number}")]
        words += [word for setting in (*settings, f"data.test={test}") for word in ("--set", setting)]
        command = [sys.executable, "-c", WITH_ROOM, str(room), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        programs.append(sorted(path.name for path in (cache / "compiled").glob("*-cache")))
    training = [{name for name in names if name.startswith("jit_train_step-")} for names in programs]
    assert len(training[0]) == 1
    assert len(programs[0]) < MAX_PROGRAMS
    assert programs[1] == programs[0]
    assert training[2] == training[0]
    assert len(training[3]) == 2, "with the table"
    sent, kept = losses_of(tmp_path / "run1"), losses_of(tmp_path / "run4")
    for left, right in zip(sent, kept, strict=True):
        assert left == pytest.approx(right, rel=1e-4)
    assert sent[0] != sent[-1]


def losses_of(run: Path) -> list[tuple[float, float]]:
    """Loss and validation loss of every epoch."""
    with (run / "history.csv").open(encoding="utf-8") as stream:
        return [(float(row["loss"]), float(row["val_loss"])) for row in csv.DictReader(stream)]


def finetune_on_jax(photos: Path, recipe: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A run on JAX, on a processor that stands for eight devices."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "TLCLI_CACHE": str(out.parent / "cache"),
    }
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    phase = "{name: all, policy: all, epochs: 2, lr: 1.0e-3, batch_norm: affine}"
    settings = ("--set", f"phases=[{phase}]", "--set", "performance.cache=off", "--set", "augment.preset=none", *words)
    command = [sys.executable, "-m", "tlcli", "finetune", str(photos), "--recipe", str(recipe), "--out", str(out)]
    return subprocess.run([*command, *settings], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.extras
def test_several_devices_share_a_batch_and_learn_as_one(photos: Path, tiny: Path, tmp_path: Path) -> None:
    """The losses of every epoch, and the validation losses, are those of one device with the same batch."""
    pytest.importorskip("jax", reason="needs tlcli[jax]")
    curves = []
    for device in ("cpu", "cpu:all"):
        out = tmp_path / device.replace(":", "-")
        done = finetune_on_jax(photos, tiny, out, "--device", device, "--batch", "8")
        assert done.returncode == 0, done.stderr[-2000:]
        curves.append(losses_of(out))
        assert json.loads((out / "run.json").read_text(encoding="utf-8"))["hardware"]["device"] in (device, "cpu:0")
    assert len(curves[0]) == 2
    for one, all_of_them in zip(*curves, strict=True):
        assert all_of_them == pytest.approx(one, rel=1e-3)
    refused = finetune_on_jax(photos, tiny, tmp_path / "odd", "--device", "cpu:all", "--batch", "12")
    assert refused.returncode == 2
    assert "8 devices cannot share it equally (got 12)" in refused.stderr
    assert "--batch 16" in refused.stderr


@pytest.mark.parametrize(
    ("backend", "words"), [("torch", "does not run on this backend"), ("tensorflow", "several devices need JAX")]
)
def test_what_no_backend_can_do_is_refused(
    backend: str, words: str, tlcli: Callable, photos: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keras.backend.backend", lambda: backend)
    monkeypatch.setenv("KERAS_BACKEND", backend)
    result = tlcli("finetune", photos, "--recipe", tiny, "--device", "cpu:all")
    assert result.code == 2
    assert words in result.stderr
