"""Selections: the meaning of `train:` in a recipe, from its text to the names of layers.

`head` · `all` · `none` · `top:K` (groups) · `top:30%` (of the trainable parameters) · `block13..top` (a range) ·
`block1[3-6]` (a wildcard on group names) · `re:…` (a regular expression on layer names). Commas separate parts; a
selection is the union of its parts.
"""

import fnmatch
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tlcli.errors import ModelError, did_you_mean
from tlcli.model.layer_groups import LayerGroup, LayerGroups, shorten_names
from tlcli.recipe import selection_text

_FORMS = "Write head, all, none, top:3, top:30%, a group, a range such as {0}..{1}, a wildcard, or re:EXPRESSION."


@dataclass(frozen=True)
class Selection:
    """The layers that a selection makes trainable.

    Attributes:
        text: The selection as the user wrote it.
        layers: Names of the selected weighted backbone layers.
        trains_head: True if the head is trained. It is new, so every selection but `none` trains it.
    """

    text: str
    layers: frozenset[str]
    trains_head: bool


def select(text: str, groups: LayerGroups, *, where: str = "train") -> Selection:
    """Find the layers that a selection names.

    Args:
        text: The selection; see the docstring of this module.
        groups: Layer groups of the backbone.
        where: Recipe key or option, for error messages.

    Raises:
        ModelError: A part of the selection is invalid or matches nothing.
    """
    parts = selection_text.parts(text)
    resolver = _Resolver(groups, where)
    if not all(parts):
        raise resolver.error(f"a selection has an empty part (got '{text}')", resolver.allowed_forms)
    layers = [layer for part in parts for layer in resolver.layers(part)]
    return Selection(text, frozenset(layers), trains_head=any(part != "none" for part in parts))


@dataclass(frozen=True)
class _Resolver:
    """Resolves the parts of a selection.

    Attributes:
        groups: Layer groups of the backbone.
        where: Recipe key or option, for error messages.
    """

    groups: LayerGroups
    where: str

    def layers(self, part: str) -> list[str]:
        """Names of the layers of one part."""
        if part in ("head", "none"):
            return []
        if part.startswith("re:"):
            return self._matching_layers(part.removeprefix("re:"))
        return [layer.name for group in self._part_groups(part) for layer in group.layers]

    def _part_groups(self, part: str) -> Sequence[LayerGroup]:
        if part == "all":
            return self.groups.groups
        if part.startswith("top:"):
            return self._top(part.removeprefix("top:").strip())
        if ".." in part:
            return self._range(part)
        if any(character in part for character in "*?["):
            return self._matching_groups(part)
        return [self.groups.groups[self._index(part)]]

    def _top(self, amount: str) -> Sequence[LayerGroup]:
        if amount.endswith("%"):
            return self._top_percent(amount.removesuffix("%").strip())
        count = len(self.groups)
        if not amount.isdecimal() or not 1 <= int(amount) <= count:
            hint = (
                f"{self.groups.name} has {count} groups: {shorten_names(self.groups.names)}. "
                f"Take 1 to {count}, or a percentage."
            )
            raise self.error(f"top: takes a number from 1 to {count} (got '{amount}')", hint)
        return self.groups.groups[-int(amount) :]

    def _top_percent(self, text: str) -> Sequence[LayerGroup]:
        """Whole groups from the top until they hold this percentage of the backbone's trainable parameters."""
        percent = _number(text)
        if not 0 < percent <= 100:
            hint = "Give a number above 0, up to 100, as in top:30%."
            raise self.error(f"top: takes a percentage of the parameters (got '{text}%')", hint)
        chosen: list[LayerGroup] = []
        for group in reversed(self.groups.groups):
            chosen.insert(0, group)
            trainable = sum(member.trainable_parameters for member in chosen)
            if trainable * 100 >= percent * self.groups.trainable_parameters:
                break
        return chosen

    def _range(self, part: str) -> Sequence[LayerGroup]:
        lower, _, upper = (end.strip() for end in part.partition(".."))
        first, last = self._index(lower), self._index(upper)
        if first > last:
            raise self.error(f"the range '{part}' is reversed", f"Ranges go from bottom to top: {upper}..{lower}.")
        return self.groups.groups[first : last + 1]

    def _matching_groups(self, pattern: str) -> Sequence[LayerGroup]:
        if matches := [group for group in self.groups if fnmatch.fnmatchcase(group.name, pattern)]:
            return matches
        raise self.error(
            f"no layer group in {self.groups.name} matches '{pattern}'",
            f"Groups: {shorten_names(self.groups.names)}.",
        )

    def _index(self, name: str) -> int:
        if name in self.groups.names:
            return self.groups.names.index(name)
        suggestion = did_you_mean(name, [*self.groups.names, "head", "all", "none"])
        hint = f"{self.allowed_forms} {suggestion}".strip()
        raise self.error(f"no layer group '{name}' in {self.groups.name}", hint)

    def _matching_layers(self, expression: str) -> list[str]:
        try:
            compiled = re.compile(expression)
        except re.error as problem:
            hint = "It is searched for in layer names; a backslash makes a bracket literal."
            raise self.error(f"'{expression}' is not a regular expression ({problem})", hint) from problem
        names = [layer.name for layer in self.groups.layers]
        if expression and (matches := [name for name in names if compiled.search(name)]):
            return matches
        hint = f"Layer names: {names[0]}, {names[len(names) // 2]}, {names[-1]}; for all: tlcli inspect --by layer"
        raise self.error(f"no layer with weights in {self.groups.name} matches '{expression}'", hint)

    @property
    def allowed_forms(self) -> str:
        """The groups, and what a part may look like."""
        forms = _FORMS.format(self.groups.names[-min(2, len(self.groups))], self.groups.names[-1])
        return f"Groups: {shorten_names(self.groups.names)}. {forms}"

    def error(self, message: str, hint: str) -> ModelError:
        """An error at the recipe key or option of the selection."""
        return ModelError(message, where=self.where, hint=hint)


def _number(text: str) -> float:
    """The number; NaN if the text is not one."""
    return float(text) if re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) else math.nan
