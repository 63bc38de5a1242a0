"""Findings: their form, and those that class names and class sizes show."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tlcli.data.source import FolderIndex
from tlcli.text import encodable

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
# A class of fewer different images is small: on average it has one or two to be validated and tested with.
SMALL_CLASS = 10
# So many times the images of the smallest class in the largest one are an imbalance.
IMBALANCE = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: Its name in JSON, for example `label_conflict`.
        severity: `error`: stops `finetune`, or spoils training or scores. `warning`: may cost accuracy or make scores
            look better than they are. `info`: is dealt with, and good to know.
        message: What was found, a sentence without its end.
        remedy: What to do, a whole sentence.
        paths: The files or folders (with a slash at the end) concerned, relative to DATA.
        groups: The same as groups of files that belong together; empty where each stands alone.
        notes: Path to what is to be said of it, where there is something.
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
        """How many files, folders or classes are concerned."""
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


def quick_findings(index: FolderIndex) -> list[Finding]:
    """What names and numbers tell; copies are the business of `copies_between_classes` and its like."""
    return [
        *alike_classes(index.classes),
        *too_small_classes(index),
        *small_classes(index),
        *imbalance(index),
    ]


def alike_classes(names: Sequence[str]) -> list[Finding]:
    """Class names that differ only by case, white space or Unicode form."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    groups = tuple(tuple(f"{name}/" for name in alike) for alike in found.values() if len(alike) > 1)
    if not groups:
        return []
    listed = "; ".join(" and ".join(f"'{name[:-1]}'" for name in group) for group in groups[:5])
    return [
        Finding(
            "alike_classes",
            "error",
            f"class names that differ only by case, white space or Unicode form: {listed}",
            "Join the folders, or give one of them another name.",
            tuple(name for group in groups for name in group),
            groups,
        )
    ]


def too_small_classes(index: FolderIndex) -> list[Finding]:
    """Classes with which `finetune` would not begin."""
    counts = _contents_of_classes(index)
    return _classes(
        index,
        lambda label: counts[label] < 2,
        ("too_small_class", "error"),
        "with fewer than two different images",
        "Add images, or leave the class out with data.classes.",
    )


def small_classes(index: FolderIndex) -> list[Finding]:
    """Classes of few images."""
    counts = _contents_of_classes(index)
    return _classes(
        index,
        lambda label: 2 <= counts[label] < SMALL_CLASS,
        ("small_class", "warning"),
        f"with fewer than {SMALL_CLASS} different images",
        "What is learnt and scored with so few says little. Add images if you can.",
    )


def imbalance(index: FolderIndex) -> list[Finding]:
    """Much larger and much smaller classes."""
    images = [image for image in index.images if image.given in (None, "train")]
    counts = {name: 0 for name in index.classes}
    for image in images:
        counts[index.classes[image.label]] += 1
    filled = {name: count for name, count in counts.items() if count}
    if len(filled) < 2 or max(filled.values()) < IMBALANCE * min(filled.values()):
        return []
    most, least = max(filled, key=lambda name: filled[name]), min(filled, key=lambda name: filled[name])
    return [
        Finding(
            "imbalance",
            "warning",
            f"class '{most}' has {filled[most]} images, '{least}' only {filled[least]}; who always says '{most}'"
            f" is right in {filled[most] / len(images):.0%}",
            "Look at the scores of each class, and try --set data.class_weights=balanced.",
            (f"{most}/", f"{least}/"),
            notes={f"{most}/": f"{filled[most]} images", f"{least}/": f"{filled[least]} images"},
        )
    ]


def _contents_of_classes(index: FolderIndex) -> list[int]:
    contents: list[set[str]] = [set() for _ in index.classes]
    for image in index.images:
        contents[image.label].add(image.sha256)
    return [len(found) for found in contents]


def _classes(
    index: FolderIndex,
    is_meant: Callable[[int], bool],
    sort: tuple[str, Severity],
    what: str,
    remedy: str,
) -> list[Finding]:
    counts = _contents_of_classes(index)
    labels = [label for label in range(len(index.classes)) if is_meant(label)]
    if not labels:
        return []
    names = [index.classes[label] for label in labels]
    listed = ", ".join(f"'{name}' ({counts[label]})" for name, label in list(zip(names, labels, strict=True))[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    plural = "classes" if len(names) > 1 else "a class"
    paths = tuple(f"{name}/" for name in names)
    notes = {f"{name}/": f"{counts[label]} different images" for name, label in zip(names, labels, strict=True)}
    kind, severity = sort
    return [Finding(kind, severity, f"{plural} {what}: {listed}{more}", remedy, paths, notes=notes)]
