"""`tlcli recipe run`: several recipes, reports, baselines."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

RECIPE = """\
name: head
data: {size: [32, 32], val: 0.2, test: 0.2}
model: {name: mobilenet_synthetic}
phases: [{name: head, train: head, init: probe, epochs: 0}]
report: false
expect:
  - val.accuracy >= 0.1 and test.per_class["red"].recall >= 0
"""
UNMET = "val.accuracy + 1 < baseline.val.accuracy"
TEN_MISTAKES = """\
recipe: 2
name: mine
seeed: 3
data: {val: 1.5, resize: cropp}
head: {dropout: -1}
optimizer: {name: adamm}
phases:
  - {name: a, trian: head}
  - {name: b, policy: gradual, epochs: 2.5}
performance: {budget: 10}
expect: [val.accuracy >= 90%]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder of recipes."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "good.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_one_recipe_that_fails_does_not_stop_the_others(
    folder: Path, photos: Path, draw: Callable, tlcli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also: the bundled recipe for CI meets what it expects."""
    (folder / "recipes" / "good.yaml").unlink()
    # Its images are too few, which only reading them shows.
    draw(folder / "few", count=1)
    (folder / "recipes" / "few.yml").write_text(
        f"name: few\nextends: head-only\ndata: {{classes: [red, blue], exclude: {folder}/list.txt}}\n", "utf-8"
    )
    names = [f"{name}/{number:02}.bmp" for name in ("red", "blue") for number in range(1, 10)]
    (folder / "list.txt").write_text("\n".join(names), encoding="utf-8")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    words = ["--jobs", 2, "--junit", "out/junit.xml", "--out", "runs/ci", "--json"]
    result = tlcli("recipe", "run", "recipes", "ci-smoke", "--data", photos, *words)
    assert result.code == 2
    assert result.document["exit_code"] == 2
    failed, good = result.document["recipes"]
    assert (good["recipe"], good["status"], good["run"]) == ("ci-smoke", "passed", "runs/ci/ci-smoke")
    assert [verdict["passed"] for verdict in good["expectations"]] == [True] * 3
    assert (folder / "runs" / "ci" / "ci-smoke" / "model.keras").is_file()
    assert (failed["recipe"], failed["status"], failed["run"]) == ("recipes/few.yml", "invalid", None)
    assert result.stderr.count("::error file=recipes/few.yml,title=tlcli recipes/few.yml::") == 1
    assert "2 of 2: " in result.stderr
    root = ET.parse(folder / "out" / "junit.xml").getroot()
    assert (root.get("tests"), root.get("errors"), root.get("failures")) == ("5", "1", "0")
    assert "| ci-smoke | ✅ passed |" in (folder / "summary.md").read_text(encoding="utf-8")


def test_nothing_is_trained_if_one_recipe_is_wrong(
    folder: Path, photos: Path, tlcli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "recipes" / "wrong.yml").write_text("name: wrong\nsed: 1\nphases: [{name: a, train: head}]\n", "utf-8")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    words = ["recipe", "run", "recipes", "--data", photos, "--junit", "junit.xml"]
    result = tlcli(*words, "--json")
    assert result.code == 2
    good, wrong = result.document["recipes"]
    assert (good["status"], wrong["status"], wrong["run"]) == ("ready", "invalid", None)
    assert wrong["error"]["problems"][0]["where"] == "recipes/wrong.yml:2:1 sed"
    assert "::error file=recipes/wrong.yml,line=2,col=1,title=tlcli recipes/wrong.yml::unknown key. " in result.stderr
    assert result.stderr.count("::error") == 1
    assert result.stderr.startswith("nothing was trained: 1 of 2 recipes cannot run\n")
    assert ET.parse("junit.xml").getroot().get("errors") == "1"
    assert not (folder / "runs").exists()
    table = tlcli(*words)
    assert (table.stdout + table.stderr).count("recipes/wrong.yml:2:1 sed: unknown key.") == 1


def test_a_baseline_is_written_compared_with_and_recorded(folder: Path, photos: Path, tlcli: Callable) -> None:
    recipe = folder / "recipes" / "good.yaml"
    recipe.write_text(RECIPE + f"  - {UNMET}\n", encoding="utf-8")
    run = ["recipe", "run", recipe, photos, "--quiet"]
    missing = tlcli(*run)
    assert (missing.code, missing.stdout) == (2, "")
    assert f"{UNMET!r} compares with the baseline" in missing.stderr
    assert "--update-baseline" in missing.stderr
    written = tlcli(*run, "--update-baseline", "--out", "first")
    assert (written.code, written.stderr.splitlines()[-1]) == (
        0,
        f"baseline of {recipe} written to {recipe.parent / 'baseline.json'}",
    )
    result = tlcli(*run, "--out", "second", "--junit", "junit.xml")
    assert result.code == 3
    record = json.loads((folder / "second" / "run.json").read_text(encoding="utf-8"))
    assert record["baseline"]["scores"]["val"]["accuracy"] == record["scores"]["val"]["accuracy"]
    assert [verdict["passed"] for verdict in record["expectations"]] == [True, False]
    accuracy = f"{record['scores']['val']['accuracy']:.6g}"
    reason = f"val.accuracy is {accuracy}, baseline.val.accuracy is {accuracy}"
    assert f"not met  {UNMET}  ({reason})" in result.stdout
    (failure,) = ET.parse(folder / "junit.xml").getroot().iter("failure")
    assert failure.get("message") == reason
    # The recipe of a run finds the baseline that the run was compared with.
    again = tlcli("recipe", "run", "second/recipe.yaml", photos, "--dry-run", "--json")
    assert (again.code, again.document["recipes"][0]["status"]) == (0, "ready")


def test_a_dry_run_trains_nothing(folder: Path, photos: Path, tlcli: Callable) -> None:
    (folder / "recipes" / "other.yaml").write_text("extends: good.yaml\ndata: {path: gone}\n", encoding="utf-8")
    result = tlcli("recipe", "run", "recipes", "ci-smoke", "--dry-run", "--set", f"data.exclude={folder / 'no.csv'}")
    assert result.code == 2
    assert [line.split()[1] for line in result.stdout.splitlines()[1:4]] == ["invalid"] * 3
    result = tlcli("recipe", "run", "recipes", "ci-smoke", "--dry-run", "--data", photos)
    assert result.code == 0
    assert [line.split()[1] for line in result.stdout.splitlines()[1:]] == ["ready"] * 3
    assert not (folder / "runs").exists()
    wrong = tlcli("recipe", "run", "recipes/good.yaml", photos, "--dry-run", "--set", "phases.0.train=block99")
    assert wrong.code == 2
    assert "--set phases[0].train: no layer group 'block99'" in " ".join(wrong.stdout.split())


def test_files_that_cannot_be_written_hide_no_result(
    folder: Path, photos: Path, tlcli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder))
    result = tlcli("recipe", "run", "recipes", "ci-smoke", "--dry-run", "--data", photos)
    assert (result.code, result.stdout.count("ready")) == (0, 2)
    assert f"warning: the summary of the job is not written: {folder}: Is a directory" in result.stderr


def test_all_mistakes_of_a_recipe_are_one_report(
    folder: Path, tlcli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.yaml").write_text(TEN_MISTAKES, encoding="utf-8")
    result = tlcli("recipe", "validate", "mine.yaml")
    first, *lines = result.stderr.splitlines()
    assert (result.code, result.stdout, first) == (2, "", "Error: 10 problems")
    assert [line.partition(": ")[0] for line in lines] == [
        "mine.yaml:1:1 recipe",
        "mine.yaml:3:1 seeed",
        "mine.yaml:4:8 data.val",
        "mine.yaml:4:18 data.resize",
        "mine.yaml:5:8 head.dropout",
        "mine.yaml:6:13 optimizer.name",
        "mine.yaml:8:15 phases[0].trian",
        "mine.yaml:9:32 phases[1].epochs",
        "mine.yaml:10:15 performance.budget",
        "mine.yaml:11:10 expect[0]",
    ]
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert tlcli("recipe", "validate", "mine.yaml").stderr.count("::error file=mine.yaml,line=") == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipes/good.yaml", "{photos}", "--data", "{photos}"], "has no recipes"),
        (["full", "head-only", "--update-baseline"], "a bundled recipe has no baseline"),
        (["recipes", "--junit", "recipes"], "recipes: is a folder, not a file"),
        (["recipes/good.yaml", "{photos}", "--junit", "recipes/good.yaml/j.xml"], "cannot be written to"),
        (["{photos}"], "has no recipes"),
        (["recipes/good.yaml"], "no image folder given"),
        (["recipes", "--jobs", "0"], "0 is not in the range"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_command_lines_are_one_error(
    words: list[str], message: str, folder: Path, photos: Path, tlcli: Callable
) -> None:
    result = tlcli("recipe", "run", *(word.replace("{photos}", str(photos)) for word in words), "--quiet")
    assert result.code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
