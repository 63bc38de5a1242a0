"""What a recipe's `train:` means: from a selection text to the names of layers.

`head` · `all` · `none` · `top:K` (groups) · `top:30%` (of the trainable parameters) · `block13..top` (a range) ·
`block1[3-6]` (glob on group names) · `re:…` (regular expression on layer names). A comma joins.
"""

import fnmatch
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tlcli.errors import ModelError, did_you_mean
from tlcli.model.groups import LayerGroup, LayerGroups, listing

_FORMS = "Write head, all, none, top:3, top:30%, a group, a range such as {0}..{1}, a wildcard, or re:EXPRESSION."


@dataclass(frozen=True)
class Selection:
    """The weighted layers of a backbone that a selection makes trainable.

    Attributes:
        text: As the user wrote it.
        layers: Names of weighted backbone layers.
        head: Whether the head is trained. It is new, so every selection but `none` trains it.
    """

    text: str
    layers: frozenset[str]
    head: bool


def select(text: str, groups: LayerGroups, *, where: str = "train") -> Selection:
    """Find the layers a selection names.

    Args:
        text: The selection; see the top of this module.
        groups: Of the backbone it is for.
        where: Recipe key or option for messages.

    Raises:
        ModelError: A part of the selection is not understood or matches nothing.
    """
    parts = [part.strip() for part in _split(text)]
    if not all(parts):
        raise ModelError(f"a selection has an empty part (got '{text}')", where=where, hint=_forms(groups))
    layers = [layer for part in parts for layer in _layers(part, groups, where)]
    return Selection(text, frozenset(layers), head=any(part != "none" for part in parts))


def whole_groups(selection: Selection, groups: LayerGroups) -> tuple[str, ...]:
    """Names of the groups all of whose layers are selected, bottom to top."""
    return tuple(group.name for group in groups if _share(selection, group) == 1)


def partial_groups(selection: Selection, groups: LayerGroups) -> tuple[str, ...]:
    """Names of the groups some but not all of whose layers are selected, bottom to top."""
    return tuple(group.name for group in groups if 0 < _share(selection, group) < 1)


def _share(selection: Selection, group: LayerGroup) -> float:
    chosen = sum(layer.name in selection.layers for layer in group.layers)
    return chosen / len(group.layers) if group.layers else 0.0


def _split(text: str) -> list[str]:
    """The parts between commas; commas inside brackets of any kind or after a backslash do not count."""
    parts, opened, is_escaped = [""], "", False
    for character in text:
        if not is_escaped:
            if character == "," and not opened:
                parts.append("")
                continue
            # Inside [ ] only its end counts: [(] is a bracket in a character class.
            if character in "([{" and not opened.endswith("["):
                opened += character
            elif opened and character == {"(": ")", "[": "]", "{": "}"}[opened[-1]]:
                opened = opened[:-1]
        is_escaped = character == "\\" and not is_escaped
        parts[-1] += character
    return parts


def _layers(part: str, groups: LayerGroups, where: str) -> list[str]:
    """Layer names of one part of a selection."""
    if part in ("head", "none"):
        return []
    if part.startswith("re:"):
        return _by_expression(part.removeprefix("re:"), groups, where)
    return [layer.name for group in _groups(part, groups, where) for layer in group.layers]


def _groups(part: str, groups: LayerGroups, where: str) -> Iterable[LayerGroup]:
    if part == "all":
        return groups.groups
    if part.startswith("top:"):
        return _from_top(part.removeprefix("top:").strip(), groups, where)
    if ".." in part:
        return _range(part, groups, where)
    if any(character in part for character in "*?["):
        return _matching(part, groups, where)
    return [groups.groups[_index(part, groups, where)]]


def _from_top(amount: str, groups: LayerGroups, where: str) -> Iterable[LayerGroup]:
    if amount.endswith("%"):
        return _top_share(amount.removesuffix("%").strip(), groups, where)
    if not amount.isdecimal() or not 1 <= int(amount) <= len(groups):
        hint = (
            f"{groups.name} has {len(groups)} groups: {listing(groups.names)}. Take 1 to {len(groups)}, or a percent."
        )
        raise ModelError(f"top: takes a number from 1 to {len(groups)} (got '{amount}')", where=where, hint=hint)
    return groups.groups[-int(amount) :]


def _top_share(percent: str, groups: LayerGroups, where: str) -> Iterable[LayerGroup]:
    """Whole groups from the top until they hold the share of the backbone's trainable parameters."""
    share = _number(percent)
    if not 0 < share <= 100:
        hint = "Give a number above 0, up to 100, as in top:30%."
        raise ModelError(f"top: takes a percent of the parameters (got '{percent}%')", where=where, hint=hint)
    chosen: list[LayerGroup] = []
    for group in reversed(groups.groups):
        chosen.insert(0, group)
        if sum(member.trainable_parameters for member in chosen) * 100 >= share * groups.trainable_parameters:
            break
    return chosen


def _number(text: str) -> float:
    """The number, or not-a-number where the text is none."""
    return float(text) if re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) else math.nan


def _range(part: str, groups: LayerGroups, where: str) -> Iterable[LayerGroup]:
    lower, _, upper = (end.strip() for end in part.partition(".."))
    first, last = _index(lower, groups, where), _index(upper, groups, where)
    if first > last:
        hint = f"Ranges go from bottom to top: {upper}..{lower}."
        raise ModelError(f"the range '{part}' is upside down", where=where, hint=hint)
    return groups.groups[first : last + 1]


def _matching(pattern: str, groups: LayerGroups, where: str) -> Iterable[LayerGroup]:
    if found := [group for group in groups if fnmatch.fnmatchcase(group.name, pattern)]:
        return found
    raise ModelError(
        f"no layer group in {groups.name} matches '{pattern}'", where=where, hint=f"Groups: {listing(groups.names)}."
    )


def _index(name: str, groups: LayerGroups, where: str) -> int:
    if name in groups.names:
        return groups.names.index(name)
    hint = f"{_forms(groups)} {did_you_mean(name, [*groups.names, 'head', 'all', 'none'])}".strip()
    raise ModelError(f"no layer group '{name}' in {groups.name}", where=where, hint=hint)


def _by_expression(expression: str, groups: LayerGroups, where: str) -> list[str]:
    try:
        compiled = re.compile(expression)
    except re.error as problem:
        hint = "It is searched for in layer names; a backslash before a bracket takes it literally."
        raise ModelError(f"'{expression}' is no regular expression ({problem})", where=where, hint=hint) from problem
    if expression and (found := [layer.name for layer in groups.layers if compiled.search(layer.name)]):
        return found
    names = [layer.name for layer in groups.layers]
    hint = f"Its layers are named {names[0]}, {names[len(names) // 2]}, {names[-1]}; see: tlcli inspect --by layer"
    raise ModelError(f"no layer with weights in {groups.name} matches '{expression}'", where=where, hint=hint)


def _forms(groups: LayerGroups) -> str:
    forms = _FORMS.format(groups.names[-min(2, len(groups))], groups.names[-1])
    return f"Groups: {listing(groups.names)}. {forms}"
