"""The check of DATA: its request, the check itself, and its result."""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tlcli.data import layout, manifest, source, split, workers
from tlcli.data.exclude import read_list
from tlcli.data.pixels import min_decode_size
from tlcli.data.source import FolderIndex
from tlcli.errors import DataError, UsageError
from tlcli.paths import require_new_file
from tlcli.quality import duplicates, folders, images
from tlcli.quality.finding import SEVERITIES, Finding, Severity, quick_findings
from tlcli.quality.folders import Survey, survey
from tlcli.quality.images import KILLED, CheckedFile, read_files, readable_index
from tlcli.storage.location import join
from tlcli.text import encodable, plural
from tlcli.zoo import catalogue, default, resolve

# The network that `finetune` chooses if none is named.
DEFAULT_MODEL = default.PREFERRED
# Longest side of a network's input, pixels.
MAX_SIDE = 4096

Progress = Callable[[str, int, int], None]
"""Receives (stage, done, total)."""

# Errors of these kinds already explain why `finetune` would not start.
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
# The default of data.val and data.test.
_DEFAULT_FRACTION = 0.15


@dataclass(frozen=True)
class CheckRequest:
    """The arguments of `tlcli check`. None: not given.

    Attributes:
        data: Folder of class folders.
        model: Network whose input size counts.
        size: Height and width instead of the network's own, pixels.
        exclude: List of images to leave out.
        html: Page to write.
        quarantine: List to write.
    """

    data: Path
    model: str | None = None
    size: tuple[int, int] | None = None
    exclude: Path | None = None
    html: Path | None = None
    quarantine: Path | None = None


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        data: DATA, as it was given.
        index: The images that can be decoded.
        files: Number of all files, images or not.
        excluded: Number of images that the exclusion list leaves out.
        size: `(height, width)` of the network's input, pixels.
        seconds: Duration of the check.
        findings: Errors first, then warnings, then infos.
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
        """Number of images of each given split; empty if DATA has none."""
        counts = Counter(image.given for image in self.index.images)
        return {name: counts[name] for name in self.index.given_splits}

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each severity."""
        counts = Counter(finding.severity for finding in self.findings)
        return {severity: counts[severity] for severity in SEVERITIES}

    def reaches(self, severity: Severity | Literal["never"]) -> bool:
        """True if a finding is at least as severe; never for `never`."""
        if severity == "never":
            return False
        limit = SEVERITIES.index(severity)
        return any(SEVERITIES.index(finding.severity) <= limit for finding in self.findings)

    def summary(self) -> str:
        """One line: number of images, classes, files, errors and warnings."""
        splits = ", ".join(f"{count} {name}" for name, count in self.splits.items())
        excluded = f", {self.excluded} excluded" if self.excluded else ""
        severities = " and ".join(plural(self.counts[severity], severity) for severity in ("error", "warning"))
        return (
            f"{plural(len(self.index.images), 'readable image')} in {plural(len(self.index.classes), 'class')}"
            f"{f' ({splits})' if splits else ''}, {plural(self.files, 'file')}{excluded}: {severities}"
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
            "counts": self.counts,
            "findings": [finding.to_json() for finding in self.findings],
        }


def check_request(request: CheckRequest) -> tuple[int, int]:
    """Check a request before any image is read; returns `(height, width)` of the network's input, pixels.

    Raises:
        TlcliError: For the first problem.
    """
    with layout.readable():
        if not manifest.is_manifest(request.data):
            layout.require_folder(request.data, "DATA")
    if request.exclude is not None:
        read_list(request.exclude)
    for option, path in (("--html", request.html), ("--quarantine", request.quarantine)):
        if path is not None:
            require_new_file(path, option, outside=request.data)
    if request.html is not None and request.quarantine is not None and _is_same(request.html, request.quarantine):
        hint = "Name two different files."
        raise UsageError("the page and the list are the same file", where="--html, --quarantine", hint=hint)
    return _input_size(request)


def _input_size(request: CheckRequest) -> tuple[int, int]:
    card = catalogue.find(request.model or DEFAULT_MODEL)
    size = request.size or (card.size, card.size)
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise UsageError(f"a side must be 1 to {MAX_SIDE} pixels (got {size[0]} {size[1]})", where="--size")
    if request.model is not None:
        resolve.check_size(card, size, where="--size")
    return size


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def check_images(data: Path, size: tuple[int, int], *, exclude: Path | None = None, progress: Progress) -> CheckResult:
    """Check every file of DATA.

    Args:
        data: A folder of class folders, or one with `train/`, `val/`, `test/`.
        size: `(height, width)` of the network's input, pixels.
        exclude: A list of images to leave out.
        progress: Receives (stage, done, total).

    Raises:
        DataError: If DATA holds nothing to check.
    """
    started = time.perf_counter()
    surveyed = survey(data, exclude=exclude)
    files = _read_all(surveyed, size, progress)
    index = readable_index(surveyed, files)
    of_folders = list(folders.folder_findings(surveyed))
    paths = [path for finding in of_folders if finding.kind == "empty_class" for path in finding.paths]
    empty = {folders.nfc(path.rstrip("/").rpartition("/")[2]) for path in paths}
    findings = [*of_folders, *_findings_of_images(files, index, size, progress, empty)]
    findings = _merge([*findings, *_findings_of_split(data, exclude, index, findings)])
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return CheckResult(
        data=data,
        index=index,
        files=len(surveyed.files) + len(surveyed.others) + len(surveyed.stray),
        excluded=surveyed.excluded,
        size=size,
        seconds=time.perf_counter() - started,
        findings=tuple(findings),
    )


def _read_all(surveyed: Survey, size: tuple[int, int], progress: Progress) -> list[CheckedFile]:
    """Read and decode every image as for training, where large JPEG files are decoded small."""
    paths = [join(surveyed.root, file.path) for file in surveyed.files]
    contents = workers.run(workers.Job(partial(read_files, min_size=min_decode_size(size)), KILLED), paths)
    files = []
    for candidate, content in zip(surveyed.files, contents, strict=True):
        files.append(CheckedFile(candidate, content))
        progress("decoding", len(files), len(paths))
    return files


def _findings_of_images(
    files: list[CheckedFile], index: FolderIndex, size: tuple[int, int], progress: Progress, empty: Collection[str]
) -> Iterator[Finding]:
    """All findings about images and class sizes, except that the classes `empty` are too small."""
    hashes = {file.content.sha256: file.hashes for file in files if file.hashes is not None}
    yield from duplicates.exact_duplicates(index)
    yield from duplicates.near_duplicate_findings(
        index, hashes, progress=lambda done, total: progress("comparing images", done, total)
    )
    yield from quick_findings(index, known_empty=empty)
    yield from images.image_findings(files, size)


def _merge(findings: list[Finding]) -> list[Finding]:
    """One finding per kind: `no_permission` comes from both folders and images."""
    by_kind: dict[str, Finding] = {}
    for finding in findings:
        if before := by_kind.get(finding.kind):
            notes = {**(before.notes or {}), **(finding.notes or {})}
            finding = replace(before, paths=(*before.paths, *finding.paths), notes=notes)
        by_kind[finding.kind] = finding
    return list(by_kind.values())


def _findings_of_split(
    data: Path, exclude: Path | None, index: FolderIndex, findings: list[Finding]
) -> Iterator[Finding]:
    """Why `finetune` would not start, if no other finding explains it; else the classes that it could not test."""
    if any(finding.severity == "error" and finding.kind in _REFUSALS for finding in findings):
        return
    given = index.given_splits
    val, test = (0.0 if name in given else _DEFAULT_FRACTION for name in ("val", "test"))
    try:
        source.check_layout(data, exclude=exclude)
        splits = split.make_splits(index, val=val, test=test, near=_near_groups(index, findings))
    except DataError as error:
        yield Finding("refused", "error", f"finetune would not start: {error.message}", error.hint, ("./",))
        return
    tested = {image.label for image in splits.test}
    if test and (untested := tuple(f"{name}/" for label, name in enumerate(index.classes) if label not in tested)):
        message = "classes get no test images, because they have too few; the test score does not cover them"
        yield Finding("empty_test_class", "warning", message, "Add images, or set data.test.", untested)


def _near_groups(index: FolderIndex, findings: list[Finding]) -> list[set[str]]:
    """The contents (sha256) of each group of near-duplicates, which share a split."""
    contents = {image.path: image.sha256 for image in index.images}
    groups = (finding.groups for finding in findings if finding.kind == "near_duplicate")
    return [{contents[path] for path in group} for group in next(groups, ())]
