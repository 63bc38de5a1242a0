"""Problems of a recipe: pydantic's errors in the words of this program, with their places."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tlcli.errors import Problem, did_you_mean
from tlcli.recipe.draft import Draft, KeyPath, dotted, key_path
from tlcli.recipe.fields import BrokenRules
from tlcli.recipe.schema import Recipe

_MISSING = "is missing"
# Keys of earlier versions and their present names.
RENAMED = {
    "go_on": "min_relative_gain",
    "blend": "interpolate",
    "pick": "group_count",
    "recall": "reuse_results",
}


def problems_of(error: ValidationError, recipe: Draft) -> list[Problem]:
    """All problems that pydantic found in the tree of a recipe, each once, in no order.

    Args:
        error: What pydantic says.
        recipe: The recipe that it was said of.
    """
    errors = sorted(_most_precise(_each_rule(error.errors()), recipe.tree), key=_is_unlikely_meant)
    found: dict[tuple[str, str], Problem] = {}
    for details in errors:
        problem = _problem(details, recipe, _alternatives(details, errors))
        # Pydantic reports a value once per member of a union; only the first, most likely report is kept.
        is_rule = details["type"] == "value_error"
        found.setdefault((problem.where, problem.message if is_rule else ""), problem)
    # What is left of a recipe whose parent is missing says nothing of its own.
    is_whole = not recipe.is_part
    return [problem for problem in found.values() if is_whole or problem.message != _MISSING]


def _each_rule(errors: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """The errors, with one for each rule where a section broke several."""
    for details in errors:
        broken = details.get("ctx", {}).get("error")
        if isinstance(broken, BrokenRules):
            for message in broken.messages:
                yield {**details, "msg": message}
        else:
            yield details


def _problem(details: ErrorDetails, recipe: Draft, alternatives: str) -> Problem:
    """One of pydantic's errors, in the words of this program."""
    path = _path_in_tree(details["loc"], recipe.tree)
    message = details["msg"].removeprefix("Value error, ")
    if (named := re.match(r"([\w.]+): ", message)) and (*path, *key_path(named[1])) in recipe.origins:
        # The rule of a section was broken by the key that it begins with.
        path = (*path, *key_path(named[1]))
    origin = recipe.origin(path)
    # The name of an option says which key it sets; `--set` and a place in a file do not.
    where = origin if origin.startswith("--") and origin != "--set" else f"{origin} {dotted(path)}".strip()
    if named and where.endswith(named[1]):
        message = message.removeprefix(named[0])
    if details["type"] == "extra_forbidden":
        return _unknown_key(where, path)
    if details["type"] == "missing":
        return Problem(where, _MISSING)
    is_bool = details["type"] in ("bool_parsing", "bool_type")
    message = "should be true or false" if is_bool else message
    value = details["input"]
    got = "" if "(got" in message or isinstance(value, dict | list | BaseModel) else f" (got {shortened(value)})"
    if alternatives:
        before, _, words = message.partition("Input should be ")
        glue = ", " if " or " in words else " or "
        message = f"{before}Input should be {alternatives}{glue}{words}"
    return Problem(where, f"{message[:1].lower()}{message[1:]}{got}", _word_hint(details))


def _unknown_key(where: str, path: KeyPath) -> Problem:
    if new_name := RENAMED.get(str(path[-1])):
        return Problem(where, f"{path[-1]} was renamed", f"Write {new_name} instead.")
    siblings = _known_keys(path[:-1])
    hint = did_you_mean(str(path[-1]), siblings) or f"Known keys: {', '.join(siblings)}."
    return Problem(where, "unknown key", hint)


def _most_precise(errors: Iterable[ErrorDetails], tree: Any) -> list[ErrorDetails]:
    """The errors without those of a whole list that also has an error about one of its items."""
    errors = list(errors)
    paths = [_path_in_tree(details["loc"], tree) for details in errors]
    return [
        details
        for details, path in zip(errors, paths, strict=True)
        if not (isinstance(details["input"], list) and any(other[:-1] == path for other in paths))
    ]


def _alternatives(details: ErrorDetails, errors: Sequence[ErrorDetails]) -> str:
    """What a key takes besides words, such as `a number`, from the errors of the other members of its union."""
    if details["type"] != "literal_error":
        return ""
    kinds = {other["type"] for other in errors if other["loc"][:-1] == details["loc"][:-1]}
    kinds_in_words = {
        "int_parsing": "a number",
        "float_parsing": "a number",
        "string_pattern_mismatch": "a share such as 30% or 30% of parameters",
    }
    return ", ".join(dict.fromkeys(text for kind, text in kinds_in_words.items() if kind in kinds))


def _is_unlikely_meant(details: ErrorDetails) -> bool:
    """True for an error about allowed words if the value is a number, or about numbers if it is a word."""
    return isinstance(details["input"], str) != (details["type"] == "literal_error")


def shortened(value: Any) -> str:
    """A value for a message, at most 60 characters."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _word_hint(details: ErrorDetails) -> str:
    """A suggestion for a mistyped word of a fixed set, or the empty string."""
    if details["type"] != "literal_error" or not isinstance(details["input"], str):
        return ""
    expected = str(details.get("ctx", {}).get("expected", ""))
    return did_you_mean(details["input"], re.findall(r"'([^']+)'", expected))


def _path_in_tree(loc: KeyPath, tree: Any) -> KeyPath:
    """Pydantic's location without the parts that name a member of a union; the recipe does not contain those."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        is_key = isinstance(tree, dict) and isinstance(part, str) and (part in tree or index == len(loc) - 1)
        is_item = isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if is_key or is_item:
            path.append(part)
            tree = tree.get(part) if isinstance(tree, dict) else tree[part]
    return tuple(path)


def _known_keys(path: KeyPath) -> list[str]:
    """Keys of the schema in the section at a path, sorted."""
    model: Any = Recipe
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> Any:
    """The first pydantic model in a type annotation; None if it has none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = [_model_in(argument) for argument in get_args(annotation)]
    return next((model for model in models if model is not None), None)


def line_order(problem: Problem) -> tuple[str, int, int]:
    """Sort key: file, line and column as numbers."""
    match = re.match(r"(.*?):(\d+):(\d+)", problem.where)
    return (match[1], int(match[2]), int(match[3])) if match else (problem.where, 0, 0)
