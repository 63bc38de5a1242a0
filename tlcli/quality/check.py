"""The whole check of DATA: request, survey, findings, result."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tlcli.data import layout, source, split, workers
from tlcli.data.exclude import read
from tlcli.data.pixels import enough
from tlcli.data.source import FolderIndex
from tlcli.errors import DataError, UsageError
from tlcli.paths import require_new_file
from tlcli.quality import duplicates, folders, images
from tlcli.quality.finding import SEVERITIES, Finding, Severity, quick_findings
from tlcli.quality.folders import Survey, survey
from tlcli.quality.images import KILLED, CheckedFile, index_of, read_files
from tlcli.text import encodable
from tlcli.zoo import catalogue, resolve

# What `finetune` takes where nobody names a network and its weights can be had.
MODEL = "mobilenet_v2"
LARGEST = 4096


@dataclass(frozen=True)
class CheckRequest:
    """What was asked for. None is: not said.

    Attributes:
        data: Folder of class folders.
        model: Network whose input size counts.
        size: Height and width instead of its own, pixels.
        exclude: List of images to pass over.
        html: Page to write.
        quarantine: List to write.
    """

    data: Path
    model: str | None = None
    size: tuple[int, int] | None = None
    exclude: Path | None = None
    html: Path | None = None
    quarantine: Path | None = None


def check_request(request: CheckRequest) -> tuple[int, int]:
    """Check all that was asked for; returns `(height, width)` of the network's input, pixels.

    Raises:
        TlcliError: For the first thing that is wrong.
    """
    layout.require_folder(request.data, "DATA")
    if request.exclude is not None:
        read(request.exclude)
    for option, path in (("--html", request.html), ("--quarantine", request.quarantine)):
        if path is not None:
            require_new_file(path, option, outside=request.data)
    if request.html is not None and request.quarantine is not None and _same(request.html, request.quarantine):
        raise UsageError("the page and the list are the same file", where="--html, --quarantine", hint="Name two.")
    return _input_size(request)


def _input_size(request: CheckRequest) -> tuple[int, int]:
    card = catalogue.find(request.model or MODEL)
    size = request.size or (card.size, card.size)
    if not all(1 <= side <= LARGEST for side in size):
        raise UsageError(f"a side is 1 to {LARGEST} pixels (got {size[0]} {size[1]})", where="--size")
    if request.model is not None:
        resolve.check_size(card, size, where="--size")
    return size


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


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
class CheckResult:
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


def check_images(data: Path, size: tuple[int, int], *, exclude: Path | None = None, progress: Progress) -> CheckResult:
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
    seen = _read_all(found, size, progress)
    index = index_of(found, seen)
    listed = [*folders.folder_findings(found), *_findings_of_images(seen, index, size, progress)]
    listed = _merged([*listed, *_refusal(data, exclude, index, listed)])
    listed.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return CheckResult(
        data=data,
        index=index,
        files=len(found.files) + len(found.others) + len(found.stray),
        excluded=found.excluded,
        size=size,
        seconds=time.perf_counter() - began,
        findings=tuple(listed),
    )


def _read_all(found: Survey, size: tuple[int, int], progress: Progress) -> list[CheckedFile]:
    """Look at every image; decoded as for training, where JPEG files come at a fraction of a great size."""
    paths = [str(found.root / file.path) for file in found.files]
    looks = workers.run(workers.Job(partial(read_files, at_least=enough(size)), KILLED), paths)
    seen = []
    for place, look in zip(found.files, looks, strict=True):
        seen.append(CheckedFile(place, look))
        progress("decoding", len(seen), len(paths))
    return seen


def _findings_of_images(
    seen: list[CheckedFile], index: FolderIndex, size: tuple[int, int], progress: Progress
) -> Iterator[Finding]:
    hashes = {file.look.sha256: file.hashes for file in seen if file.hashes is not None}
    yield from duplicates.exact_duplicates(index)
    yield from duplicates.near_duplicate_findings(
        index, hashes, progress=lambda done, total: progress("comparing", done, total)
    )
    yield from quick_findings(index)
    yield from images.image_findings(seen, size)


def _merged(found: list[Finding]) -> list[Finding]:
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
        source.check_layout(data, exclude=exclude)
        split.make_splits(index, val=0.0 if "val" in given else _SHARE, test=0.0 if "test" in given else _SHARE)
    except DataError as error:
        yield Finding("refused", "error", f"finetune would not begin: {error.message}", error.hint, ("./",))
