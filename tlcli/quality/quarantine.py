"""Which images should better not be trained on, and why, as a list that `finetune --exclude` takes."""

import json
import shlex
from collections.abc import Collection, Container, Iterable, Iterator
from pathlib import Path

from tlcli.data import exclude
from tlcli.data.source import FolderIndex
from tlcli.quality.check import CheckRequest
from tlcli.quality.finding import Finding
from tlcli.text import plural

_ALONE = {
    "unreadable": "cannot be read",
    "truncated": "cut short",
    "empty": "zero bytes",
    "bomb": "takes absurdly much memory",
    "blank": "one colour only",
    "bad_file_name": "its name is no UTF-8",
}
# Training refuses these, whatever images are left out.
_IN_THE_WAY = {"bad_class_name", "same_class_name"}
_LEAKS = {"leak": "the same as", "near_leak": "nearly the same as"}
_COPIES = {"duplicate": "a copy of", "near_duplicate": "nearly the same as"}
_ORDER = (*_ALONE, "label_conflict", *_LEAKS, *_COPIES)


def entries(findings: Iterable[Finding], *, also: Path | None = None) -> dict[str, str]:
    """Paths, sorted, each with the first reason that was found; and those of a list that was there before.

    Of copies, exact ones and near ones, all but one go; of copies under different classes all, since nobody knows
    which label is right; of copies in two splits the one in the earlier: train before val before test. Images that
    are nearly the same under different classes stay: they may be right.
    """
    by_kind = {finding.kind: finding for finding in findings}
    found = {} if also is None else dict.fromkeys(exclude.read(also).lines, f"was listed in {also}")
    for kind in _ORDER:
        if kind in by_kind:
            for path, reason in _of(by_kind[kind], found):
                found.setdefault(path, reason)
    return dict(sorted(found.items()))


def classes_left(index: FolderIndex, gone: Collection[str]) -> tuple[str, ...]:
    """The classes that `finetune` takes without these images: two different ones in all, one in each given split."""
    given: set[str | None] = {image.given for image in index.images}
    needed = given - {"test"}
    contents: dict[int, set[str]] = {label: set() for label in range(len(index.classes))}
    splits: dict[int, set[str | None]] = {label: set() for label in range(len(index.classes))}
    for image in index.images:
        if image.path not in gone:
            contents[image.label].add(image.sha256)
            splits[image.label].add(image.given)
    return tuple(
        name for label, name in enumerate(index.classes) if len(contents[label]) > 1 and needed <= splits[label]
    )


def hindrance(findings: Iterable[Finding], index: FolderIndex, gone: Collection[str]) -> str | None:
    """Why training is refused even without the images of the list, and what to do about it."""
    if _IN_THE_WAY & {finding.kind for finding in findings}:
        return "rename the class folders named above, which training refuses"
    if len(classes_left(index, gone)) < 2:
        return "take lines out, or add images: fewer than two classes are left"
    return None


def command(asked: CheckRequest, *, index: FolderIndex, gone: Collection[str]) -> str | None:
    """How to train without the images of the list; names the classes where some have too few left.

    None where the list is empty, or none was asked for.
    """
    left = classes_left(index, gone)
    if asked.quarantine is None or not gone:
        return None
    words = ["tlcli", "finetune", str(asked.data), "--exclude", str(asked.quarantine)]
    words += ["--model", asked.model] if asked.model else []
    words += ["--set", f"data.size=[{asked.size[0]},{asked.size[1]}]"] if asked.size else []
    if len(left) < len(index.classes):
        words += ["--set", f"data.classes={json.dumps(left, ensure_ascii=False)}"]
    return shlex.join(words)


def write_list(file: Path, found: dict[str, str], *, data: Path, use: str | None) -> None:
    """Write the list; it may be empty. `use` is the command that takes it."""
    remarks = (
        f"tlcli check {data}: {plural(len(found), 'image')}.{f' Use: {use}' if use else ''}",
        "A path relative to DATA, a tab, the reason. Take out a line to keep its image.",
    )
    exclude.write(file, found.items(), remarks=remarks)


def _of(finding: Finding, gone: Container[str]) -> Iterator[tuple[str, str]]:
    """Paths and reasons of one finding; `gone` are in the list already, so that none of them is the copy to keep."""
    notes = finding.notes or {}
    if finding.kind in _ALONE:
        for path in finding.paths:
            yield path, f"{_ALONE[finding.kind]}: {notes.get(path, '')}".rstrip(": ")
    for group in finding.groups:
        if finding.kind == "label_conflict":
            yield from ((path, f"the same as {_another(group, path)}, under another class") for path in group)
        elif finding.kind in _LEAKS:
            yield group[0], f"{_LEAKS[finding.kind]} {group[1]}, in another split"
        else:
            first, *rest = [path for path in group if path not in gone] or group
            yield from ((path, f"{_COPIES[finding.kind]} {first}") for path in rest)


def _another(group: tuple[str, ...], path: str) -> str:
    """A member of the group in another folder than this one, if there is one."""
    own = path.rpartition("/")[0]
    return next((other for other in group if other.rpartition("/")[0] != own), group[0])
