"""The list of images to leave out of training, with reasons, for `finetune --exclude`."""

import json
import shlex
from collections.abc import Collection, Container, Iterable, Iterator
from pathlib import Path

from tlcli.data import exclude
from tlcli.data.source import FolderIndex
from tlcli.quality.check import CheckRequest
from tlcli.quality.finding import Finding
from tlcli.text import plural

# Reason by kind of finding, for images that are listed whatever the others are.
_SINGLE_IMAGES = {
    "unreadable": "cannot be read",
    "truncated": "truncated",
    "empty": "zero bytes",
    "bomb": "needs too much memory",
    "blank": "one colour only",
    "bad_file_name": "its name is not UTF-8",
}
_LEAKS = {"leak": "the same as", "near_leak": "nearly the same as"}
_COPIES = {"duplicate": "a copy of", "near_duplicate": "nearly the same as"}
# Kinds of findings in the order in which they add images.
_ORDER = (*_SINGLE_IMAGES, "label_conflict", *_LEAKS, *_COPIES)
# Training refuses class folders with such findings, whatever images are left out.
_BAD_FOLDERS = {"bad_class_name", "same_class_name"}


def entries(findings: Iterable[Finding], *, also: Path | None = None) -> dict[str, str]:
    """Paths of images to leave out, sorted, each with its first reason. The paths of the list `also` are included.

    - Copies in one class, exact and near: all but one.
    - Copies in different classes: all, because nobody knows which label is right.
    - Copies in two splits, exact and near: the one in the earlier split; train before val before test.
    - Near-duplicates in different classes: none; both labels may be right.
    """
    by_kind = {finding.kind: finding for finding in findings}
    reasons = {} if also is None else dict.fromkeys(exclude.read_list(also).lines, f"was listed in {also}")
    for kind in _ORDER:
        if kind in by_kind:
            for path, reason in _entries_of(by_kind[kind], reasons):
                reasons.setdefault(path, reason)
    return dict(sorted(reasons.items()))


def remaining_classes(index: FolderIndex, left_out: Collection[str]) -> tuple[str, ...]:
    """The classes that `finetune` accepts without some images.

    Such a class has two different images, and one in each given train or val folder.
    """
    given: set[str | None] = {image.given for image in index.images}
    needed = given - {"test"}
    contents: dict[int, set[str]] = {label: set() for label in range(len(index.classes))}
    splits: dict[int, set[str | None]] = {label: set() for label in range(len(index.classes))}
    for image in index.images:
        if image.path not in left_out:
            contents[image.label].add(image.sha256)
            splits[image.label].add(image.given)
    return tuple(
        name for label, name in enumerate(index.classes) if len(contents[label]) > 1 and needed <= splits[label]
    )


def obstacle(findings: Iterable[Finding], index: FolderIndex, left_out: Collection[str]) -> str | None:
    """What to do first if training is refused even without the images of the list; None if it is not."""
    if _BAD_FOLDERS & {finding.kind for finding in findings}:
        return "rename the class folders named above; training refuses them"
    if len(remaining_classes(index, left_out)) < 2:
        return "remove lines from the list, or add images: fewer than two classes are left"
    return None


def command(request: CheckRequest, *, index: FolderIndex, left_out: Collection[str]) -> str | None:
    """The command that trains without the images of the list; None if no list is written or it is empty.

    It names the classes to use if some have too few images left.
    """
    classes = remaining_classes(index, left_out)
    if request.quarantine is None or not left_out:
        return None
    words = ["tlcli", "finetune", str(request.data), "--exclude", str(request.quarantine)]
    words += ["--model", request.model] if request.model else []
    words += ["--set", f"data.size=[{request.size[0]},{request.size[1]}]"] if request.size else []
    if len(classes) < len(index.classes):
        words += ["--set", f"data.classes={json.dumps(classes, ensure_ascii=False)}"]
    return shlex.join(words)


def write_list(file: Path, reasons: dict[str, str], *, data: Path, command: str | None) -> None:
    """Write the list, which may be empty. `command` is the command that uses it."""
    comments = (
        f"tlcli check {data}: {plural(len(reasons), 'image')}.{f' Use: {command}' if command else ''}",
        "Each line: a path relative to DATA, a tab, the reason. Remove a line to keep its image.",
    )
    exclude.write_list(file, reasons.items(), comments=comments)


def _entries_of(finding: Finding, listed: Container[str]) -> Iterator[tuple[str, str]]:
    """Paths and reasons of one finding. An image that is `listed` already is not the copy to keep."""
    notes = finding.notes or {}
    if finding.kind in _SINGLE_IMAGES:
        for path in finding.paths:
            yield path, f"{_SINGLE_IMAGES[finding.kind]}: {notes.get(path, '')}".rstrip(": ")
    for group in finding.groups:
        if finding.kind == "label_conflict":
            yield from ((path, f"the same as {_other_copy(group, path)}, in another class") for path in group)
        elif finding.kind in _LEAKS:
            yield group[0], f"{_LEAKS[finding.kind]} {group[1]}, in another split"
        else:
            kept, *rest = [path for path in group if path not in listed] or group
            yield from ((path, f"{_COPIES[finding.kind]} {kept}") for path in rest)


def _other_copy(group: tuple[str, ...], path: str) -> str:
    """A member of the group in another folder than `path`, else the first member."""
    folder = path.rpartition("/")[0]
    return next((other for other in group if other.rpartition("/")[0] != folder), group[0])
