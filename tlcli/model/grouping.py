"""Dividing a network into layer groups, by the patterns of its card or by its cut points."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from tlcli.errors import ModelError
from tlcli.model.cut_points import LayerGraph, find_cut_points, find_second_output
from tlcli.model.layer_groups import Layer, LayerGroup, LayerGroups
from tlcli.zoo.card import GroupPattern

# The number of groups for a network without patterns of its own, if its layers allow.
MIN_GROUPS, MAX_GROUPS = 4, 30

Boundary = tuple[str, str]
"""Group name, and name of the layer whose output ends the group."""


def assign(
    graph: LayerGraph, patterns: Sequence[GroupPattern], *, name: str, input_size: tuple[int, int]
) -> LayerGroups:
    """Divide a network into layer groups.

    With patterns, a layer belongs to the first pattern it matches, and the last layer of each group name in topological
    order ends its group. If that layer is not a cut point, the boundary moves up to the next cut point below the end of
    the next group. If there is none, the boundary stays, and the network can be cut there only if a single other output
    is read above. Weighted layers above the last pattern become a group `top`.

    Without patterns, the groups follow from the cut points alone.

    Every weighted layer belongs to the first group whose boundary depends on it. The last group ends at the output.

    Args:
        graph: The network.
        patterns: Group patterns of its card, bottom to top.
        name: Name of the network.
        input_size: Height and width, pixels, of the measured graph.

    Raises:
        ModelError: A pattern matches no layer, is not a regular expression or refers to a missing capture group.
    """
    cut_points = find_cut_points(graph)
    if patterns:
        boundaries = _boundaries_from_patterns(graph, patterns, cut_points)
    else:
        boundaries = _boundaries_from_cut_points(graph, cut_points)
    groups, assigned = [], set[str]()
    for group_name, boundary in boundaries:
        members = graph.upstream(boundary, stop=assigned)
        assigned |= members
        group = _build_group(graph, (group_name, boundary), members, is_cut_point=boundary in cut_points)
        second = None if group.is_cut_point else find_second_output(graph, boundary, assigned)
        groups.append(replace(group, is_cut_point=True, second_output=second) if second else group)
    return LayerGroups(name, input_size, tuple(groups))


def _build_group(graph: LayerGraph, boundary: Boundary, members: Collection[str], *, is_cut_point: bool) -> LayerGroup:
    layers = tuple(replace(layer, inputs=()) for layer in graph.layers if layer.name in members)
    return LayerGroup(
        name=boundary[0],
        layers=tuple(layer for layer in layers if layer.is_weighted),
        boundary=boundary[1],
        is_cut_point=is_cut_point,
        output_shape=graph[boundary[1]].output_shape,
        flops=sum(layer.flops for layer in layers),
        members=layers,
    )


def _boundaries_from_patterns(
    graph: LayerGraph, patterns: Sequence[GroupPattern], cut_points: Sequence[str]
) -> list[Boundary]:
    names = [layer.name for layer in graph.layers]
    ends = sorted(last_matches(names, patterns).items(), key=lambda item: item[1])
    limits = [position for _, position in ends[1:]] + [len(graph.layers)]
    cut_positions = sorted(graph.index[cut_point] for cut_point in cut_points)
    boundaries = []
    for (group, position), limit in zip(ends, limits, strict=True):
        moved = next((cut for cut in cut_positions if position <= cut < limit), position)
        boundaries.append((group, graph.layers[moved].name))
    *below, (last, boundary) = boundaries
    above = {layer.name for layer in graph.layers if layer.is_weighted} - graph.upstream(boundary)
    if above and last != "top":
        return [*boundaries, ("top", graph.output)]
    return [*below, (last, graph.output)]


def last_matches(layers: Sequence[str], patterns: Sequence[GroupPattern]) -> dict[str, int]:
    """Position of the last layer of each group name; a layer belongs to the first pattern it matches.

    Raises:
        ModelError: A pattern matches no layer, is not a regular expression or refers to a missing capture group.
    """
    compiled = [(pattern, _compile(pattern)) for pattern in patterns]
    used: set[GroupPattern] = set()
    positions: dict[str, int] = {}
    for position, layer in enumerate(layers):
        for pattern, expression in compiled:
            if match := expression.fullmatch(layer):
                used.add(pattern)
                positions[_group_name(pattern, match)] = position
                break
    for pattern in patterns:
        if pattern not in used:
            hint = "A pattern must match whole layer names; a layer belongs to the first pattern it matches."
            raise ModelError(f"the pattern '{pattern.pattern}' matches no layer", where=pattern.name, hint=hint)
    return positions


def _compile(pattern: GroupPattern) -> re.Pattern[str]:
    try:
        return re.compile(pattern.pattern)
    except re.error as problem:
        message = f"the pattern '{pattern.pattern}' is not a regular expression ({problem})"
        raise ModelError(message, where=pattern.name, hint="Correct the pattern in the model card.") from problem


def _group_name(pattern: GroupPattern, match: re.Match[str]) -> str:
    """The group name with `{1}`, `{2}` … replaced by the capture groups of the pattern."""
    try:
        return re.sub(r"\{(\d+)\}", lambda number: match[int(number[1])], pattern.name)
    except IndexError as problem:
        message = f"the pattern '{pattern.pattern}' has too few capture groups (got {match.re.groups})"
        raise ModelError(message, where=pattern.name, hint="Correct the pattern in the model card.") from problem


@dataclass(frozen=True)
class Segment:
    """The layers between one cut point and the next.

    Attributes:
        parameters: Number of values in the weights of its layers.
        merges: True if it has parallel paths, so that its end is the output of a block.
        shrinks: True if height or width is smaller at its end than at its start.
    """

    parameters: int
    merges: bool
    shrinks: bool


def _boundaries_from_cut_points(graph: LayerGraph, cut_points: Sequence[str]) -> list[Boundary]:
    ends = [*cut_points, graph.output] if graph.output not in cut_points else cut_points
    assigned: set[str] = set()
    segments = []
    for below, end in zip([None, *ends], ends, strict=False):
        members = graph.upstream(end, stop=assigned)
        assigned |= members
        segments.append(
            Segment(
                parameters=sum(graph[member].parameters for member in members),
                merges=below is not None and graph[end].inputs != (below,),
                shrinks=below is not None and _area(graph[end]) < _area(graph[below]),
            )
        )
    chosen = [ends[position] for position in choose_boundaries(segments)]
    names = ["stem", *(f"block{number}" for number in range(1, len(chosen) - 1)), "top"]
    return list(zip(names[-len(chosen) :], chosen, strict=True))


def _area(layer: Layer) -> float:
    """Number of positions of the output; infinite if the output is not a feature map or has an open size."""
    sizes = layer.output_shape[:-1]
    return math.prod(size or math.inf for size in sizes) if len(sizes) > 1 else math.inf


def choose_boundaries(segments: Sequence[Segment]) -> list[int]:
    """Positions of the segments that end a group, ascending; the last segment always ends one.

    Groups end at block outputs and pooling layers; in a network without parallel paths also before layers with a
    stride. Then neighbouring groups are merged, smallest first, down to `MAX_GROUPS`, and the largest groups are halved
    up to `MIN_GROUPS`.
    """
    ends = _drop_unweighted(segments, _natural_ends(segments))
    while len(ends) > MAX_GROUPS:
        ends.remove(_smallest_merge(segments, ends))
    while len(ends) < MIN_GROUPS and (middle := _best_split(segments, ends)) is not None:
        ends = sorted([*ends, middle])
    return ends


def _natural_ends(segments: Sequence[Segment]) -> list[int]:
    is_chain = not any(segment.merges for segment in segments)
    ends = {len(segments) - 1}
    for position, segment in enumerate(segments):
        if segment.merges or (segment.shrinks and not segment.parameters):
            ends.add(position)
        elif segment.shrinks and is_chain and position:
            ends.add(position - 1)
    return sorted(ends)


def _drop_unweighted(segments: Sequence[Segment], ends: Sequence[int]) -> list[int]:
    """The ends of groups with weights; a group without weights joins the group above, or below at the very top."""
    kept, start = [], 0
    for end in ends:
        if _parameters(segments, start, end):
            kept.append(end)
            start = end + 1
    if len(kept) > 1:
        last, rest = _parameters(segments, kept[-2] + 1, len(segments)), _parameters(segments, 0, kept[-2])
        if last < 0.01 * rest:
            # A final normalisation alone is not worth a group of its own.
            del kept[-2]
    return [*kept[:-1], len(segments) - 1]


def _smallest_merge(segments: Sequence[Segment], ends: Sequence[int]) -> int:
    """The end whose removal creates the smallest merged group."""
    starts = [0, *(end + 1 for end in ends)]
    return min(ends[:-1], key=lambda end: _parameters(segments, starts[ends.index(end)], ends[ends.index(end) + 1]))


def _best_split(segments: Sequence[Segment], ends: Sequence[int]) -> int | None:
    """The end that halves the largest group that has weights in both halves; None if no group has."""
    spans = [(start, end) for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]
    for start, end in sorted(spans, key=lambda span: -_parameters(segments, *span)):
        total = _parameters(segments, start, end)
        below = {middle: _parameters(segments, start, middle) for middle in range(start, end)}
        possible = [middle for middle, parameters in below.items() if 0 < parameters < total]
        if possible:
            # The highest of equal splits: layers without weights stay with the layers they follow.
            return max(possible, key=lambda middle: (-abs(2 * below[middle] - total), middle))
    return None


def _parameters(segments: Sequence[Segment], start: int, end: int) -> int:
    return sum(segment.parameters for segment in segments[start : end + 1])
