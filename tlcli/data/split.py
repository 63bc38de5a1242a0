"""Split a FolderIndex into train, val and test by content: the same image always falls the same way.

The SHA-256 of a file gives a number u in 0–1. Test takes u < test, val the next band of width `val`, train the rest.
So a split needs no seed, does not depend on names or order, and adding files moves no other file. Two rules bend
this for tiny classes, and only for the images next to a border: the last image by u stays in train, and with
`val` > 0 a class without a val image gets the next one, from train if train keeps one, else from test.
A test split may stay empty for a class; that is a warning.

Copies of one content go together, across classes too. A content filed under two classes follows the bands and does
not count for the two rules.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tlcli.data.source import FolderIndex, ImageFile
from tlcli.errors import DataError
from tlcli.text import plural

_NAMES = ("train", "val", "test")
_SHOWN = 5


@dataclass(frozen=True)
class Splits:
    """Who is train, val and test; each sorted by path.

    Attributes:
        train: Images to learn from.
        val: Images that decide when to stop; empty when validation is turned off.
        test: Images that are only scored; may be empty.
        dropped: Images of given folders left out, because the same content also stands in a given test or val folder.
        warnings: Sentences for the user.
        classes: Class names in the order of the labels.
    """

    train: tuple[ImageFile, ...]
    val: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    dropped: tuple[ImageFile, ...]
    warnings: tuple[str, ...]
    classes: tuple[str, ...]

    def counts(self) -> dict[str, list[int]]:
        """Images of each class, in the order of the labels, under `train`, `val` and `test`."""
        return {name: _per_class(images, len(self.classes)) for name, images in self._named()}

    def rows(self) -> Iterator[tuple[ImageFile, str]]:
        """Every image that is used with the name of its split, sorted by path."""
        pairs = [(image, name) for name, images in self._named() for image in images]
        return iter(sorted(pairs, key=lambda pair: pair[0].path))

    def _named(self) -> tuple[tuple[str, tuple[ImageFile, ...]], ...]:
        return (("train", self.train), ("val", self.val), ("test", self.test))


def make_splits(index: FolderIndex, *, val: float, test: float) -> Splits:
    """Split by content. Given folders are used as they are; a missing one is split off the training images.

    Args:
        index: What was scanned.
        val: Fraction 0–1 for validation where DATA has no val folder; 0 turns it off.
        test: The same for test.

    Raises:
        DataError: The fractions leave nothing to train on, or a class has too few different images.
    """
    given = index.given_splits
    fractions = (0.0 if "val" in given else val, 0.0 if "test" in given else test)
    _require_fractions(*fractions)
    pool, kept, dropped, warnings = _without_leaks(index)
    warnings += _contradictions(pool + kept)
    _require_enough(index, pool + kept)
    assigned = _assigned(index, pool, fractions)
    chosen: dict[str, list[ImageFile]] = {name: [] for name in _NAMES}
    for image in pool:
        chosen[assigned[image.sha256]].append(image)
    for image in kept:
        chosen[str(image.given)].append(image)
    wanted = [name for name, on in (("train", True), ("val", "val" in given or val > 0)) if on]
    for name in wanted:
        _require_every_class(index, name, chosen[name], dropped)
    if "test" in given or test > 0:
        warnings += _empty_tests(index, chosen["test"], share=None if "test" in given else test)
    train, validation, scored = (tuple(chosen[name]) for name in _NAMES)
    return Splits(train, validation, scored, tuple(dropped), tuple(warnings), index.classes)


def _require_fractions(val: float, test: float) -> None:
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise DataError(
            f"the fractions leave nothing to train on (got val {val}, test {test})",
            where="data.val, data.test",
            hint="Both are at least 0 and their sum is below 1.",
        )


def position(sha256: str) -> float:
    """Where a content stands on the line 0–1 (1 excluded) that the fractions cut."""
    digest = hashlib.sha256(b"tlcli split" + bytes.fromhex(sha256)).digest()
    return float(int.from_bytes(digest[:8], "big") >> 11) / 2.0**53


def _without_leaks(
    index: FolderIndex,
) -> tuple[list[ImageFile], list[ImageFile], list[ImageFile], list[str]]:
    """Training images, given val and test images, and those left out because a later split has the same content."""
    twins = {image.path: (image, twin) for image, twin in leaking(index.images)}
    pool = [image for image in index.images if image.path not in twins and (image.given or "train") == "train"]
    kept = [image for image in index.images if image.path not in twins and image.given in ("val", "test")]
    leaks = {split: [pair for pair in twins.values() if (pair[0].given or "train") == split] for split in _NAMES}
    warnings = [
        f"{plural(len(pairs), f'{split} image')} left out, as the given val or test folder holds the same content: "
        + _listed(sorted(f"{image.path} (= {twin.path})" for image, twin in pairs))
        for split, pairs in leaks.items()
        if pairs
    ]
    dropped = sorted((image for image, _ in twins.values()), key=lambda image: image.path)
    return pool, kept, dropped, warnings


def _contradictions(images: Iterable[ImageFile]) -> list[str]:
    twice = contradictory(images)
    if not twice:
        return []
    listed = sorted(" = ".join(image.path for image in same) for same in twice)
    return [
        f"{plural(len(twice), 'image')} filed under more than one class: {_listed(listed)};"
        " leave them out by a list: tlcli check DATA --quarantine FILE, then --exclude FILE"
    ]


def _require_enough(index: FolderIndex, images: Sequence[ImageFile]) -> None:
    """One image is no class: nothing could be learnt and checked."""
    own = _own_contents(images)
    for label, name in enumerate(index.classes):
        count = len(own[label])
        if count < 2:
            raise DataError(
                f"class '{name}' has too few different images (got {count}, at least 2)",
                where=str(index.root),
                hint="Add images, or leave the class out with data.classes. Copies, and images that are also filed "
                "under another class, do not count.",
            )


def _assigned(index: FolderIndex, pool: Sequence[ImageFile], fractions: tuple[float, float]) -> dict[str, str]:
    """Split name of every content that is not in a given folder."""
    val, test = fractions
    assigned = {image.sha256: _band(position(image.sha256), val, test) for image in pool}
    for contents in _own_contents(pool).values():
        line = sorted(contents, key=lambda sha: (position(sha), sha))
        names = [assigned[sha] for sha in line]
        assigned.update(zip(line, _with_guarantee(names, needs_val=val > 0), strict=True))
    return assigned


def _band(u: float, val: float, test: float) -> str:
    if u < test:
        return "test"
    return "val" if u < test + val else "train"


def _with_guarantee(names: Sequence[str], *, needs_val: bool) -> list[str]:
    """Bend the borders of one class so that train, and val where wanted, have an image.

    >>> _with_guarantee(["test", "test", "val"], needs_val=True)
    ['test', 'val', 'train']
    """
    tests, vals = names.count("test"), names.count("val")
    val_end = min(tests + vals, len(names) - 1)
    tests = min(tests, val_end)
    if needs_val and tests == val_end:
        if len(names) - val_end > 1:
            val_end += 1
        else:
            tests = max(tests - 1, 0)
    return ["test"] * tests + ["val"] * (val_end - tests) + ["train"] * (len(names) - val_end)


def _own_contents(images: Iterable[ImageFile]) -> Mapping[int, set[str]]:
    """Label to the contents that stand under no other label."""
    labels: dict[str, set[int]] = defaultdict(set)
    for image in images:
        labels[image.sha256].add(image.label)
    own: dict[int, set[str]] = defaultdict(set)
    for sha, found in labels.items():
        if len(found) == 1:
            own[min(found)].add(sha)
    return own


def _require_every_class(
    index: FolderIndex,
    split: str,
    images: Sequence[ImageFile],
    dropped: Sequence[ImageFile],
) -> None:
    for label in _empty(index, images):
        lost = sum(image.label == label for image in dropped)
        because = f" after {lost} were left out as copies of given val or test images" if lost else ""
        raise DataError(
            f"class '{index.classes[label]}' has no {split} images{because}",
            where=str(index.root),
            hint="Add different images, or leave the class out with data.classes.",
        )


def _empty_tests(index: FolderIndex, images: Sequence[ImageFile], *, share: float | None) -> list[str]:
    """Classes that the test score says nothing of, and why. `share` is None where the test folder is given."""
    names = [index.classes[label] for label in _empty(index, images)]
    if not names:
        return []
    many = f"{len(names)} classes" if len(names) > 1 else "a class"
    if share is None:
        why = "the test folder holds none. Add some there"
    else:
        # Small classes: at 0.15, one of 20 images is left without with a chance of 4 %, one of 5 with 44 %.
        by_content = f"images go to the test split by their content, a share of {share:g}, and of so few none did"
        why = f"{by_content}. Add images, or name a folder of test images with data.test"
    return [f"no test images for {many}, so the test score says nothing of them: {_listed(names)}: {why}"]


def _empty(index: FolderIndex, images: Collection[ImageFile]) -> list[int]:
    return [label for label, count in enumerate(_per_class(images, len(index.classes))) if not count]


def _per_class(images: Iterable[ImageFile], classes: int) -> list[int]:
    counts = [0] * classes
    for image in images:
        counts[image.label] += 1
    return counts


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


LATER = {"train": ("val", "test"), "val": ("test",), "test": ()}


def by_content(images: Iterable[ImageFile]) -> list[list[ImageFile]]:
    """The contents of which there are several files, each as these files, sorted by path."""
    found: dict[str, list[ImageFile]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.path):
        found[image.sha256].append(image)
    return [same for same in found.values() if len(same) > 1]


def contradictory(images: Iterable[ImageFile]) -> list[list[ImageFile]]:
    """Of these contents those that are filed under several classes."""
    return [same for same in by_content(images) if len({image.label for image in same}) > 1]


def leaking(images: Iterable[ImageFile]) -> list[tuple[ImageFile, ImageFile]]:
    """Images of a given split with a copy in a later one, each with that copy."""
    pairs = []
    for same in by_content(images):
        for image in same:
            later = LATER[image.given or "test"]
            twin = next((other for split in reversed(later) for other in same if other.given == split), None)
            if twin is not None:
                pairs.append((image, twin))
    return pairs
