"""`tlcli recipe`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tlcli.paths import bundled
from tlcli.recipe import load

NAMES = load.names()


def test_list_shows_names_and_descriptions(tlcli: Callable) -> None:
    result = tlcli("recipe", "list")
    assert (result.code, result.stderr) == (0, "")
    heading, *lines = result.stdout.splitlines()
    assert heading.split() == ["recipe", "description"]
    assert [line.split()[0] for line in lines] == NAMES
    rows = tlcli("recipe", "list", "--json").document
    assert [row["name"] for row in rows] == NAMES
    for line, row in zip(lines, rows, strict=True):
        assert row["description"] in line


@pytest.mark.parametrize("name", NAMES)
def test_show_prints_the_file_unchanged(name: str, tlcli: Callable) -> None:
    assert tlcli("recipe", "show", name).stdout == (bundled("recipes") / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_rendered_recipe_loads_as_the_same_recipe(name: str, tlcli: Callable, tmp_path: Path) -> None:
    result = tlcli("recipe", "render", name, "--set", "seed=7")
    path = tmp_path / "rendered.yaml"
    path.write_text(result.stdout, encoding="utf-8")
    assert load.load(str(path)) == load.load(name, settings=["seed=7"])
    assert yaml.safe_load(result.stdout)["performance"]["batch"] == load.load(name).performance.batch
    assert tlcli("recipe", "render", path).stdout == result.stdout


def test_validate_confirms_every_valid_recipe(tlcli: Callable) -> None:
    result = tlcli("recipe", "validate", *NAMES)
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [f"{name}: ok" for name in NAMES]


def test_validate_continues_after_an_invalid_recipe(tlcli: Callable, tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("name: a\nphases: []\n", encoding="utf-8")
    second.write_text("name: b\nsed: 1\nphases: [{name: x, train: head}]\n", encoding="utf-8")
    result = tlcli("recipe", "validate", first, "full", second)
    assert tlcli("recipe", "validate", "full", tmp_path).stderr == result.stderr
    assert result.code == 2
    assert result.stdout == "full: ok\n"
    assert f"{first}:2:1 phases" in result.stderr
    assert f"{second}:2:1 sed: unknown key. Did you mean 'seed'?" in result.stderr


@pytest.mark.parametrize(
    ("target", "copied"), [(None, "full.yaml"), ("mine.yaml", "mine.yaml"), ("sub", "sub/full.yaml")]
)
def test_copy_writes_the_same_recipe(
    target: str | None, copied: str, tlcli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    result = tlcli("recipe", "copy", "full", *([target] if target else []))
    assert (result.code, result.stdout) == (0, f"{copied}\n")
    assert (tmp_path / copied).read_bytes() == (bundled("recipes") / "full.yaml").read_bytes()
    assert load.load(copied) == load.load("full")
