"""action.yml and .pre-commit-hooks.yaml: their steps and hooks do what they say."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
ACTION = yaml.safe_load((CHECKOUT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "name" in step}
(HOOK,) = yaml.safe_load((CHECKOUT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run_step(name: str, home: Path, **inputs: str) -> "subprocess.CompletedProcess[str]":
    """Run a step as GitHub does: its script in a file, by bash that stops at errors, inputs in variables."""
    known = {key: value.get("default", "") for key, value in ACTION["inputs"].items()}
    values = known | {key.replace("_", "-"): value for key, value in inputs.items()}
    expressions = {f"inputs.{key}": value for key, value in values.items()} | {"github.action_path": str(CHECKOUT)}
    variables = {
        key: re.sub(r"\$\{\{ *(.*?) *\}\}", lambda match: expressions[match[1]], text)
        for key, text in STEPS[name]["env"].items()
    }
    script = home / "step.sh"
    script.write_text(STEPS[name]["run"], encoding="utf-8")
    files = {"GITHUB_OUTPUT": str(home / "output"), "GITHUB_STEP_SUMMARY": str(home / "summary.md")}
    environment = ENVIRONMENT | variables | files | {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(home)}
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    return subprocess.run(shell, cwd=home, env=environment, capture_output=True, text=True, check=False)


def test_every_input_is_used_and_only_by_variables() -> None:
    """An input inside a script would be a program of whoever sets it."""
    text = (CHECKOUT / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    assert not any("${{" in step["run"] for step in STEPS.values())
    assert all(step["shell"] == "bash" for step in STEPS.values())
    assert list(STEPS) == ["Install", "Run"]


def test_the_run_step_reports_and_ends_with_the_code_of_tlcli(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "my recipes").mkdir()
    (tmp_path / "my recipes" / "a b.yaml").write_text("extends: head-only\nsed: 1\n", encoding="utf-8")
    inputs = {"data": str(photos), "junit": "j.xml", "jobs": "2", "dry_run": "True"}
    done = run_step("Run", tmp_path, recipes="  my recipes \n\thead-only\r\n \n", **inputs)
    assert done.returncode == 2, done.stderr
    assert (tmp_path / "output").read_text(encoding="utf-8") == "exit-code=2\n"
    assert "::error file=my recipes/a b.yaml,line=2,col=1," in done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[1:3]] == ["my recipes/a b.yaml", "head-only"]
    assert "❌ invalid" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert (tmp_path / "j.xml").is_file()
    done = run_step("Run", tmp_path, recipes="head-only", data="$(touch pwned)", dry_run="true")
    assert done.returncode == 2
    assert not (tmp_path / "pwned").exists()


def test_the_install_step_installs_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = run_step("Install", tmp_path)
    assert (there.returncode, there.stdout.split()[0]) == (0, "tlcli"), there.stderr
    package = tmp_path / "my package"
    (package / "hello").mkdir(parents=True)
    (package / "hello" / "__init__.py").touch()
    project = '[build-system]\nrequires=["hatchling"]\nbuild-backend="hatchling.build"\n[project]\nname="hello"\n'
    (package / "pyproject.toml").write_text(project + 'version="1"\n', encoding="utf-8")
    for name, value in {"NO_INDEX": "1", "NO_BUILD_ISOLATION": "0", "TARGET": str(tmp_path / "site")}.items():
        monkeypatch.setitem(ENVIRONMENT, f"PIP_{name}", value)
    installed = run_step("Install", tmp_path, install=str(package))
    assert installed.returncode == 0, installed.stderr
    assert (tmp_path / "site" / "hello" / "__init__.py").is_file()


def run_hook(*files: Path) -> "subprocess.CompletedProcess[str]":
    """Run the hook as pre-commit does: its entry, then the names of files."""
    words: list[Any] = [*shlex.split(HOOK["entry"]), *files]
    return subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_the_hook_finds_the_mistakes_of_all_files(tmp_path: Path) -> None:
    recipes = sorted((CHECKOUT / "recipes").glob("*.yaml"))
    assert run_hook(*recipes).returncode == 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("extends: full\nname: x\nseeed: 1\nexpect: [val.acc > 1]\n", encoding="utf-8")
    done = run_hook(recipes[0], wrong)
    assert done.returncode == 2
    assert [line.partition(" ")[0] for line in done.stderr.splitlines()[1:]] == [
        f"{wrong}:3:1",
        f"{wrong}:4:10",
    ]


@pytest.mark.parametrize(
    ("path", "matches"),
    [
        ("recipes/a.yaml", True),
        ("x/recipes/a.yml", True),
        ("recipes/sub/a.yaml", False),
        ("myrecipes/a.yaml", False),
        ("recipes/baseline.json", False),
    ],
)
def test_the_hook_takes_the_files_of_recipe_folders(path: str, matches: bool) -> None:
    assert bool(re.search(HOOK["files"], path)) is matches
