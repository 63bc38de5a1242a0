"""Which recipes and images a command line names."""

from pathlib import Path

import pytest

from tlcli.errors import RecipeError
from tlcli.recipe import files


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recipes, and one with images of two classes."""
    for name in ("recipes/b.yml", "recipes/a.yaml", "recipes/baseline.json", "photos/x/1.jpg", "photos/y/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("name: x\nexpect: [val.loss < 1, ' val.loss < 2 ', 3]\n", encoding="utf-8")
    (tmp_path / "recipes" / "c.yaml").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_its_recipes_in_the_order_of_their_names(place: Path) -> None:
    assert files.find(["full", "recipes", "recipes/a.yaml", "no"]) == ["full", "recipes/a.yaml", "recipes/b.yml", "no"]


def test_a_folder_without_recipes_is_an_error(place: Path) -> None:
    with pytest.raises(RecipeError, match="photos: has no recipes"):
        files.find(["photos"])


@pytest.mark.parametrize(
    ("words", "recipes", "data"),
    [
        (["recipes/a.yaml", "photos"], 1, "photos"),
        (["recipes/a.yaml", "m.csv"], 1, "m.csv"),
        (["recipes", "full", "photos"], 2, "photos"),
        (["recipes/a.yaml", "recipes"], 2, None),
        (["full", "head-only"], 2, None),
        (["full", "gone.yaml"], 2, None),
        (["photos"], 1, None),
        (["full", "head-onli"], 2, None),
    ],
)
def test_the_last_word_may_name_images(words: list[str], recipes: int, data: str | None, place: Path) -> None:
    assert files.split_data(words) == (words[:recipes], data)
    assert files.split_data(words, has_data=True) == (words, None)


def test_expectations_are_found_where_they_are_written(place: Path) -> None:
    places = files.expectations_in("recipes/a.yaml")
    assert places == {"val.loss < 1": "recipes/a.yaml:2:10", "val.loss < 2": "recipes/a.yaml:2:24"}
    assert files.expectations_in("no") == {}
