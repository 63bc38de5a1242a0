"""Survey of DATA, and findings about its folders and names."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tlcli.data import layout, manifest, source
from tlcli.data.exclude import ExclusionList, read_list, unmatched
from tlcli.data.layout import LAYOUT, SplitFolder
from tlcli.errors import DataError
from tlcli.quality.finding import Finding, Severity
from tlcli.text import plural

_UNSUPPORTED = (
    ".heic .heif .avif .jp2 .j2k .jpx .jxl .psd .svg .ico .eps .exr .hdr .tga .ppm .pgm .pbm .pnm .dcm"
    " .arw .cr2 .cr3 .dng .erf .kdc .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srw .mp4 .mov .avi .webm"
)
_UNSUPPORTED_SUFFIXES = frozenset(_UNSUPPORTED.split())
# Severity, message and remedy of each kind that `layout.OnSkip` receives.
_SKIPPED: Mapping[str, tuple[Severity, str, str]] = {
    "no_permission": ("error", "permission to read files or folders is denied", "Change their permissions."),
    "link_loop": ("warning", "links lead in a circle and were not followed", "Remove the links."),
    "broken_link": ("warning", "links lead nowhere", "Remove the links, or restore their targets."),
    "hidden": ("info", "hidden and system files were skipped", "Rename them if they hold images to use."),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that is an image by its name or its first bytes: path relative to DATA, label, given split and group."""

    path: str
    label: int
    given: str | None
    group: str | None = None


@dataclass(frozen=True)
class Survey:
    """The files and folders of DATA. All paths are relative to DATA; those of folders have a slash at the end.

    Attributes:
        root: DATA, absolute, links resolved.
        classes: Names of all class folders of all splits, Unicode NFC, sorted.
        split_folders: Each split folder, or DATA itself, to its class folders; empty for a manifest.
        files: Images that are not excluded, sorted by path.
        others: Files that are not images.
        stray: Images outside every class folder.
        unused: Folders beside `train/` that are not a split.
        nested: Folders in class folders, to the number of images in and below them.
        skipped: Kind (see `layout.OnSkip`) to the skipped paths with their reasons.
        excluded: Number of images that the exclusion list leaves out.
        unmatched: Lines of the exclusion list, `FILE:NUMBER` and path, that match no file.
    """

    root: Path
    classes: tuple[str, ...]
    split_folders: Mapping[SplitFolder, Sequence[Path]]
    files: tuple[Candidate, ...]
    others: tuple[str, ...]
    stray: tuple[str, ...]
    unused: tuple[str, ...]
    nested: Mapping[str, int]
    skipped: Mapping[str, Mapping[str, str]]
    excluded: int
    unmatched: tuple[tuple[str, str], ...]

    def relative(self, path: Path) -> str:
        """A path relative to DATA."""
        return source.path_in(self.root, path)


def survey(root: Path, *, exclude: Path | None = None) -> Survey:
    """Find the classes and images of DATA, and everything beside them. `exclude` is a list of images to leave out.

    Raises:
        DataError: If the folder does not exist, cannot be read, or holds nothing that could be a class.
    """
    if manifest.is_manifest(root):
        return _survey_manifest(root, exclude)
    layout.require_folder(root, "DATA")
    with layout.readable():
        data_layout = layout.find(root, {})
    home = root.resolve()
    walk = _Walk(home)
    own = {split_folder.folder for split_folder in data_layout.split_folders}
    split_folders = {
        split_folder: layout.class_folders(split_folder, own, walk.skip) for split_folder in data_layout.split_folders
    }
    classes = tuple(sorted({nfc(path.name) for folders in split_folders.values() for path in folders}))
    if not classes:
        source.check_layout(root)
        raise DataError("holds no class folders", where=str(root), hint=LAYOUT)
    labels = {name: label for label, name in enumerate(classes)}
    for split_folder, folders in split_folders.items():
        walk.add_loose_files(split_folder, folders)
        for path in folders:
            walk.add_class_folder(path, labels[nfc(path.name)], split_folder.split)
    exclusions = read_list(exclude) if exclude else None
    kept = [file for file in walk.files if exclusions is None or file.path not in exclusions]
    return Survey(
        root=home,
        classes=classes,
        split_folders=split_folders,
        files=tuple(sorted(kept, key=lambda file: file.path)),
        others=tuple(sorted(walk.others)),
        stray=tuple(sorted(walk.stray)),
        unused=data_layout.ignored,
        nested=walk.nested,
        skipped=walk.skipped,
        excluded=len(walk.files) - len(kept),
        unmatched=() if exclusions is None else _unmatched_lines(home, exclusions),
    )


def _survey_manifest(file: Path, exclude: Path | None) -> Survey:
    """The images of a manifest. It has no folders, and names no other files."""
    home, rows = manifest.home_of(file), manifest.read_rows(file)
    classes = tuple(sorted({row.label for row in rows}))
    exclusions = read_list(exclude) if exclude else None
    files = [Candidate(source.path_in(home, row.path), classes.index(row.label), row.split, row.group) for row in rows]
    kept = [file for file in files if exclusions is None or file.path not in exclusions]
    return Survey(
        root=home,
        classes=classes,
        split_folders={},
        files=tuple(sorted(kept, key=lambda candidate: candidate.path)),
        others=(),
        stray=(),
        unused=(),
        nested={},
        skipped={},
        excluded=len(files) - len(kept),
        unmatched=() if exclusions is None else _unmatched_lines(home, exclusions),
    )


@dataclass
class _Walk:
    """Collects the files of DATA while its folders are walked."""

    root: Path
    files: list[Candidate] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    nested: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def skip(self, kind: str, path: Path, reason: str) -> None:
        """Record a skipped path, see `layout.OnSkip`."""
        end = "/" if layout.is_folder(path) and not path.is_symlink() else ""
        self.skipped[kind][source.path_in(self.root, path) + end] = reason

    def add_loose_files(self, split_folder: SplitFolder, class_folders: Sequence[Path]) -> None:
        """Add the files beside the class folders."""
        entries = layout.visible(split_folder.folder)
        files = [path for path in entries if path not in class_folders and not layout.is_folder(path)]
        existing = [path for path in files if not layout.is_broken_link(path, self.skip)]
        images, others = layout.split_images(existing, self.skip)
        self.stray += [source.path_in(self.root, path) for path in images]
        self.others += [source.path_in(self.root, path) for path in others]

    def add_class_folder(self, folder: Path, label: int, given: str | None) -> None:
        """Add all files in and below a class folder."""
        images, others = layout.files_under(folder, self.skip)
        self.files += [Candidate(source.path_in(self.root, image), label, given) for image in images]
        self.others += [source.path_in(self.root, other) for other in others]
        for image in images:
            parts = image.relative_to(folder).parts
            if len(parts) > 1:
                self.nested[f"{source.path_in(self.root, folder / parts[0])}/"] += 1


def nfc(name: str) -> str:
    """The class name of a folder name: Unicode NFC."""
    return unicodedata.normalize("NFC", name)


def _unmatched_lines(root: Path, exclusions: ExclusionList) -> tuple[tuple[str, str], ...]:
    return tuple((f"{exclusions.file}:{number}", path) for number, path in unmatched(root, exclusions))


def folder_findings(surveyed: Survey) -> Iterator[Finding]:
    """All findings about folders and names, except those of `quick_findings`."""
    if not surveyed.split_folders:
        yield from _unmatched(surveyed)
        return
    yield from _skipped(surveyed)
    yield from _different_classes(surveyed)
    yield from _empty_classes(surveyed)
    yield from _bad_names(surveyed)
    yield from _nested(surveyed)
    yield from _unused(surveyed)
    yield from _other_files(surveyed)
    yield from _unmatched(surveyed)


def _skipped(surveyed: Survey) -> Iterator[Finding]:
    for kind, (severity, message, remedy) in _SKIPPED.items():
        if reasons := surveyed.skipped.get(kind):
            notes = {path: reason for path, reason in reasons.items() if reason}
            yield Finding(kind, severity, message, remedy, tuple(sorted(reasons)), notes=notes)


def _different_classes(surveyed: Survey) -> Iterator[Finding]:
    """Splits whose class folders differ from those of the training images."""
    (first, first_folders), *rest = surveyed.split_folders.items()
    expected = {nfc(path.name) for path in first_folders}
    extra = f"has no folder in {surveyed.relative(first.folder)}/"
    notes: dict[str, str] = {}
    for split_folder, folders in rest:
        names = {nfc(path.name) for path in folders}
        home = surveyed.relative(split_folder.folder)
        notes |= {f"{home}/{name}/": "is missing" for name in sorted(expected - names)}
        notes |= {f"{home}/{name}/": extra for name in sorted(names - expected)}
    if notes:
        yield Finding(
            "different_classes",
            "error",
            "some class folders are not in all splits; programs that number the classes of each split separately mix"
            " them up",
            "Give every split the same class folders, or leave classes out with data.classes.",
            tuple(notes),
            notes=notes,
        )


def _empty_classes(surveyed: Survey) -> Iterator[Finding]:
    counts = Counter((file.given, file.label) for file in surveyed.files)
    labels = {name: label for label, name in enumerate(surveyed.classes)}
    empty = [
        (split_folder.split == "test", f"{surveyed.relative(path)}/")
        for split_folder, folders in surveyed.split_folders.items()
        for path in folders
        if not counts[split_folder.split, labels[nfc(path.name)]]
    ]
    remedy = "Add images, or remove the folders."
    if paths := tuple(path for is_test, path in empty if not is_test):
        yield Finding("empty_class", "error", "class folders hold no images", remedy, paths)
    if paths := tuple(path for is_test, path in empty if is_test):
        message = "class folders of the test split hold no images; the test score does not cover these classes"
        yield Finding("empty_test_class", "warning", message, remedy, paths)


def _bad_names(surveyed: Survey) -> Iterator[Finding]:
    """Names that labels.txt and splits.csv cannot hold, and class folders with the same name."""
    folders = [path for class_folders in surveyed.split_folders.values() for path in class_folders]
    classes = tuple(f"{surveyed.relative(path)}/" for path in folders if _has_category(path.name, "Cc", "Cs"))
    if classes:
        message = "names of class folders have control characters, or bytes that are not UTF-8"
        yield Finding("bad_class_name", "error", message, "Rename the folders.", classes)
    groups = [
        tuple(f"{surveyed.relative(path)}/" for path in namesakes)
        for class_folders in surveyed.split_folders.values()
        for namesakes in _by_name(class_folders)
        if len(namesakes) > 1
    ]
    if groups:
        message = "class folders have the same name in different Unicode forms"
        paths = tuple(path for group in groups for path in group)
        yield Finding("same_class_name", "error", message, "Merge them, or rename one.", paths, tuple(groups))
    files = tuple(file.path for file in surveyed.files if _has_category(Path(file.path).name, "Cs"))
    if files:
        yield Finding("bad_file_name", "error", "file names are not valid UTF-8", "Rename the files.", files)


def _nested(surveyed: Survey) -> Iterator[Finding]:
    if surveyed.nested:
        yield Finding(
            "nested",
            "warning",
            f"class folders hold folders with {plural(sum(surveyed.nested.values()), 'image')}; these count for the"
            " class above",
            "If they are classes of their own, move them up, or give the folder above them as DATA.",
            tuple(sorted(surveyed.nested)),
            notes={path: plural(count, "image") for path, count in surveyed.nested.items()},
        )


def _unused(surveyed: Survey) -> Iterator[Finding]:
    if surveyed.stray:
        message = "images outside every class folder are not used"
        yield Finding("stray", "warning", message, "Move them into the folder of their class.", surveyed.stray)
    if surveyed.unused:
        message = "folders beside train/ that are not a split are not used"
        remedy = "Move them away, or name them val or test."
        yield Finding("unused_folder", "warning", message, remedy, surveyed.unused)


def _other_files(surveyed: Survey) -> Iterator[Finding]:
    """Files that are not images: those of unsupported image and video formats, and the rest."""
    unsupported = tuple(path for path in surveyed.others if Path(path).suffix.lower() in _UNSUPPORTED_SUFFIXES)
    rest = tuple(path for path in surveyed.others if Path(path).suffix.lower() not in _UNSUPPORTED_SUFFIXES)
    if unsupported:
        message = f"images or videos of unsupported formats were skipped ({_suffixes(unsupported)})"
        yield Finding("unsupported_format", "warning", message, "Convert them to JPEG or PNG.", unsupported)
    if rest:
        message = f"files that are not images were skipped ({_suffixes(rest)})"
        yield Finding("not_an_image", "info", message, "Nothing to do.", rest)


def _unmatched(surveyed: Survey) -> Iterator[Finding]:
    if surveyed.unmatched:
        yield Finding(
            "unmatched_exclusion",
            "warning",
            "lines of the --exclude list match no file",
            "Correct or remove the lines.",
            tuple(path for _, path in surveyed.unmatched),
            notes={path: line for line, path in surveyed.unmatched},
        )


def _has_category(name: str, *categories: str) -> bool:
    return any(unicodedata.category(character) in categories for character in name)


def _by_name(folders: Sequence[Path]) -> list[list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path in folders:
        groups.setdefault(nfc(path.name), []).append(path)
    return list(groups.values())


def _suffixes(paths: tuple[str, ...]) -> str:
    counts = Counter(Path(path).suffix.lower() or "no suffix" for path in paths).most_common()
    listed = ", ".join(f"{count} {suffix}" for suffix, count in counts[:5])
    return listed + (" …" if len(counts) > 5 else "")
