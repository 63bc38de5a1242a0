"""Several hosts train one network: they learn as one, the first writes the run folder, a lost one is noticed."""

import csv
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.cluster.hosts import ADDRESSES, COUNT, NUMBER, Host, this_host
from tlcli.errors import RunError
from tlcli.model.hosts import explained

HOSTS = 2
RECIPE = """\
recipe: 1
name: small
data: {size: [32, 32], val: 0.2, test: 0.2}
model: {name: mobilenet, weights: random, arguments: {alpha: 0.25}, drop_top: 9}
phases:
  - {name: head, train: head, init: probe, epochs: 1}
  - {name: all, policy: all, epochs: 2, lr: 1.0e-4, batch_norm: affine}
performance: {batch: 8}
"""


def environment(cache: Path, devices: int) -> dict[str, str]:
    """The environment of a run on JAX, on a processor that stands for several devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    own = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TLCLI_CACHE": str(cache), "XLA_FLAGS": flags}
    return {**os.environ, **own}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "tlcli", "finetune", *map(str, words)]


def start_hosts(cache: Path, *words: object, second: tuple[str, ...] = ()) -> list[subprocess.Popen[str]]:
    """The same command on two hosts with two devices each; the second one has more options."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = []
    for number in range(HOSTS):
        variables = {ADDRESSES: address, COUNT: str(HOSTS), NUMBER: str(number)}
        variables |= environment(cache, devices=2)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        hosts.append(subprocess.Popen(command(*words, *(second if number else ())), env=variables, **pipes))
    return hosts


def finish(host: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a host."""
    try:
        stdout, stderr = host.communicate(timeout=300)
    finally:
        # One that has not ended within this time would go on for ever.
        host.kill()
    return host.returncode, stdout, stderr


def curve(run: Path) -> list[list[float]]:
    with (run / "history.csv").open(encoding="utf-8") as stream:
        return [[float(row[key]) for key in ("loss", "accuracy", "val_loss")] for row in csv.DictReader(stream)]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.mark.extras
def test_two_hosts_learn_as_one_with_as_many_devices(photos: Path, recipe: Path, tmp_path: Path) -> None:
    """The first host finds its features in the cache, the second has none; neither waits for the other."""
    pytest.importorskip("jax", reason="needs tlcli[jax]")
    cache, alone, together = tmp_path / "cache", tmp_path / "alone", tmp_path / "together"
    words = (photos, "--recipe", recipe, "--set", "report=false", "--json")
    done = subprocess.run(
        command(*words, "--out", alone, "--device", "cpu:all"),
        capture_output=True,
        text=True,
        check=False,
        env=environment(cache, devices=4),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = map(finish, start_hosts(cache, *words, "--out", together))
    assert first[0] == second[0] == 0, first[2][-1000:] + second[2][-1000:]
    assert json.loads(first[1])["run"] == str(together)
    assert second[1] == ""
    assert "val_loss" in first[2]
    assert "val_loss" not in second[2]
    assert len(curve(together)) == 3
    for one, all_of_them in zip(curve(alone), curve(together), strict=True):
        assert all_of_them == pytest.approx(one, rel=1e-3)
    decisions = [(run / "phases.jsonl").read_text(encoding="utf-8").splitlines() for run in (alone, together)]
    kept = [[(line["step"], line["kept"]) for line in map(json.loads, lines)] for lines in decisions]
    assert kept[0] == kept[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "cache", "small.yaml", "together"]


@pytest.mark.extras
def test_hosts_with_other_settings_are_refused(photos: Path, recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("jax", reason="needs tlcli[jax]")
    words = (photos, "--recipe", recipe, "--out", tmp_path / "run")
    hosts = start_hosts(tmp_path / "cache", *words, second=("--set", "data.sampling=balanced"))
    for number, (code, _, stderr) in enumerate(map(finish, hosts)):
        assert code == 2, stderr[-2000:]
        assert number or f"Error: {COUNT}: host 1 has other images or settings than this one" in stderr


@pytest.mark.slow
def test_a_lost_host_ends_the_run_which_can_be_resumed(photos: Path, recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("jax", reason="needs tlcli[jax]")
    cache, run = tmp_path / "cache", tmp_path / "run"
    hosts = start_hosts(cache, photos, "--recipe", recipe, "--set", "phases.1.epochs=40", "--out", run)
    while hosts[0].poll() is None and not ((run / "history.csv").is_file() and len(curve(run)) >= 3):
        time.sleep(0.1)
    hosts[1].kill()
    (code, _, stderr), _ = map(finish, hosts)
    assert code == 1, stderr[-2000:]
    assert f"Error: {COUNT}: the other hosts do not answer" in stderr
    assert "Traceback" not in stderr
    before = len(curve(run))
    first, second = map(finish, start_hosts(cache, "--resume", run))
    assert first[0] == second[0] == 0, first[2][-1000:] + second[2][-1000:]
    assert len(curve(run)) == 41 > before
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["status"] == "complete"


def test_the_variables_name_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COUNT, "1")
    assert this_host() is None
    for name, value in ((COUNT, "3"), (NUMBER, "2"), (ADDRESSES, "[::1]:1234,b:1234,c:1234")):
        monkeypatch.setenv(name, value)
    assert this_host() == Host("[::1]:1234", 3, 2)


@pytest.mark.parametrize(
    ("variables", "where", "problem"),
    [
        ({COUNT: "two"}, COUNT, "must be a whole number from 1 (got 'two')"),
        ({NUMBER: ""}, NUMBER, "must be a whole number from 0 (got '')"),
        ({NUMBER: "2"}, NUMBER, f"must be below {COUNT}=2 (got 2)"),
        ({ADDRESSES: "head"}, ADDRESSES, "is no address (got 'head')"),
        ({ADDRESSES: "a:1,b:1,c:1"}, ADDRESSES, f"names 3 addresses for {COUNT}=2"),
    ],
)
def test_variables_that_contradict_each_other_are_refused(
    variables: dict[str, str], where: str, problem: str, tlcli: Callable, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {ADDRESSES: "127.0.0.1:1", COUNT: "2", NUMBER: "0", **variables}.items():
        monkeypatch.setenv(name, value)
    result = tlcli("finetune", photos)
    assert result.code == 2
    assert f"{where}: {problem}" in result.stderr


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("finetune", "--budget", "1m"), "--budget: needs one host"),
        (("finetune", "--folds", "3"), "--folds: needs one host"),
        (("finetune", "--device", "gpu:1"), "--device: several hosts use all of their devices (got gpu:1)"),
        (("finetune",), f"{COUNT}: several hosts need JAX (Keras runs on tensorflow)"),
        (("probe",), f"{COUNT}: only one training by `tlcli finetune` runs on several hosts"),
    ],
)
def test_what_several_hosts_cannot_do_is_refused(
    words: tuple[str, ...], where: str, tlcli: Callable, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {ADDRESSES: "127.0.0.1:1", COUNT: "2", NUMBER: "0"}.items():
        monkeypatch.setenv(name, value)
    name, *options = words
    result = tlcli(name, photos, "--model", "mobilenet_synthetic", *options)
    assert result.code == 2, result.stderr
    assert where in result.stderr


@pytest.mark.extras
def test_an_error_of_one_host_alone_is_not_laid_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax", reason="needs tlcli[jax]")
    for name, value in {ADDRESSES: "127.0.0.1:1", COUNT: "2", NUMBER: "0"}.items():
        monkeypatch.setenv(name, value)
    own, lost = "RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes", "UNKNOWN: Gloo all-reduce failed"
    with pytest.raises(jax.errors.JaxRuntimeError, match="Out of memory"), explained():
        raise jax.errors.JaxRuntimeError(own)
    with pytest.raises(RunError, match="the other hosts do not answer"), explained():
        raise jax.errors.JaxRuntimeError(lost)
