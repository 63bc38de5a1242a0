"""The story of a check, from DATA to findings."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tlcli.data import findings as cheap
from tlcli.data import folder, split, workers
from tlcli.data.findings import SEVERITIES, Finding, Severity
from tlcli.data.folder import FolderIndex
from tlcli.data.pixels import enough
from tlcli.doctor import copies, folders, pictures
from tlcli.doctor.look import KILLED, look_at
from tlcli.doctor.seen import Seen, index_of
from tlcli.doctor.survey import Survey, survey
from tlcli.errors import DataError
from tlcli.shown import encodable

Progress = Callable[[str, int, int], None]
"""Told (stage, done, total)."""

# Errors of these kinds say already why `finetune` would not begin.
_REFUSALS = frozenset(
    {
        "no_permission",
        "different_classes",
        "empty_class",
        "bad_class_name",
        "same_class_name",
        "bad_file_name",
        "too_small_class",
    }
)
# The shares that `finetune` splits by where nobody says otherwise.
_SHARE = 0.15


@dataclass(frozen=True)
class Examination:
    """What a check brought out.

    Attributes:
        data: DATA, as it was given.
        index: The images that could be decoded.
        files: How many files were seen, images or not.
        excluded: Images passed over because a list says so.
        size: `(height, width)` of the network's input, pixels.
        seconds: It took.
        findings: Errors first, then warnings, then what is good to know.
    """

    data: Path
    index: FolderIndex
    files: int
    excluded: int
    size: tuple[int, int]
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def splits(self) -> dict[str, int]:
        """Given splits with their numbers of images; empty where DATA has none."""
        given = Counter(image.given for image in self.index.images)
        return {name: given[name] for name in self.index.given_splits}

    def reaches(self, severity: Severity | Literal["never"]) -> bool:
        """Whether something was found that is as severe; `never` is beyond all."""
        if severity == "never":
            return False
        limit = SEVERITIES.index(severity)
        return any(SEVERITIES.index(finding.severity) <= limit for finding in self.findings)

    def summary(self) -> str:
        """What was looked at, in a line."""
        splits = ", ".join(f"{count} {name}" for name, count in self.splits.items())
        excluded = f", {self.excluded} excluded" if self.excluded else ""
        counts = [(each, sum(found.severity == each for found in self.findings)) for each in ("error", "warning")]
        told = " and ".join(f"{count} {each}{'s' * (count != 1)}" for each, count in counts)
        return (
            f"{len(self.index.images)} images that can be read in {len(self.index.classes)} classes"
            f"{f' ({splits})' if splits else ''}, {self.files} files{excluded}: {told}"
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON shape of `tlcli check --json`."""
        return {
            "data": encodable(str(self.index.root)),
            "files": self.files,
            "images": len(self.index.images),
            "excluded": self.excluded,
            "classes": {encodable(name): count for name, count in self.index.counts().items()},
            "splits": self.splits,
            "size": list(self.size),
            "seconds": round(self.seconds, 3),
            "counts": {each: sum(found.severity == each for found in self.findings) for each in SEVERITIES},
            "findings": [finding.to_json() for finding in self.findings],
        }


def examine(data: Path, size: tuple[int, int], *, exclude: Path | None = None, progress: Progress) -> Examination:
    """Look at everything in DATA.

    Args:
        data: A folder of class folders, or one with `train/`, `val/`, `test/`.
        size: `(height, width)` of the network's input, pixels.
        exclude: A list of images to pass over.
        progress: Told of what goes on.

    Raises:
        DataError: There is nothing in DATA to look at.
    """
    began = time.perf_counter()
    found = survey(data, exclude=exclude)
    seen = _seen(found, size, progress)
    index = index_of(found, seen)
    listed = [*folders.findings(found), *_told_by_images(seen, index, size, progress)]
    listed = _joined([*listed, *_refusal(data, exclude, index, listed)])
    listed.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Examination(
        data=data,
        index=index,
        files=len(found.files) + len(found.others) + len(found.stray),
        excluded=found.excluded,
        size=size,
        seconds=time.perf_counter() - began,
        findings=tuple(listed),
    )


def _seen(found: Survey, size: tuple[int, int], progress: Progress) -> list[Seen]:
    """Look at every image; decoded as for training, where JPEG files come at a fraction of a great size."""
    paths = [str(found.root / file.path) for file in found.files]
    looks = workers.run(workers.Job(partial(look_at, at_least=enough(size)), KILLED), paths)
    seen = []
    for place, look in zip(found.files, looks, strict=True):
        seen.append(Seen(place, look))
        progress("decoding", len(seen), len(paths))
    return seen


def _told_by_images(
    seen: list[Seen], index: FolderIndex, size: tuple[int, int], progress: Progress
) -> Iterator[Finding]:
    hashes = {file.look.sha256: file.hashes for file in seen if file.hashes is not None}
    yield from copies.exact(index)
    yield from copies.nearly(index, hashes, progress=lambda done, total: progress("comparing", done, total))
    yield from cheap.cheap(index)
    yield from pictures.findings(seen, size)


def _joined(found: list[Finding]) -> list[Finding]:
    """One finding of each kind: folders and images that may not be read come from two places."""
    by_kind: dict[str, Finding] = {}
    for finding in found:
        if before := by_kind.get(finding.kind):
            notes = {**(before.notes or {}), **(finding.notes or {})}
            finding = replace(before, paths=(*before.paths, *finding.paths), notes=notes)
        by_kind[finding.kind] = finding
    return list(by_kind.values())


def _refusal(data: Path, exclude: Path | None, index: FolderIndex, found: list[Finding]) -> Iterator[Finding]:
    """Why `finetune` would not begin, if nothing that was found says so."""
    if any(finding.severity == "error" and finding.kind in _REFUSALS for finding in found):
        return
    given = index.given_splits
    try:
        folder.check(data, exclude=exclude)
        split.make(index, val=0.0 if "val" in given else _SHARE, test=0.0 if "test" in given else _SHARE)
    except DataError as error:
        yield Finding("refused", "error", f"finetune would not begin: {error.message}", error.hint, ("./",))
