"""What a command may load: help nothing heavy, and what only looks no Keras."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("keras", "tensorflow", "numpy", "sklearn", "h5py", "PIL", "pydantic")
NETWORKS = ("keras", "tensorflow", "jax", "torch", "sklearn")
BUDGET_S = 0.25

# Runs the command line as the program does, then tells on the last line of stderr which modules are there.
PROBE = """
import json, sys
from tlcli.cli.main import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as done:
    sys.stdout.flush()
    print(json.dumps({"code": done.code or 0, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


def loaded(*words: object, code: int = 0) -> set[str]:
    """The modules in memory after a command that ends with that exit code."""
    command = [sys.executable, "-c", PROBE, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stderr.splitlines()[-1])
    assert found["code"] == code, done.stderr
    return set(found["modules"])


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, tlcli.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tlcli.cli.main" in done.stdout.split()
    assert set(HEAVY) & set(done.stdout.split()) == set()


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["finetune", "--help"],
        ["pretrain", "--help"],
        ["probe", "--help"],
        ["check", "--help"],
        ["recipe", "run", "--help"],
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    assert set(HEAVY) & loaded(*words) == set()


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "resnet50", "--train", "top:30%"],
        ["inspect", "mobilenet_v2", "--by", "layer", "--format", "csv"],
        ["inspect", "mobilenet_synthetic", "--train", "top:2", "--format", "html"],
        ["zoo", "list"],
        ["zoo", "show", "mobilenet_v2"],
        ["recipe", "list"],
        ["recipe", "validate", "two-phase"],
    ],
    ids=" ".join,
)
def test_looking_loads_no_keras(words: list[str]) -> None:
    assert set(NETWORKS) & loaded(*words) == set()


def test_planning_loads_no_keras(photos: Path) -> None:
    found = loaded("plan", photos)
    assert set(NETWORKS) & found == set()
    assert "PIL" in found, "the probe sees what is loaded"


@pytest.mark.parametrize(
    "words",
    [
        ["finetune", "no"],
        ["probe", "no"],
        ["check", "no"],
        ["pretrain", "no", "-o", "x"],
        ["evaluate", "no"],
        ["predict", "no", "x.jpg"],
        ["inspect", "--diff", "resnet50", "mobilenet_synthetic"],
    ],
    ids=" ".join,
)
def test_mistakes_are_told_before_keras_is_loaded(words: list[str]) -> None:
    assert set(NETWORKS) & loaded(*words, code=2) == set()


def test_checking_loads_no_keras(photos: Path) -> None:
    found = loaded("check", photos)
    assert set(NETWORKS) & found == set()
    assert "tlcli" in found, "the probe sees what is loaded"


def test_doctor_loads_keras() -> None:
    assert "keras" in loaded("doctor"), "the probe sees what is loaded"


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_come_at_once(word: str) -> None:
    command = [str(Path(sys.executable).with_name("tlcli")), word]
    seconds = []
    for _ in range(5):
        # Seconds of computing, which a busy machine stretches less than those of the clock.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True, env=os.environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < BUDGET_S


def test_keras_is_loaded_without_what_takes_long_and_is_not_used() -> None:
    code = """
import sys
from tlcli.cli import console
with console.loading_keras():
    import tlcli.workflows.finetune
print(*sys.modules)
import matplotlib, sklearn.metrics
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert {"tlcli.workflows.finetune", "keras", "tensorflow"} <= modules
    assert {"sklearn", "scipy.stats", "matplotlib", "pandas"} & modules == set()
