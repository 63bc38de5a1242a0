"""`tlcli recipe`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tlcli.paths import bundled
from tlcli.recipe import load

NAMES = load.names()


def test_list_names_what_there_is(tlcli: Callable) -> None:
    said = tlcli("recipe", "list")
    assert (said.code, said.stderr) == (0, "")
    head, *lines = said.stdout.splitlines()
    assert head.split() == ["recipe", "what", "it", "does"]
    assert [line.split()[0] for line in lines] == NAMES
    rows = tlcli("recipe", "list", "--json").document
    assert [row["name"] for row in rows] == NAMES
    for line, row in zip(lines, rows, strict=True):
        assert row["description"] in line


@pytest.mark.parametrize("name", NAMES)
def test_show_prints_the_file_as_it_is(name: str, tlcli: Callable) -> None:
    assert tlcli("recipe", "show", name).stdout == (bundled("recipes") / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_rendered_is_the_same_recipe_again(name: str, tlcli: Callable, tmp_path: Path) -> None:
    said = tlcli("recipe", "render", name, "--set", "seed=7")
    path = tmp_path / "rendered.yaml"
    path.write_text(said.stdout, encoding="utf-8")
    assert load.load(str(path)) == load.load(name, settings=["seed=7"])
    assert yaml.safe_load(said.stdout)["performance"]["batch"] == load.load(name).performance.batch
    assert tlcli("recipe", "render", path).stdout == said.stdout


def test_validate_says_ok_for_each(tlcli: Callable) -> None:
    said = tlcli("recipe", "validate", *NAMES)
    assert (said.code, said.stderr) == (0, "")
    assert said.stdout.splitlines() == [f"{name}: ok" for name in NAMES]


def test_validate_goes_on_after_a_wrong_one(tlcli: Callable, tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("name: a\nphases: []\n", encoding="utf-8")
    second.write_text("name: b\nsed: 1\nphases: [{name: x, train: head}]\n", encoding="utf-8")
    said = tlcli("recipe", "validate", first, "full", second)
    assert said.code == 2
    assert said.stdout == "full: ok\n"
    assert f"{first}:2:1 phases" in said.stderr
    assert f"{second}:2:1 sed: unknown key. Did you mean 'seed'?" in said.stderr


@pytest.mark.parametrize(
    ("target", "made"), [(None, "full.yaml"), ("mine.yaml", "mine.yaml"), ("sub", "sub/full.yaml")]
)
def test_copy(target: str | None, made: str, tlcli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    said = tlcli("recipe", "copy", "full", *([target] if target else []))
    assert (said.code, said.stdout) == (0, f"{made}\n")
    assert (tmp_path / made).read_bytes() == (bundled("recipes") / "full.yaml").read_bytes()
    assert load.load(made) == load.load("full")
