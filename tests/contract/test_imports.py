"""Imports of the commands: help loads no large package, and commands without training load no Keras."""

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

# Runs the command line, then prints exit code and loaded modules on the last line of stderr.
PROBE = """
import json, sys
from tlcli.cli.main import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as exited:
    sys.stdout.flush()
    print(json.dumps({"code": exited.code or 0, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


def loaded(*words: object, code: int = 0) -> set[str]:
    """The modules that a command loads. The command must end with exit code `code`."""
    command = [sys.executable, "-c", PROBE, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    report = json.loads(done.stderr.splitlines()[-1])
    assert report["code"] == code, done.stderr
    return set(report["modules"])


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
def test_inspect_zoo_and_recipe_load_no_keras(words: list[str]) -> None:
    assert set(NETWORKS) & loaded(*words) == set()


def test_plan_loads_no_keras(photos: Path) -> None:
    modules = loaded("plan", photos)
    assert set(NETWORKS) & modules == set()
    assert "PIL" in modules, "the probe detects loaded modules"


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
def test_mistakes_are_reported_before_keras_loads(words: list[str]) -> None:
    assert set(NETWORKS) & loaded(*words, code=2) == set()


def test_check_loads_no_keras(photos: Path) -> None:
    modules = loaded("check", photos)
    assert set(NETWORKS) & modules == set()
    assert "tlcli" in modules, "the probe detects loaded modules"


def test_doctor_loads_keras() -> None:
    assert "keras" in loaded("doctor"), "the probe detects loaded modules"


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_are_fast(word: str) -> None:
    command = [str(Path(sys.executable).with_name("tlcli")), word]
    seconds = []
    for _ in range(5):
        # CPU time depends less on the load of the machine than elapsed time.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True, env=os.environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < BUDGET_S


def test_keras_loads_without_slow_packages_that_are_not_used() -> None:
    code = """
import sys
from tlcli.cli import console
with console.loading_keras():
    import tlcli.workflows.finetune
print(*sys.modules)
import matplotlib, sklearn.metrics
"""
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    modules = set(done.stdout.split())
    assert {"tlcli.workflows.finetune", "keras", "tensorflow"} <= modules
    assert {"sklearn", "scipy.stats", "matplotlib", "pandas", "jax"} & modules == set()
