"""Which images should better not be trained on, and why, as a list that `finetune --exclude` takes."""

from collections.abc import Iterable, Iterator
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


def entries(findings: Iterable[Finding]) -> dict[str, str]:
    """Paths, sorted, each with the first reason that was found.

    Of copies, exact ones and near ones, all but one go; of copies under different classes all, since nobody knows
    which label is right; of copies in two splits the one in the earlier: train before val before test. Images that
    are nearly the same under different classes stay: they may be right.
    """
    found: dict[str, str] = {}
    for finding in findings:
        for path, reason in _of(finding):
            found.setdefault(path, reason)
    return dict(sorted(found.items()))


def write(file: Path, found: dict[str, str], *, data: Path) -> None:
    """Write the list; it may be empty."""
    remarks = (
        f"tlcli check {data}: {len(found)} images. Use: tlcli finetune {data} --exclude {file}",
        "A path relative to DATA, a tab, the reason. Take out a line to keep its image.",
    )
    exclude.write(file, found.items(), remarks=remarks)


def _of(finding: Finding) -> Iterator[tuple[str, str]]:
    notes = finding.notes or {}
    if finding.kind in _ALONE:
        for path in finding.paths:
            yield path, f"{_ALONE[finding.kind]}: {notes.get(path, '')}".rstrip(": ")
    for group in finding.groups:
        first, *rest = group
        if finding.kind == "label_conflict":
            yield from ((path, f"the same as {_another(group, path)}, under another class") for path in group)
        elif finding.kind in ("leak", "near_leak"):
            like = "the same as" if finding.kind == "leak" else "nearly the same as"
            yield first, f"{like} {rest[0]}, in another split"
        elif finding.kind == "duplicate":
            yield from ((path, f"a copy of {first}") for path in rest)
        elif finding.kind == "near_duplicate":
            yield from ((path, f"nearly the same as {first}") for path in rest)


def _another(group: tuple[str, ...], path: str) -> str:
    """A member of the group in another folder than this one, if there is one."""
    own = path.rpartition("/")[0]
    return next((other for other in group if other.rpartition("/")[0] != own), group[0])
