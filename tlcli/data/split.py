"""Split of the images into train, val and test: stratified by class, and decided by content.

Within each class, images are ranked by a hash of their content. The first go to test, the next to val, the rest to
train (`strata`). The split needs no seed and does not depend on names or order. Added images move only images next to a
border.

Copies of one content stay together, across classes too. So do the images of a group, and near-duplicates of one class,
if the caller names them.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tlcli.data import strata
from tlcli.data.layout import SPLIT_NAMES
from tlcli.data.source import FolderIndex, ImageFile
from tlcli.data.strata import Unit
from tlcli.errors import DataError
from tlcli.text import plural

# Names or paths listed in a message.
_MAX_LISTED = 5
# Units that a class needs for train, val and test.
_FEWEST_UNITS = 3
_LATER_SPLITS = {"train": ("val", "test"), "val": ("test",), "test": ()}


@dataclass(frozen=True)
class Splits:
    """The images of train, val and test, each sorted by path.

    Attributes:
        train: Images to learn from.
        val: Images that decide when to stop; empty if validation is turned off.
        test: Images that are only scored; may be empty.
        dropped: Images of given folders left out because a given val or test folder holds the same content.
        warnings: Sentences for the user.
        classes: Class names in the order of the labels.
        folds: Fold of each training image, from 0, in their order; empty without folds. Then `val` is empty.
    """

    train: tuple[ImageFile, ...]
    val: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    dropped: tuple[ImageFile, ...]
    warnings: tuple[str, ...]
    classes: tuple[str, ...]
    folds: tuple[int, ...] = ()

    def counts(self) -> dict[str, list[int]]:
        """Number of images per class, in the order of the labels, under `train`, `val` and `test`."""
        return {name: _count_per_class(images, len(self.classes)) for name, images in self._by_name()}

    def rows(self) -> Iterator[tuple[ImageFile, str]]:
        """Every image with the name of its split, sorted by path."""
        pairs = [(image, name) for name, images in self._by_name() for image in images]
        return iter(sorted(pairs, key=lambda pair: pair[0].path))

    def _by_name(self) -> tuple[tuple[str, tuple[ImageFile, ...]], ...]:
        return (("train", self.train), ("val", self.val), ("test", self.test))


def make_splits(
    index: FolderIndex,
    *,
    val: float,
    test: float,
    near: Sequence[Collection[str]] = (),
    recorded: Mapping[str, str] | None = None,
    folds: int | None = None,
) -> Splits:
    """Split by class and content. Given folders are used as they are; a missing one is split off the training images.

    Args:
        index: The scanned images.
        val: Fraction 0–1 for validation if DATA has no val folder; 0 turns validation off.
        test: Fraction 0–1 for testing if DATA has no test folder; 0 turns testing off.
        near: Groups of contents (sha256) that are near-duplicates. Those of one class stay together, unless that leaves
            the class without images for every split.
        recorded: Content to split of an earlier run. It is kept if it holds every image to split.
        folds: Number of folds of the images that do not test; None for a validation split instead.

    Raises:
        DataError: If the fractions leave nothing to train on, or a class has too few different images.
    """
    given = index.given_splits
    if folds:
        _require_no_val(index)
        val = 0.0
    fractions = (0.0 if "val" in given else val, 0.0 if "test" in given else test)
    _require_fractions(*fractions)
    pool, kept, dropped, warnings = _drop_leaks(index)
    warnings += _conflict_warnings(pool + kept)
    _require_different_images(index, pool + kept)
    units, alike = _units(index, pool, near)
    if recorded is not None and all(image.sha256 in recorded for image in pool):
        split_of = {sha: "train" if folds and split == "val" else split for sha, split in recorded.items()}
    else:
        warnings += alike
        split_of = strata.assign(units, val=fractions[0], test=fractions[1])
    images: dict[str, list[ImageFile]] = {name: [] for name in SPLIT_NAMES}
    for image in pool:
        images[split_of[image.sha256]].append(image)
    for image in kept:
        images[str(image.given)].append(image)
    for name in ("train", "val") if "val" in given or val > 0 else ("train",):
        _require_every_class(index, name, images[name], dropped)
    if "test" in given or test > 0:
        warnings += _untested_warnings(index, images["test"], is_given="test" in given)
    train, validation, tested = (tuple(images[name]) for name in SPLIT_NAMES)
    splits = Splits(train, validation, tested, tuple(dropped), tuple(warnings), index.classes)
    return replace(splits, folds=_folds(index, train, units, folds)) if folds else splits


def _folds(index: FolderIndex, train: Sequence[ImageFile], units: Iterable[Unit], folds: int) -> tuple[int, ...]:
    """The fold of each training image."""
    contents = {image.sha256 for image in train}
    fold_of = strata.assign_folds([unit for unit in units if contents.issuperset(unit.contents)], folds)
    folds_of_label: dict[int, set[int]] = defaultdict(set)
    for image in train:
        folds_of_label[image.label].add(fold_of[image.sha256])
    for label, own in sorted(folds_of_label.items()):
        if len(own) < 2:
            raise DataError(
                f"class '{index.classes[label]}' has too few different images for folds: all are in one fold",
                where=str(index.root),
                hint="Add images that are neither copies nor near-duplicates, or leave data.folds out.",
            )
    return tuple(fold_of[image.sha256] for image in train)


def _require_no_val(index: FolderIndex) -> None:
    if "val" in index.given_splits:
        raise DataError(
            "the images have a val split of their own, and folds take the validation images from the training images",
            where=str(index.root),
            hint="Move the val images to the training images, or leave data.folds out.",
        )


def position(sha256: str) -> float:
    """Rank of a content, 0–1 (1 excluded). It is the same for every folder, class and machine."""
    digest = hashlib.sha256(b"tlcli split" + bytes.fromhex(sha256)).digest()
    return float(int.from_bytes(digest[:8], "big") >> 11) / 2.0**53


def copies(images: Iterable[ImageFile]) -> list[list[ImageFile]]:
    """Groups of files with the same content, each sorted by path; contents with one file are left out."""
    groups: dict[str, list[ImageFile]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.path):
        groups[image.sha256].append(image)
    return [group for group in groups.values() if len(group) > 1]


def label_conflicts(images: Iterable[ImageFile]) -> list[list[ImageFile]]:
    """Groups of copies that are in more than one class."""
    return [group for group in copies(images) if len({image.label for image in group}) > 1]


def leaks(images: Iterable[ImageFile]) -> list[tuple[ImageFile, ImageFile]]:
    """Images of a given split with a copy in a later one, each with that copy."""
    pairs = []
    for group in copies(images):
        for image in group:
            later_splits = _LATER_SPLITS[image.given or "test"]
            twin = next((other for split in reversed(later_splits) for other in group if other.given == split), None)
            if twin is not None:
                pairs.append((image, twin))
    return pairs


def _require_fractions(val: float, test: float) -> None:
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise DataError(
            f"the fractions leave nothing to train on (got val {val}, test {test})",
            where="data.val, data.test",
            hint="Both must be at least 0, and their sum below 1.",
        )


def _drop_leaks(index: FolderIndex) -> tuple[list[ImageFile], list[ImageFile], list[ImageFile], list[str]]:
    """Training images, given val and test images, images left out as leaks, and warnings about these."""
    twins = {image.path: (image, twin) for image, twin in leaks(index.images)}
    pool = [image for image in index.images if image.path not in twins and (image.given or "train") == "train"]
    kept = [image for image in index.images if image.path not in twins and image.given in ("val", "test")]
    pairs_by_split = {
        split: [pair for pair in twins.values() if (pair[0].given or "train") == split] for split in SPLIT_NAMES
    }
    warnings = [
        f"left out {plural(len(pairs), f'{split} image')} with the same content as a"
        f" {' or '.join(_LATER_SPLITS[split])} image: "
        + _listed(sorted(f"{image.path} (= {twin.path})" for image, twin in pairs))
        for split, pairs in pairs_by_split.items()
        if pairs
    ]
    dropped = sorted((image for image, _ in twins.values()), key=lambda image: image.path)
    return pool, kept, dropped, warnings


def _conflict_warnings(images: Iterable[ImageFile]) -> list[str]:
    groups = label_conflicts(images)
    if not groups:
        return []
    listed = _listed(sorted(" = ".join(image.path for image in group) for group in groups))
    return [
        f"{plural(len(groups), 'image')} in more than one class: {listed}."
        " To leave them out: tlcli check DATA --quarantine FILE, then --exclude FILE"
    ]


def _require_different_images(index: FolderIndex, images: Sequence[ImageFile]) -> None:
    """Check that every class has two different images: one to learn from and one to check with."""
    contents = _own_contents(images)
    for label, name in enumerate(index.classes):
        count = len(contents[label])
        if count < 2:
            raise DataError(
                f"class '{name}' has too few different images (got {count}, at least 2)",
                where=str(index.root),
                hint="Copies, and images that are also in another class, do not count. Add images, or leave the class"
                " out with data.classes.",
            )


def _units(
    index: FolderIndex, pool: Sequence[ImageFile], near: Iterable[Collection[str]]
) -> tuple[list[Unit], list[str]]:
    """The images to split as units, and warnings about classes whose near-duplicates cannot stay together.

    The position of a unit is that of its smallest hash, or of the name of its group.
    """
    files: dict[str, Counter[int]] = defaultdict(Counter)
    members: dict[str, list[str]] = defaultdict(list)
    names_of: dict[str, set[str]] = defaultdict(set)
    for image in pool:
        files[image.sha256][image.label] += 1
        if image.group is not None:
            members[image.group].append(image.sha256)
            names_of[image.sha256].add(image.group)
    near_groups, too_large = _near_groups(files, near)
    units = []
    for contents in _connected(files, [*near_groups, *members.values()]):
        names = sorted({name for sha in contents for name in names_of[sha]})
        key = hashlib.sha256(f"group {names[0]}".encode()).hexdigest() if names else contents[0]
        units.append(Unit(position(key), contents, sum((files[sha] for sha in contents), Counter())))
    warnings = [
        f"class {index.classes[label]} is mostly near-duplicates (the largest series has {largest} of its {count}"
        " images), which the split has to divide; its scores are too good. Add other images of the class"
        for label, (largest, count) in sorted(too_large.items())
    ]
    return units, warnings


def _connected(contents: Iterable[str], groups: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """The contents that groups connect, directly or through others; each part sorted. The rest are alone."""
    parent = {sha: sha for sha in contents}

    def root(sha: str) -> str:
        while parent[sha] != sha:
            parent[sha] = parent[parent[sha]]
            sha = parent[sha]
        return sha

    for group in groups:
        for sha in group:
            parent[root(sha)] = root(group[0])
    parts: dict[str, list[str]] = defaultdict(list)
    for sha in sorted(parent):
        parts[root(sha)].append(sha)
    return [tuple(part) for part in parts.values()]


def _near_groups(
    files: Mapping[str, Counter[int]], near: Iterable[Collection[str]]
) -> tuple[list[tuple[str, ...]], dict[int, tuple[int, int]]]:
    """Groups of contents of one class each, sorted, and classes that are mostly near-duplicates.

    Such a class has no groups, because val and test could hold none. Its entry is the number of images of its largest
    group, and of all its images.
    """
    by_class: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for group in near:
        members: dict[int, list[str]] = defaultdict(list)
        for sha in sorted(set(group)):
            if len(files.get(sha, ())) == 1:
                members[min(files[sha])].append(sha)
        for label, shas in members.items():
            if len(shas) > 1:
                by_class[label].append(tuple(shas))
    sizes = sum(files.values(), Counter())
    contents = Counter(label for labels in files.values() for label in labels)
    too_large = {}
    for label, groups in by_class.items():
        largest = max(sum(files[sha][label] for sha in group) for group in groups)
        units = contents[label] - sum(len(group) - 1 for group in groups)
        if 2 * largest > sizes[label] or units < _FEWEST_UNITS:
            too_large[label] = (largest, sizes[label])
    return [group for label, groups in by_class.items() if label not in too_large for group in groups], too_large


def _own_contents(images: Iterable[ImageFile]) -> Mapping[int, set[str]]:
    """Label to the contents that have no other label."""
    labels: dict[str, set[int]] = defaultdict(set)
    for image in images:
        labels[image.sha256].add(image.label)
    contents: dict[int, set[str]] = defaultdict(set)
    for sha, labels_of_content in labels.items():
        if len(labels_of_content) == 1:
            contents[min(labels_of_content)].add(sha)
    return contents


def _require_every_class(
    index: FolderIndex,
    split: str,
    images: Sequence[ImageFile],
    dropped: Sequence[ImageFile],
) -> None:
    for label in _empty_labels(index, images):
        count = sum(image.label == label for image in dropped)
        reason = f" after {count} were left out as copies of val or test images" if count else ""
        groups = {image.group for image in index.images if image.label == label}
        if not count and len(groups) == 1 and None not in groups:
            reason = ", because all its images are in one group"
        raise DataError(
            f"class '{index.classes[label]}' has no {split} images{reason}",
            where=str(index.root),
            hint="Add different images, or leave the class out with data.classes.",
        )


def _untested_warnings(index: FolderIndex, images: Sequence[ImageFile], *, is_given: bool) -> list[str]:
    """A warning that names the classes without test images. `is_given`: DATA has a test folder."""
    names = [index.classes[label] for label in _empty_labels(index, images)]
    if not names:
        return []
    counts = index.counts()
    remedy = "Add images to the test folder" if is_given else "Add images, or set data.test"
    if len(names) == 1:
        total = f"{plural(counts[names[0]], 'image')} in all"
        return [f"class {names[0]} has no test images ({total}); the test score does not cover it. {remedy}"]
    listed = _listed([f"{name} ({plural(counts[name], 'image')} in all)" for name in names])
    return [f"{len(names)} classes have no test images; the test score does not cover them: {listed}. {remedy}"]


def _empty_labels(index: FolderIndex, images: Collection[ImageFile]) -> list[int]:
    return [label for label, count in enumerate(_count_per_class(images, len(index.classes))) if not count]


def _count_per_class(images: Iterable[ImageFile], classes: int) -> list[int]:
    counts = [0] * classes
    for image in images:
        counts[image.label] += 1
    return counts


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _MAX_LISTED} more" if len(words) > _MAX_LISTED else ""
    return ", ".join(words[:_MAX_LISTED]) + more
