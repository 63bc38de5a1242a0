"""Which images should better not be trained on, and why, as a list that `finetune --exclude` takes."""

from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from tlcli.data import exclude
from tlcli.data.findings import Finding

_ALONE = {
    "unreadable": "cannot be read",
    "truncated": "cut short",
    "empty": "zero bytes",
    "bomb": "takes absurdly much memory",
    "blank": "one colour only",
}
_LEAKS = {"leak": "the same as", "near_leak": "nearly the same as"}
_COPIES = {"duplicate": "a copy of", "near_duplicate": "nearly the same as"}
_ORDER = (*_ALONE, "label_conflict", *_LEAKS, *_COPIES)


def entries(findings: Iterable[Finding]) -> dict[str, str]:
    """Paths, sorted, each with the first reason that was found.

    Of copies, exact ones and near ones, all but one go; of copies under different classes all, since nobody knows
    which label is right; of copies in two splits the one in the earlier: train before val before test. Images that
    are nearly the same under different classes stay: they may be right.
    """
    by_kind = {finding.kind: finding for finding in findings}
    found: dict[str, str] = {}
    for kind in _ORDER:
        if kind in by_kind:
            for path, reason in _of(by_kind[kind], found):
                found.setdefault(path, reason)
    return dict(sorted(found.items()))


def write(file: Path, found: dict[str, str], *, data: Path) -> None:
    """Write the list; it may be empty."""
    remarks = (
        f"tlcli check {data}: {len(found)} images. Use: tlcli finetune {data} --exclude {file}",
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
