"""Findings about duplicates, exact and near: in one class, in two classes, in two splits."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tlcli.data import split
from tlcli.data.source import FolderIndex, ImageFile
from tlcli.quality import finding, near_duplicates
from tlcli.quality.finding import Finding
from tlcli.quality.near_duplicates import Hashes

# Edges of near pairs kept before they are boiled down to who hangs together with whom.
_EDGES = 2_000_000

Progress = Callable[[int, int], None]
Labels = npt.NDArray[np.int64]


def exact_duplicates(index: FolderIndex) -> Iterator[Finding]:
    """Files with the same bytes."""
    conflicts = [_paths(same) for same in split.contradictory(index.images)]
    if conflicts:
        yield _grouped(
            ("label_conflict", "error"),
            "copies of one image under different classes: at least one label is wrong",
            "Keep each in the class where it belongs; training uses all of them as they are.",
            conflicts,
        )
    leaks = split.leaking(index.images)
    if leaks:
        yield _grouped(
            ("leak", "error"),
            "images whose exact copy is in another split: scores on it are too good",
            "Remove them from the training images; `finetune` leaves those out, other programs do not.",
            [(image.path, twin.path) for image, twin in leaks],
            concerned=[image.path for image, _ in leaks],
        )
    by_place: dict[tuple[int, str | None, str], list[ImageFile]] = defaultdict(list)
    for same in split.by_content(index.images):
        for image in same:
            by_place[image.label, image.given, image.sha256].append(image)
    copies = [_paths(same) for same in by_place.values() if len(same) > 1]
    if copies:
        yield _grouped(
            ("duplicate", "warning"),
            "exact copies in one class: each counts several times",
            "Keep one of each.",
            copies,
        )


def near_duplicate_findings(
    index: FolderIndex, hashes: Mapping[str, Hashes], *, progress: Progress | None = None
) -> Iterator[Finding]:
    """Pictures that look nearly the same but are not the same file. `hashes` are those of contents (sha256)."""
    images = _one_each(image for image in index.images if image.sha256 in hashes)
    if len(images) < 2:
        return
    found = _compared(images, [hashes[image.sha256] for image in images], progress)
    conflicts = [(images[one].path, images[other].path) for one, other in found.conflicts]
    if conflicts:
        yield _grouped(
            ("near_conflict", "warning"),
            "images under different classes that look nearly the same",
            "Look at them: one label may be wrong, or only small things tell these classes apart.",
            conflicts,
        )
    leaks = [(images[one].path, images[other].path) for one, other in found.leaks]
    if leaks:
        yield _grouped(
            ("near_leak", "warning"),
            "images that look nearly the same as one of another split: scores on it are too good",
            "Remove them from the training images.",
            leaks,
            concerned=list(dict.fromkeys(one for one, _ in leaks)),
        )
    groups = [tuple(images[each].path for each in group) for group in found.groups]
    if groups:
        others = "; splitting by content may put them into train and test" if not index.given_splits else ""
        yield _grouped(
            ("near_duplicate", "warning"),
            f"images of one class that look nearly the same{others}",
            "Keep one of each, if they are copies and not different things that look alike.",
            groups,
        )


@dataclass(frozen=True)
class _Near:
    """Near images as indices: pairs under two classes, pairs of an image and one of a later split, and groups."""

    conflicts: list[tuple[int, int]]
    leaks: list[tuple[int, int]]
    groups: list[list[int]]


def _compared(images: Sequence[ImageFile], hashes: Sequence[Hashes], progress: Progress | None) -> _Near:
    """Sort near pairs as they come; what is kept of them grows with the images, not with the pairs."""
    labels = np.array([image.label for image in images])
    splits = np.array([("train", "val", "test").index(image.given or "train") for image in images])
    conflicts, leaks, edges = _Nearest(len(images)), _Nearest(len(images)), _Clusters(len(images))
    for left, right in near_duplicates.pairs(hashes, progress=progress):
        is_same = labels[left] == labels[right]
        conflicts.add(left[~is_same], right[~is_same])
        left, right = left[is_same], right[is_same]
        is_within = splits[left] == splits[right]
        edges.add(left[is_within], right[is_within])
        left, right = left[~is_within], right[~is_within]
        is_first = splits[left] < splits[right]
        leaks.add(np.where(is_first, left, right), np.where(is_first, right, left))
    groups = [group for found in edges.groups() for group in _stars(found, hashes)]
    return _Near(conflicts.pairs(), leaks.pairs(), groups)


class _Nearest:
    """For each image one that is near it."""

    def __init__(self, count: int) -> None:
        self.other = np.full(count, -1, np.int64)

    def add(self, one: Labels, other: Labels) -> None:
        self.other[one] = other

    def pairs(self) -> list[tuple[int, int]]:
        """Sorted by the first of each."""
        return [(int(one), int(self.other[one])) for one in np.flatnonzero(self.other >= 0)]


class _Clusters:
    """Which images hang together by near pairs."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.left: list[Labels] = []
        self.right: list[Labels] = []

    def add(self, left: Labels, right: Labels) -> None:
        self.left.append(left)
        self.right.append(right)
        if sum(map(len, self.left)) > _EDGES:
            labels = self._labels()
            first = np.unique(labels, return_index=True)[1]
            self.left, self.right = [np.arange(self.count)], [first[labels]]

    def groups(self) -> list[list[int]]:
        """Those with more than one image, each sorted."""
        found: dict[int, list[int]] = defaultdict(list)
        for image, label in enumerate(self._labels()):
            found[int(label)].append(image)
        return [group for group in found.values() if len(group) > 1]

    def _labels(self) -> Labels:
        left = np.concatenate([np.zeros(0, np.int64), *self.left])
        right = np.concatenate([np.zeros(0, np.int64), *self.right])
        graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(self.count, self.count))
        return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _stars(group: Sequence[int], hashes: Sequence[Hashes]) -> list[list[int]]:
    """A chain of near images as groups in which all are near the first."""
    found: dict[int, list[int]] = defaultdict(list)
    for image, leader in zip(group, near_duplicates.stars([hashes[image] for image in group]), strict=True):
        found[leader].append(image)
    return [star for star in found.values() if len(star) > 1]


def _one_each(images: Iterable[ImageFile]) -> list[ImageFile]:
    """The first file of each content."""
    first: dict[str, ImageFile] = {}
    for image in images:
        first.setdefault(image.sha256, image)
    return list(first.values())


def _paths(same: Iterable[ImageFile]) -> tuple[str, ...]:
    return tuple(image.path for image in same)


def _grouped(
    sort: tuple[str, finding.Severity],
    message: str,
    remedy: str,
    groups: Sequence[tuple[str, ...]],
    *,
    concerned: Sequence[str] | None = None,
) -> Finding:
    """A finding about files that belong together; `concerned` where it is not all of them."""
    paths = concerned or list(dict.fromkeys(path for group in groups for path in group))
    return Finding(*sort, message, remedy, tuple(paths), tuple(groups))
