"""Findings about duplicates, exact and near: in one class, in two classes, in two splits."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from tlcli.data import split
from tlcli.data.layout import SPLIT_NAMES
from tlcli.data.source import FolderIndex, ImageFile
from tlcli.quality import near_duplicates
from tlcli.quality.components import Components, Indices
from tlcli.quality.finding import Finding, Severity
from tlcli.quality.near_duplicates import Hashes

Progress = Callable[[int, int], None]
Pairs = list[tuple[int, int]]


def exact_duplicates(index: FolderIndex) -> Iterator[Finding]:
    """Findings about files with the same bytes."""
    conflicts = [_paths(group) for group in split.label_conflicts(index.images)]
    if conflicts:
        yield _group_finding(
            ("label_conflict", "error"),
            "the same image is in more than one class, so at least one label is wrong",
            "Keep each image in its right class only. Training uses all copies as they are.",
            conflicts,
        )
    leaks = split.leaks(index.images)
    if leaks:
        yield _group_finding(
            ("leak", "error"),
            "images have an exact copy in another split, so the scores on that split are too good",
            "Remove them from the training images. `finetune` leaves them out; other programs do not.",
            [(image.path, twin.path) for image, twin in leaks],
            paths=[image.path for image, _ in leaks],
        )
    by_folder: dict[tuple[int, str | None, str], list[ImageFile]] = defaultdict(list)
    for group in split.copies(index.images):
        for image in group:
            by_folder[image.label, image.given, image.sha256].append(image)
    copies = [_paths(group) for group in by_folder.values() if len(group) > 1]
    if copies:
        yield _group_finding(
            ("duplicate", "warning"),
            "a class holds exact copies of an image, so it counts several times",
            "Keep one of each.",
            copies,
        )


def near_duplicate_findings(
    index: FolderIndex, hashes: Mapping[str, Hashes], *, progress: Progress | None = None
) -> Iterator[Finding]:
    """Findings about images that look nearly the same but are different files.

    Args:
        index: The images.
        hashes: Content (sha256) to its hashes, for contents that have some.
        progress: Called with (images compared, images).
    """
    images = _first_of_each_content(image for image in index.images if image.sha256 in hashes)
    if len(images) < 2:
        return
    conflicts, leaks, groups = _compare(images, [hashes[image.sha256] for image in images], progress)
    if conflicts:
        yield _group_finding(
            ("near_conflict", "warning"),
            "images in different classes look nearly the same",
            "Look at them: a label may be wrong, or the classes may differ only in details.",
            [(images[one].path, images[other].path) for one, other in conflicts],
        )
    if leaks:
        pairs = [(images[earlier].path, images[later].path) for earlier, later in leaks]
        yield _group_finding(
            ("near_leak", "warning"),
            "images look nearly the same as an image of another split, so the scores on that split are too good",
            "Remove them from the training images.",
            pairs,
            paths=list(dict.fromkeys(path for path, _ in pairs)),
        )
    if groups:
        yield _group_finding(
            ("near_duplicate", "warning"),
            "images of one class look nearly the same",
            "Keep one of each group if they are copies and not different things that look alike.",
            [tuple(images[member].path for member in group) for group in groups],
        )


def _compare(
    images: Sequence[ImageFile], hashes: Sequence[Hashes], progress: Progress | None
) -> tuple[Pairs, Pairs, list[list[int]]]:
    """Indices of near images: pairs in two classes, pairs of an image and one of a later split, and groups.

    Pairs are sorted as they come; memory grows with the images, not with the pairs.
    """
    labels = np.array([image.label for image in images])
    splits = np.array([SPLIT_NAMES.index(image.given or "train") for image in images])
    conflicts, leaks, edges = _NearestImages(len(images)), _NearestImages(len(images)), Components(len(images))
    for left, right in near_duplicates.near_pairs(hashes, progress=progress):
        is_same = labels[left] == labels[right]
        conflicts.add(left[~is_same], right[~is_same])
        left, right = left[is_same], right[is_same]
        is_within = splits[left] == splits[right]
        edges.add(left[is_within], right[is_within])
        left, right = left[~is_within], right[~is_within]
        is_ordered = splits[left] < splits[right]
        leaks.add(np.where(is_ordered, left, right), np.where(is_ordered, right, left))
    groups = [group for chain in edges.groups() for group in _split_chain(chain, hashes)]
    return conflicts.pairs(), leaks.pairs(), groups


class _NearestImages:
    """For each image, the last near one that was added; -1 if none."""

    def __init__(self, count: int) -> None:
        self.other = np.full(count, -1, np.int64)

    def add(self, one: Indices, other: Indices) -> None:
        self.other[one] = other

    def pairs(self) -> Pairs:
        """Pairs of an image and the near one, sorted by the first."""
        return [(int(one), int(self.other[one])) for one in np.flatnonzero(self.other >= 0)]


def _split_chain(chain: Sequence[int], hashes: Sequence[Hashes]) -> list[list[int]]:
    """A chain of near images as groups in which every image is near the first."""
    groups: dict[int, list[int]] = defaultdict(list)
    representatives = near_duplicates.find_representatives([hashes[image] for image in chain])
    for image, representative in zip(chain, representatives, strict=True):
        groups[representative].append(image)
    return [group for group in groups.values() if len(group) > 1]


def _first_of_each_content(images: Iterable[ImageFile]) -> list[ImageFile]:
    first: dict[str, ImageFile] = {}
    for image in images:
        first.setdefault(image.sha256, image)
    return list(first.values())


def _paths(images: Iterable[ImageFile]) -> tuple[str, ...]:
    return tuple(image.path for image in images)


def _group_finding(
    kind_and_severity: tuple[str, Severity],
    message: str,
    remedy: str,
    groups: Sequence[tuple[str, ...]],
    *,
    paths: Sequence[str] | None = None,
) -> Finding:
    """A finding about groups of files. `paths` are the files that have the problem; all of the groups if None."""
    paths = paths or list(dict.fromkeys(path for group in groups for path in group))
    return Finding(*kind_and_severity, message, remedy, tuple(paths), tuple(groups))
