"""Stratified split: how many images of each class go to val and test, and which.

Images that belong together form a unit and share a split. Units are ranked by a position that follows from their
content alone. The first units go to test, the next to val, the rest to train, as long as they fit into the number of
images that each of their classes gives to the split.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Quota = dict[int, int]
"""Number of images by label."""


@dataclass(frozen=True)
class Unit:
    """Images that share a split.

    Attributes:
        position: Its rank, 0-1; the lowest go to test.
        contents: The sha256 of its images, sorted.
        counts: Number of its images by label; copies count.
    """

    position: float
    contents: tuple[str, ...]
    counts: Mapping[int, int]


def assign(units: Sequence[Unit], *, val: float, test: float) -> dict[str, str]:
    """Content (sha256) to `train`, `val` or `test`.

    Every class of two units keeps one in train and, if `val` is above 0, has one in val. Every class of three units
    also has one in test if `test` is above 0, unless units of several classes prevent it.

    Args:
        units: Every image is in exactly one.
        val: Fraction 0-1 for validation; 0 turns it off.
        test: Fraction 0-1 for testing; 0 turns it off.
    """
    ranked = sorted(units, key=lambda unit: (unit.position, unit.contents))
    split_of = dict.fromkeys((unit.contents for unit in ranked), "train")
    quotas = _quotas(ranked, val=val, test=test)
    for split in ("test", "val"):
        left = dict(quotas[split])
        for unit in ranked:
            is_free = split_of[unit.contents] == "train"
            if is_free and all(left[label] >= count for label, count in unit.counts.items()):
                split_of[unit.contents] = split
                for label, count in unit.counts.items():
                    left[label] -= count
    for split, sources in (("val", ("train", "test")), ("test", ("train",))):
        for label, count in sorted(quotas[split].items()):
            if count:
                _fill_if_empty(ranked, split_of, label, split, sources)
    return {sha: split for contents, split in split_of.items() for sha in contents}


def assign_folds(units: Sequence[Unit], folds: int) -> dict[str, int]:
    """Content (sha256) to its fold, from 0. Every class is spread evenly over the folds, as far as its units allow.

    Large units are placed first, each where its classes are rarest, and of equal folds in the smallest.

    Ref: the greedy assignment of scikit-learn's StratifiedGroupKFold.
    """
    counts: list[Counter[int]] = [Counter() for _ in range(folds)]
    fold_of: dict[str, int] = {}
    for unit in sorted(units, key=lambda unit: (-sum(unit.counts.values()), unit.position, unit.contents)):
        own = [(sum(count[label] for label in unit.counts), count.total(), fold) for fold, count in enumerate(counts)]
        fold = min(own)[2]
        counts[fold].update(unit.counts)
        fold_of |= dict.fromkeys(unit.contents, fold)
    return fold_of


def _fill_if_empty(
    units: Sequence[Unit], split_of: dict[tuple[str, ...], str], label: int, split: str, sources: Sequence[str]
) -> None:
    """Give a class without images in a split its smallest unit from the first source that can spare one.

    Needed if all units of a class are larger than its quota. Train spares a unit if all its classes keep another one.
    """
    own = [unit for unit in units if label in unit.counts]
    if any(split_of[unit.contents] == split for unit in own):
        return
    in_train = Counter(other for unit in units if split_of[unit.contents] == "train" for other in unit.counts)
    for source in sources:
        spare = [
            unit
            for unit in own
            if split_of[unit.contents] == source
            and (source != "train" or all(in_train[other] > 1 for other in unit.counts))
        ]
        if spare:
            smallest = min(spare, key=lambda unit: (sum(unit.counts.values()), unit.position, unit.contents))
            split_of[smallest.contents] = split
            return


def _quotas(ranked: Sequence[Unit], *, val: float, test: float) -> dict[str, Quota]:
    """Number of images of each class for val and test."""
    sizes: Counter[int] = Counter()
    units: Counter[int] = Counter()
    first: dict[int, int] = {}
    for rank, unit in enumerate(ranked):
        sizes.update(unit.counts)
        units.update(unit.counts.keys())
        for label in unit.counts:
            first.setdefault(label, rank)
    least_val = {label: int(val > 0 and count >= 2) for label, count in units.items()}
    least_test = {label: int(test > 0 and count >= 3) for label, count in units.items()}
    # Train keeps an image of every class.
    tests = _share(sizes, test, first, least_test, {label: sizes[label] - 1 - least_val[label] for label in sizes})
    vals = _share(sizes, val, first, least_val, {label: sizes[label] - 1 - tests[label] for label in sizes})
    return {"val": vals, "test": tests}


def _share(sizes: Quota, fraction: float, first: Quota, least: Quota, most: Quota) -> Quota:
    """A fraction of every class, in whole images, by the largest-remainder method of Hamilton.

    The sum is the fraction of all images, rounded, unless the limits prevent it. Of equal remainders the class whose
    first unit ranks lowest wins, so that names hardly matter.
    """
    exact = {label: round(fraction * size, 9) for label, size in sizes.items()}
    quota = {label: min(max(math.floor(exact[label]), least[label]), most[label]) for label in sizes}
    missing = math.floor(round(fraction * sum(sizes.values()), 9) + 0.5) - sum(quota.values())
    open_classes = [label for label in sizes if quota[label] < min(exact[label], most[label])]
    open_classes.sort(key=lambda label: (quota[label] - exact[label], first[label], label))
    for label in open_classes[: max(missing, 0)]:
        quota[label] += 1
    return quota
