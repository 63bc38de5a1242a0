"""The baseline beside recipes."""

import json
from pathlib import Path

import pytest

from tlcli.errors import RecipeError
from tlcli.recipe import baseline, expectation, load

RECORD = {
    "scores": {"val": {"accuracy": 0.12345678, "confusion": [[1]], "classes": ["a"], "per_class": [{"name": "é"}]}},
    "seconds": {"total": 3.5, "prefix": 1.0},
}


def test_a_baseline_keeps_the_numbers_of_each_recipe(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yml"
    assert baseline.read(one) == {}
    assert baseline.write(two, RECORD) == baseline.write(one, RECORD) == tmp_path / "baseline.json"
    baseline.write(two, {"scores": {}, "seconds": {"total": 1}})
    kept = {"scores": {"val": {"accuracy": 0.12345678, "per_class": [{"name": "é"}]}}, "seconds": {"total": 3.5}}
    assert baseline.read(one) == kept
    assert baseline.read(two) == {"scores": {}, "seconds": {"total": 1}}
    assert list(json.loads((tmp_path / "baseline.json").read_text(encoding="utf-8"))["recipes"]) == [
        "one.yaml",
        "two.yml",
    ]
    (tmp_path / "copies").mkdir()
    for name in ("first.yaml", "second.yaml"):
        baseline.carry(one, tmp_path / "copies" / name)
        assert baseline.read(tmp_path / "copies" / "first.yaml") == kept
    baseline.carry(tmp_path / "none.yaml", tmp_path / "copies" / "third.yaml")
    assert baseline.read(tmp_path / "copies" / "third.yaml") == {}
    record = {**RECORD, "baseline": baseline.read(one)}
    (verdict,) = expectation.check(["val.accuracy >= baseline.val.accuracy"], record)
    assert verdict.passed


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"recipes": []}', '{"recipes": {"a.yaml": 3}}', "[" * 10_000, "\xff"]
)
def test_a_damaged_baseline_is_one_error_with_its_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "baseline.json").write_text(text, encoding="latin-1")
    for work in (baseline.read, lambda recipe: baseline.write(recipe, RECORD)):
        with pytest.raises(RecipeError, match=r"baseline.json: is not a baseline .* --update-baseline"):
            work(tmp_path / "a.yaml")
    assert (tmp_path / "baseline.json").read_text(encoding="latin-1") == text


def test_a_bundled_recipe_has_no_baseline() -> None:
    with pytest.raises(RecipeError, match="tlcli recipe copy full"):
        baseline.write(load.locate("full"), RECORD)
