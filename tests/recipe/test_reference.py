"""The JSON Schema and the page of all keys: up to date, complete, and of one mind with the program."""

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tlcli.errors import RecipeError
from tlcli.recipe import load, reference
from tlcli.recipe.draft import Draft

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipe-keys.md"
MINIMAL: dict[str, Any] = {"recipe": 1, "name": "x", "phases": [{"name": "head", "train": "head"}]}
VALIDATOR = jsonschema.Draft202012Validator(reference.json_schema())


def is_valid(tree: object) -> bool:
    """True if the schema, as editors read it, has no objection."""
    return bool(VALIDATOR.is_valid(tree))


def test_schema_and_page_are_up_to_date() -> None:
    schema = json.dumps(reference.json_schema(), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("RENEW_GOLDEN"):
        reference.schema_file().write_text(schema, encoding="utf-8")
        PAGE.write_text(reference.page(), encoding="utf-8")
    renew = "RENEW_GOLDEN=1 .venv/bin/pytest tests/recipe/test_reference.py"
    assert reference.schema_file().read_text(encoding="utf-8") == schema, renew
    assert PAGE.read_text(encoding="utf-8") == reference.page(), renew


def test_every_key_is_described_once() -> None:
    schema = reference.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for section in (schema, *schema["$defs"].values()):
        for name, key in section["properties"].items():
            assert re.fullmatch(r"\S.*[.)]", key["description"]), name
        # An entry below `Attributes:` for a key that is not there, or a docstring that was not parsed, would stay.
        assert "Attributes:" not in section["description"]
    assert sum(len(section["properties"]) for section in (schema, *schema["$defs"].values())) > 70


@pytest.mark.parametrize("name", load.names())
def test_the_schema_accepts_every_bundled_recipe(name: str) -> None:
    assert is_valid(yaml.safe_load(load.locate(name).read_text(encoding="utf-8")))
    assert is_valid(yaml.safe_load(load.render(load.load(name))))


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({"seed": -1}, False),
        ({"seeed": 1}, False),
        ({"name": 3}, False),
        ({"quality": "finest"}, False),
        ({"phases": []}, False),
        ({"phases": [{"train": "head"}]}, False),
        ({"data": {"size": "auto"}}, True),
        ({"data": {"size": [64, 64]}}, True),
        ({"data": {"size": [64]}}, False),
        ({"data": {"size": [64, 0]}}, False),
        ({"data": {"classes": [1, "b"]}}, True),
        ({"data": {"val": "folder"}}, True),
        ({"data": {"val": 1.0}}, False),
        ({"performance": {"budget": "10m"}}, True),
        ({"performance": {"budget": "0s"}}, False),
        ({"performance": {"cache": "off"}}, True),
        ({"head": {"hidden": [{"units": 0}]}}, False),
        ({"augment": {"views": "live"}}, True),
        ({"augment": {"views": 65}}, False),
        ({"expect": "val.accuracy > 1"}, False),
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_program_refuses(change: dict[str, Any], valid: bool) -> None:
    tree = MINIMAL | change
    assert is_valid(tree) is valid
    try:
        load.check(Draft(json.loads(json.dumps(tree))))
    except RecipeError:
        assert not valid
    else:
        assert valid


def test_a_recipe_that_extends_another_needs_no_phases() -> None:
    assert is_valid({"extends": "full", "seed": 2})
    assert not is_valid({"seed": 2})
