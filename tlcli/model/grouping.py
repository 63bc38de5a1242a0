"""Divide a network into layer groups, by the patterns of its card or by its cut points."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from tlcli.errors import ModelError
from tlcli.model.cut_points import LayerGraph, cut_points, find_second_output
from tlcli.model.groups import Layer, LayerGroup, LayerGroups
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


@dataclass(frozen=True)
class Stretch:
    """What lies between one frontier and the next.

    Attributes:
        parameters: Numbers in the weights of its layers.
        merges: Whether paths ran in parallel in it: its end is the output of a block.
        shrinks: Whether height or width is smaller at its end than at its start.
    """

    parameters: int
    merges: bool
    shrinks: bool


def choose_boundaries(stretches: Sequence[Stretch], *, fewest: int, most: int) -> list[int]:
    """Positions of the stretches that end a group, ascending; the last stretch always does.

    Block outputs and pools end a group; where nothing merges, so does what comes before a layer with a stride. Then
    neighbours are joined, smallest first, down to `most` groups, and the largest are halved up to `fewest`.
    """
    ends = _with_weights(stretches, _natural_ends(stretches))
    while len(ends) > most:
        ends.remove(_least_worth(stretches, ends))
    while len(ends) < fewest and (middle := _best_split(stretches, ends)) is not None:
        ends = sorted([*ends, middle])
    return ends


def _natural_ends(stretches: Sequence[Stretch]) -> list[int]:
    is_chain = not any(stretch.merges for stretch in stretches)
    ends = {len(stretches) - 1}
    for position, stretch in enumerate(stretches):
        if stretch.merges or (stretch.shrinks and not stretch.parameters):
            ends.add(position)
        elif stretch.shrinks and is_chain and position:
            ends.add(position - 1)
    return sorted(ends)


def _with_weights(stretches: Sequence[Stretch], ends: Sequence[int]) -> list[int]:
    """The ends of groups that have weights; what has none joins the group above, or below at the very top."""
    kept, start = [], 0
    for end in ends:
        if _weight(stretches, start, end):
            kept.append(end)
            start = end + 1
    if len(kept) > 1 and _weight(stretches, kept[-2] + 1, len(stretches)) < 0.01 * _weight(stretches, 0, kept[-2]):
        # A last normalisation alone is nothing to train first.
        del kept[-2]
    return [*kept[:-1], len(stretches) - 1]


def _least_worth(stretches: Sequence[Stretch], ends: Sequence[int]) -> int:
    """The end whose removal makes the smallest joint group."""
    starts = [0, *(end + 1 for end in ends)]
    return min(ends[:-1], key=lambda end: _weight(stretches, starts[ends.index(end)], ends[ends.index(end) + 1]))


def _best_split(stretches: Sequence[Stretch], ends: Sequence[int]) -> int | None:
    """Where to halve the largest group that can be halved into two with weights."""
    spans = [(start, end) for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]
    for start, end in sorted(spans, key=lambda span: -_weight(stretches, *span)):
        total = _weight(stretches, start, end)
        below = {middle: _weight(stretches, start, middle) for middle in range(start, end)}
        possible = [middle for middle, weight in below.items() if 0 < weight < total]
        if possible:
            # Of equal halves the higher: layers without weights stay with what they follow.
            return max(possible, key=lambda middle: (-abs(2 * below[middle] - total), middle))
    return None


def _weight(stretches: Sequence[Stretch], start: int, end: int) -> int:
    return sum(stretch.parameters for stretch in stretches[start : end + 1])


FEWEST, MOST = 4, 30
"""How many groups a network without patterns of its own should get, where it allows."""

Boundary = tuple[str, str]
"""Group name and the layer whose output ends the group."""


def assign(
    graph: LayerGraph, patterns: Sequence[GroupPattern], *, name: str, input_size: tuple[int, int]
) -> LayerGroups:
    """Cut a network into layer groups.

    A layer belongs to the first pattern it matches; the last layer of a group name in topological order ends the
    group. Where that is no frontier the boundary moves up to the next one, if there is one before the next group
    ends; else training is cut there if only one other output is read above. Every weighted layer is in the first group
    whose boundary depends on it. The last group ends at the output;
    weighted layers that no pattern covers up there become a group `top`. Without patterns, groups come from the
    cut_points alone.

    Raises:
        ModelError: A pattern matches nothing or is no regular expression, or a group would have no weights.
    """
    cuts = cut_points(graph)
    boundaries = _from_patterns(graph, patterns, cuts) if patterns else _from_cut_points(graph, cuts)
    groups, taken = [], set[str]()
    for group, boundary in boundaries:
        members = graph.upstream(boundary, stop=taken)
        taken |= members
        found = _group(graph, (group, boundary), members, is_cut_point=boundary in cuts)
        second = None if found.is_cut_point else find_second_output(graph, boundary, taken)
        groups.append(replace(found, is_cut_point=True, second_output=second) if second else found)
    return LayerGroups(name, input_size, tuple(groups))


def _group(graph: LayerGraph, boundary: Boundary, members: Collection[str], *, is_cut_point: bool) -> LayerGroup:
    inside = tuple(replace(layer, inputs=()) for layer in graph.layers if layer.name in members)
    return LayerGroup(
        name=boundary[0],
        layers=tuple(layer for layer in inside if layer.is_weighted),
        boundary=boundary[1],
        is_cut_point=is_cut_point,
        output_shape=graph[boundary[1]].output_shape,
        flops=sum(layer.flops for layer in inside),
        members=inside,
    )


def _from_patterns(graph: LayerGraph, patterns: Sequence[GroupPattern], cuts: Sequence[str]) -> list[Boundary]:
    names = [layer.name for layer in graph.layers]
    found = sorted(last_matches(names, patterns).items(), key=lambda item: item[1])
    limits = [position for _, position in found[1:]] + [len(graph.layers)]
    positions = sorted(graph.index[cut] for cut in cuts)
    boundaries = []
    for (group, position), limit in zip(found, limits, strict=True):
        onward = next((cut for cut in positions if position <= cut < limit), position)
        boundaries.append((group, graph.layers[onward].name))
    *below, (last, boundary) = boundaries
    above = {layer.name for layer in graph.layers if layer.is_weighted} - graph.upstream(boundary)
    if above and last != "top":
        return [*boundaries, ("top", graph.output)]
    return [*below, (last, graph.output)]


def _from_cut_points(graph: LayerGraph, cuts: Sequence[str]) -> list[Boundary]:
    ends = [*cuts, graph.output] if graph.output not in cuts else cuts
    taken: set[str] = set()
    stretches = []
    for below, end in zip([None, *ends], ends, strict=False):
        members = graph.upstream(end, stop=taken)
        taken |= members
        stretches.append(
            Stretch(
                parameters=sum(graph[member].parameters for member in members),
                merges=below is not None and graph[end].inputs != (below,),
                shrinks=below is not None and _area(graph[end]) < _area(graph[below]),
            )
        )
    chosen = [ends[position] for position in choose_boundaries(stretches, fewest=FEWEST, most=MOST)]
    names = ["stem", *(f"block{number}" for number in range(1, len(chosen) - 1)), "top"]
    return list(zip(names[-len(chosen) :], chosen, strict=True))


def _area(layer: Layer) -> float:
    """Positions of its output; infinite where it is no map or the network leaves its size open."""
    sizes = layer.output_shape[:-1]
    return math.prod(size or math.inf for size in sizes) if len(sizes) > 1 else math.inf
