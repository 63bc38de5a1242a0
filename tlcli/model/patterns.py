"""The patterns of a model card against layer names: which layers end which group."""

import re
from collections.abc import Sequence

from tlcli.errors import ModelError
from tlcli.zoo.card import GroupPattern


def last_matches(layers: Sequence[str], patterns: Sequence[GroupPattern]) -> dict[str, int]:
    """Position of the last layer of every group name; a layer counts for the first pattern it matches.

    Raises:
        ModelError: A pattern matches nothing, is no regular expression or names a capture it does not have.
    """
    compiled = [(pattern, _compiled(pattern)) for pattern in patterns]
    used: set[GroupPattern] = set()
    found: dict[str, int] = {}
    for position, layer in enumerate(layers):
        for pattern, expression in compiled:
            if match := expression.fullmatch(layer):
                used.add(pattern)
                found[_filled(pattern, match)] = position
                break
    for pattern in patterns:
        if pattern not in used:
            hint = "Patterns must match whole layer names; each layer counts for the first pattern it matches."
            raise ModelError(f"the pattern '{pattern.pattern}' matches no layer", where=pattern.name, hint=hint)
    return found


def _compiled(pattern: GroupPattern) -> re.Pattern[str]:
    try:
        return re.compile(pattern.pattern)
    except re.error as problem:
        message = f"'{pattern.pattern}' is no regular expression ({problem})"
        raise ModelError(message, where=pattern.name, hint="Correct the pattern in the model card.") from problem


def _filled(pattern: GroupPattern, match: re.Match[str]) -> str:
    """The group name with its `{1}`, `{2}` … replaced by what the pattern captured."""
    try:
        return re.sub(r"\{(\d+)\}", lambda number: match[int(number[1])], pattern.name)
    except IndexError as problem:
        hint = f"It has {match.re.groups} captures."
        raise ModelError(f"the pattern '{pattern.pattern}' lacks a capture", where=pattern.name, hint=hint) from problem
