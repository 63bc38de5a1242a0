"""What a recipe may hold, for editors and readers: the JSON Schema, and the page of all keys made from it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tlcli.paths import bundled
from tlcli.recipe.schema import Recipe

FILE = "recipe.schema.json"
PAGE = """# Recipe keys

Every key of a recipe. [Recipes](recipes.md) explains how they work together. `tlcli recipe schema` prints the same as
a JSON Schema for editors. This page is generated from the schema, by
`RENEW_GOLDEN=1 .venv/bin/pytest tests/recipe/test_reference.py`.
"""
_BOUNDS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
_KINDS = {"number": "number", "integer": "whole number", "string": "text", "object": "keys and values"}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, draft 2020-12. Names and phases may also come from the recipe it `extends`."""
    schema = Recipe.model_json_schema()
    required = schema.pop("required")
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "tlcli recipe"}
    return dialect | schema | {"anyOf": [{"required": required}, {"required": ["extends"]}]}


def schema_file() -> Path:
    """The file of the JSON Schema that is installed with tlcli."""
    return bundled("recipes") / FILE


def page() -> str:
    """The page of all keys, in Markdown: a table per section, in the order of the schema."""
    schema = json_schema()
    return PAGE + "".join(_section("", schema, schema["$defs"]))


def _section(name: str, section: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    """The table of a section, and those of the sections in it. The name is a dotted path, empty at the top."""
    yield f"\n## {name or 'Top level'}\n\n{section['description']}\n\n"
    yield "| key | default | takes | means |\n|---|---|---|---|\n"
    nested: list[tuple[str, str]] = []
    for key, value in section["properties"].items():
        if reference := _reference(value):
            nested.append((f"{name}.{key}".lstrip("."), reference))
        cells = (f"`{key}`", _default(key, value, section), _takes(value), value["description"])
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    for path, reference in nested:
        yield from _section(path, definitions[reference], definitions)


def _reference(value: Mapping[str, Any]) -> str:
    """The name of the section that a key holds, alone, in a list or beside other values; empty for a plain value."""
    holders = [value, value.get("items", {}), *value.get("anyOf", ())]
    return next((holder["$ref"] for holder in holders if "$ref" in holder), "").rpartition("/")[2]


def _default(key: str, value: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    """The default of a key as YAML, or a dash if there is none."""
    required = section.get("required", section.get("anyOf", [{}])[0].get("required", []))
    if key in required:
        return "required"
    if value.get("type") == "array":
        return "[]"
    if value.get("type") == "object":
        return "{}"
    default = value.get("default")
    words = {None: "–", "": "–", True: "true", False: "false"}
    known = default is None or isinstance(default, bool) or default == ""
    return words[default] if known else f"{default:g}" if isinstance(default, float) else str(default)


def _options(value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The members of a union and of the unions in it, without null."""
    for option in value["anyOf"]:
        if "anyOf" in option:
            yield from _options(option)
        elif option.get("type") != "null":
            yield option


def _takes(value: Mapping[str, Any]) -> str:
    """The values that a key takes, in words such as `number from 0 below 1`."""
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_takes(option) for option in _options(value)))
    if "$ref" in value:
        return "keys and values"
    if "const" in value or "enum" in value:
        return ", ".join(f"`{word}`" for word in value.get("enum", [value.get("const")]))
    if value["type"] == "array":
        return f"list of {_takes(value['items']).replace(' or ', ' / ')}"
    if value["type"] == "boolean":
        return "`true`, `false`"
    if value.get("format") == "path":
        return "path"
    bounds = [words.format(value[name]) for name, words in _BOUNDS.items() if name in value]
    kind = "text" if isinstance(value["type"], list) else _KINDS[value["type"]]
    return " ".join([kind, *bounds])
