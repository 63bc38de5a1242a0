"""Where a network without patterns of its own falls into blocks, seen from its frontiers alone."""

from collections.abc import Sequence
from dataclasses import dataclass


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


def choose(stretches: Sequence[Stretch], *, fewest: int, most: int) -> list[int]:
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
