"""Errors of pydantic and of YAML files in the words of this program, with the line of each."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic_core import ErrorDetails

from tlcli.recipe import yaml_text

# Kinds of errors of pydantic by what the value must be. `{}` takes a value of their context.
_KINDS: Mapping[str, str] = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be keys and values",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "model_attributes_type": "must be keys and values",
    "model_type": "must be keys and values",
    "string_pattern_mismatch": "must have another form",
    "string_type": "must be text",
    "too_short": "must have at least {min_length}",
    "tuple_type": "must be a list",
}
_LONGEST = 60


def problem(details: ErrorDetails, lines: Mapping[tuple[str | int, ...], int] | None = None) -> str:
    """One of pydantic's errors as `line 3, key: what is wrong (got value)`.

    Args:
        details: The error.
        lines: The lines of the keys, from `lines_of`; None if the values are not from a file.
    """
    path = details["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    at = next((lines[path[:end]] for end in range(len(path), 0, -1) if lines and path[:end] in lines), None)
    where = ", ".join([*([] if at is None else [f"line {at}"]), *([key] if key else [])])
    return f"{where}: {_message(details)}".removeprefix(": ")


def lines_of(text: str) -> dict[tuple[str | int, ...], int]:
    """The line of every key and list entry of a YAML text, by its path; empty if the text is not valid."""
    try:
        node, _ = yaml_text.read(text)
    except yaml.YAMLError:
        return {}
    lines: dict[tuple[str | int, ...], int] = {}
    _collect(node, (), lines)
    return lines


def _collect(node: Any, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> None:
    # An alias may hold its own parent.
    if len(path) > 20:
        return
    entries: Sequence[tuple[str | int, Any, Any]] = []
    if isinstance(node, yaml.MappingNode):
        entries = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        entries = [(number, value, value) for number, value in enumerate(node.value)]
    for name, place, value in entries:
        lines[*path, name] = place.start_mark.line + 1
        _collect(value, (*path, name), lines)


def _message(details: ErrorDetails) -> str:
    if details["type"] == "extra_forbidden":
        return "unknown key"
    if details["type"] == "missing":
        return "is missing"
    value = details["input"]
    got = "" if isinstance(value, dict | list) else f" (got {str(value)[:_LONGEST]!r})"
    known = _KINDS.get(details["type"])
    if known is not None:
        return known.format_map(details.get("ctx", {})) + got
    message = details["msg"].removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}{got}"
