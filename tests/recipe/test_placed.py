"""Errors about values and files of a recipe say where these were given."""

from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """\
name: mine
extends: unfreeze-until-plateau
data: {path: PHOTOS}
model: {name: mobilenet_synthetic}
"""


@pytest.fixture
def recipe(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in the current folder, with a manifest and without the files that the tests name."""
    monkeypatch.chdir(tmp_path)
    file = Path("w.yaml")
    file.write_text(RECIPE.replace("PHOTOS", str(photos)), encoding="utf-8")
    (tmp_path / "notes.txt").write_text("no images\n", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("synthetic, weights: none.h5}", "w.yaml:4:36 model.weights: there is no file 'HERE/none.h5'"),
        ("synthetik}", "w.yaml:4:9 model.name: there is no model 'mobilenet_synthetik'"),
        ("synthetic.keras}", "HERE/mobilenet_synthetic.keras: there is no such file (given by model.name in w.yaml:4)"),
        (
            "synthetic}\nteacher: runs/1",
            "runs/1: there is no such run, bundle or file (given by teacher.run in w.yaml:5)",
        ),
    ],
)
def test_values_and_files_of_a_recipe(written: str, message: str, tlcli: Callable, recipe: Path) -> None:
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("synthetic}", written), encoding="utf-8")
    result = tlcli("plan", "-r", recipe, "--quiet")
    assert result.code == 2
    assert message.replace("HERE", str(Path.cwd())) in result.stderr


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("path: phoos", "HERE/phoos: no such folder (given by data.path in w.yaml:3)."),
        ("path: notes.txt", "HERE/notes.txt: data.path in w.yaml:3 is a file, not a folder"),
        ("path: PHOTOS, val: nope", "HERE/nope: no such folder (given by data.val in w.yaml:3)."),
        (
            "path: PHOTOS, exclude: bad.txt",
            "HERE/bad.txt: cannot be read (No such file or directory; given by data.exclude in w.yaml:3).",
        ),
        (
            "path: PHOTOS, exclude: notes.txt",
            "HERE/notes.txt:1: there is no image 'no images' in PHOTOS, and none for any other line"
            " (given by data.exclude in w.yaml:3).",
        ),
        ("path: PHOTOS, classes: [red, gren]", "w.yaml:3:DIGITS data.classes: no class folder 'gren'"),
        ("path: PHOTOS, folds: 3}\nquality: best #", "w.yaml:3:DIGITS data.folds: folds and quality best"),
    ],
)
def test_images_of_a_recipe(data: str, message: str, tlcli: Callable, recipe: Path, photos: Path) -> None:
    text = f"name: mine\nextends: unfreeze-until-plateau\ndata: {{{data}}}\n".replace("PHOTOS", str(photos))
    recipe.write_text(text, encoding="utf-8")
    column = text.splitlines()[2].find("classes" if "classes" in data else "folds") + 1
    expected = message.replace("DIGITS", str(column)).replace("HERE", str(Path.cwd())).replace("PHOTOS", str(photos))
    result = tlcli("plan", "-r", recipe, "--quiet")
    assert result.code == 2
    assert expected in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "none.h5"], "Error: --weights: there is no file"),
        (["--set", "model.weights=none.h5"], "Error: --set model.weights: there is no file"),
        (["phoos"], "phoos: no such folder (given as DATA)"),
        (["--exclude", "bad.txt"], "bad.txt: cannot be read (No such file or directory; given by --exclude)"),
        (["--set", "data.exclude=bad.txt"], "No such file or directory; given by --set data.exclude)"),
        (["--weights", "none.h5", "--model", "auto"], "not the network. Name the network that it belongs to,"),
        (["--model", "nope"], "Error: --model: there is no model 'nope'"),
        (["--size", "8", "8"], "Error: --size: mobilenet_synthetic takes at least"),
        (
            ["--set", "phases=[{name: a, policy: gradual}]", "--set", "data.val=0"],
            "Error: --set phases[0].policy: policy",
        ),
    ],
)
def test_the_command_line(words: list[str], message: str, tlcli: Callable, recipe: Path) -> None:
    result = tlcli("plan", "-r", recipe, *words, "--quiet")
    assert result.code == 2
    assert message in result.stderr


def test_each_of_several_recipes_is_named(tlcli: Callable, recipe: Path) -> None:
    recipe.write_text("name: w\nextends: head-only\nmodel: {weights: none.h5}\n", encoding="utf-8")
    Path("v.yaml").write_text("name: v\nextends: head-only\ndata: {path: phoos}\n", encoding="utf-8")
    lines = tlcli("recipe", "run", "w.yaml", "v.yaml", "--dry-run").stdout.splitlines()[3:]
    assert lines[0].startswith("w.yaml: DATA: no image folder given.")
    assert lines[1].startswith(f"v.yaml: {Path.cwd() / 'phoos'}: no such folder (given by data.path in v.yaml:3)")
