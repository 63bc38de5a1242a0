"""Findings, and the quick checks of class names and class sizes, which need no pixels."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tlcli.data.source import FolderIndex
from tlcli.text import encodable, plural

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
# A class with fewer different images is small: on average one or two of them validate and test it.
SMALL_CLASS = 10
# Classes are uneven if the largest has at least so many times the images of the smallest.
IMBALANCE = 5.0

# Names listed in a message.
_MAX_LISTED = 5


@dataclass(frozen=True)
class Finding:
    """One problem of the images, with all files that have it.

    Attributes:
        kind: Its name in JSON, for example `label_conflict`.
        severity: `error`: stops `finetune`, or spoils training or scores. `warning`: may cost accuracy, or makes
            scores look better than they are. `info`: handled; good to know.
        message: What the problem is, a sentence that begins in lower case and has no full stop.
        remedy: What to do, a whole sentence.
        paths: The files or folders (with a slash at the end) that have the problem, relative to DATA.
        groups: The same paths as groups of files that belong together; empty if each stands alone.
        notes: Path to a remark about it, for paths that have one.
    """

    kind: str
    severity: Severity
    message: str
    remedy: str
    paths: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...] = ()
    notes: Mapping[str, str] | None = None

    @property
    def count(self) -> int:
        """Number of files, folders or classes that have the problem."""
        return len(self.paths)

    def to_json(self) -> dict[str, Any]:
        """The JSON shape in `tlcli check --json`."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": self.count,
            "paths": [encodable(path) for path in self.paths],
            "message": self.message,
            "remedy": self.remedy,
            "groups": [[encodable(path) for path in group] for group in self.groups],
            "notes": {encodable(path): encodable(note) for path, note in (self.notes or {}).items()},
        }


def quick_findings(index: FolderIndex, *, known_empty: Collection[str] = ()) -> list[Finding]:
    """All findings about class names and class sizes.

    Args:
        index: The images.
        known_empty: Names of classes that another finding calls empty.
    """
    return [
        *alike_classes(index.classes),
        *too_small_classes(index, known_empty=known_empty),
        *small_classes(index),
        *imbalance(index),
    ]


def alike_classes(names: Sequence[str]) -> list[Finding]:
    """Class names that differ only by case, white space or Unicode form."""
    names_by_form: dict[str, list[str]] = defaultdict(list)
    for name in names:
        names_by_form[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    groups = tuple(tuple(f"{name}/" for name in alike) for alike in names_by_form.values() if len(alike) > 1)
    if not groups:
        return []
    listed = "; ".join(" and ".join(f"'{name[:-1]}'" for name in group) for group in groups[:_MAX_LISTED])
    return [
        Finding(
            "alike_classes",
            "error",
            f"class names differ only by case, white space or Unicode form: {listed}",
            "Merge the folders, or rename one of them.",
            tuple(name for group in groups for name in group),
            groups,
        )
    ]


def too_small_classes(index: FolderIndex, *, known_empty: Collection[str] = ()) -> list[Finding]:
    """Classes with fewer than two different images, but for `known_empty`; `finetune` does not start with them."""
    return _class_sizes(
        index,
        lambda name, count: count == 1 or (count == 0 and name not in known_empty),
        ("too_small_class", "error"),
        "fewer than two different images",
        "Add images, or leave the class out with data.classes.",
    )


def small_classes(index: FolderIndex) -> list[Finding]:
    """Classes with 2 to 9 different images."""
    return _class_sizes(
        index,
        lambda _, count: 2 <= count < SMALL_CLASS,
        ("small_class", "warning"),
        f"fewer than {SMALL_CLASS} different images",
        "Scores of so few images are unreliable. Add images if you can.",
    )


def imbalance(index: FolderIndex) -> list[Finding]:
    """The largest and the smallest class, if one has at least five times the training images of the other."""
    images = [image for image in index.images if image.given in (None, "train")]
    counts = {name: 0 for name in index.classes}
    for image in images:
        counts[index.classes[image.label]] += 1
    filled = {name: count for name, count in counts.items() if count}
    if len(filled) < 2 or max(filled.values()) < IMBALANCE * min(filled.values()):
        return []
    largest, smallest = max(filled, key=lambda name: filled[name]), min(filled, key=lambda name: filled[name])
    return [
        Finding(
            "imbalance",
            "warning",
            f"class '{largest}' has {filled[largest]} images, '{smallest}' only {filled[smallest]}; a classifier that"
            f" always predicts '{largest}' is right for {filled[largest] / len(images):.0%} of the images",
            "Look at the scores of each class, and try --set data.class_weights=balanced.",
            (f"{largest}/", f"{smallest}/"),
            notes={f"{name}/": plural(filled[name], "image") for name in (largest, smallest)},
        )
    ]


def _class_sizes(
    index: FolderIndex,
    has_problem: Callable[[str, int], bool],
    kind_and_severity: tuple[str, Severity],
    problem: str,
    remedy: str,
) -> list[Finding]:
    """A finding about the classes whose name and number of different images have a problem."""
    contents: list[set[str]] = [set() for _ in index.classes]
    for image in index.images:
        contents[image.label].add(image.sha256)
    sizes = {name: len(shas) for name, shas in zip(index.classes, contents, strict=True)}
    counts = {name: count for name, count in sizes.items() if has_problem(name, count)}
    if not counts:
        return []
    listed = ", ".join(f"'{name}' ({count})" for name, count in list(counts.items())[:_MAX_LISTED])
    more = f" and {len(counts) - _MAX_LISTED} more" if len(counts) > _MAX_LISTED else ""
    subject = "classes have" if len(counts) > 1 else "a class has"
    kind, severity = kind_and_severity
    notes = {f"{name}/": plural(count, "different image") for name, count in counts.items()}
    return [Finding(kind, severity, f"{subject} {problem}: {listed}{more}", remedy, tuple(notes), notes=notes)]
