"""Unchecked recipes: the plain tree of a YAML text, and the place where each of its keys was written."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from tlcli.errors import Problem, RecipeError
from tlcli.recipe import yaml_text

KeyPath = tuple[str | int, ...]


@dataclass
class Draft:
    """An unchecked recipe.

    Attributes:
        tree: Its plain values.
        origins: The place where each of its keys was written.
        problems: What was found wrong while it was read. The check of its values reports them too.
        is_part: True if the recipe that it extends could not be read.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    is_part: bool = False

    def origin(self, path: KeyPath) -> str:
        """The place of a key, or of the nearest key above it that was written.

        For a section with a key from `--set`, it is that `--set`: most likely it broke the rule of the section.
        """
        below = (origin for key, origin in self.origins.items() if key[: len(path)] == path and len(key) > len(path))
        if path and (option := next((origin for origin in below if origin.startswith("--set")), None)):
            return option
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return "recipe"


def read_draft(text: str, origin: str) -> Draft:
    """Read YAML text with keys and values, unchecked; messages call the text `origin`.

    Raises:
        RecipeError: If it is not YAML, or not keys and values.
    """
    try:
        node, tree = yaml_text.read(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{origin}:{mark.line + 1}:{mark.column + 1}" if mark else origin
        raise RecipeError([Problem(where, f"is not valid YAML ({error.problem or error})")]) from error
    except yaml.YAMLError as error:
        raise RecipeError([Problem(origin, f"is not valid YAML ({error})")]) from error
    if not isinstance(tree, dict) or node is None:
        raise RecipeError([Problem(origin, "is empty or has other content: the top level must be keys and values")])
    origins: dict[KeyPath, str] = {(): origin}
    duplicates = list(_record_origins(node, (), origin, origins))
    return Draft(tree, origins, duplicates)


def _record_origins(node: yaml.Node, path: KeyPath, origin: str, origins: dict[KeyPath, str]) -> Iterator[Problem]:
    """Fill `origins` with the place of each key below a node; yield a problem for each duplicate key."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            place = f"{origin}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            if below in origins:
                yield Problem(f"{place} {dotted(below)}", "duplicate key", "Keep one of the two.")
            origins[below] = place
            yield from _record_origins(value, below, origin, origins)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            below = (*path, index)
            origins[below] = f"{origin}:{value.start_mark.line + 1}:{value.start_mark.column + 1}"
            yield from _record_origins(value, below, origin, origins)


def key_path(key: str) -> KeyPath:
    """`phases[1].until.patience` or `phases.1.until.patience` as a path."""
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    return tuple(int(part) if part.isdigit() else part for part in parts)


def dotted(path: KeyPath) -> str:
    """A path in the form of the command line.

    >>> dotted(("phases", 1, "epochs"))
    'phases[1].epochs'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
