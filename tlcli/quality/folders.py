"""Survey of DATA, and findings about its folders and names."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tlcli.data import layout, source
from tlcli.data.exclude import Exclusions, read
from tlcli.data.layout import LAYOUT, SplitFolder
from tlcli.errors import DataError
from tlcli.quality.finding import Finding, Severity
from tlcli.text import plural


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that is an image by its name or its first bytes: its path relative to DATA, label and given split."""

    path: str
    label: int
    given: str | None


@dataclass(frozen=True)
class Survey:
    """What lies where; all paths relative to DATA, those of folders with a slash at the end.

    Attributes:
        root: DATA, absolute, links resolved.
        classes: Names of all class folders of all splits, Unicode NFC, sorted.
        places: For each split folder, or for DATA itself, its class folders.
        files: Images that are not excluded, sorted by path.
        others: Files that are no images.
        stray: Images outside every class folder.
        unused: Folders beside `train/` that stand for no split.
        nested: Folders in class folders, with the number of images in and below them.
        notes: What the walk passed over, by kind (see `layout.Note`): path and reason.
        excluded: How many images a list leaves out.
        unmatched: Lines of that list, `FILE:NUMBER`, and the path for which there is no file.
    """

    root: Path
    classes: tuple[str, ...]
    places: Mapping[SplitFolder, Sequence[Path]]
    files: tuple[Candidate, ...]
    others: tuple[str, ...]
    stray: tuple[str, ...]
    unused: tuple[str, ...]
    nested: Mapping[str, int]
    notes: Mapping[str, Mapping[str, str]]
    excluded: int
    unmatched: tuple[tuple[str, str], ...]

    def path(self, of: Path) -> str:
        """A path as it is shown."""
        return source.path_in(self.root, of)


def survey(root: Path, *, exclude: Path | None = None) -> Survey:
    """Find classes and images. `exclude` is a list of images to pass over.

    Raises:
        DataError: The folder is not there, cannot be read, or has nothing in it that could be a class.
    """
    layout.require_folder(root, "DATA")
    with layout.readable():
        found = layout.find(root, {})
    home = root.resolve()
    walk = _Walk(home)
    taken = {place.folder for place in found.places}
    places = {place: layout.class_folders(place, taken, walk.note) for place in found.places}
    classes = tuple(sorted({nfc(path.name) for folders in places.values() for path in folders}))
    if not classes:
        source.check_layout(root)
        raise DataError("holds no class folders", where=str(root), hint=LAYOUT)
    labels = {name: label for label, name in enumerate(classes)}
    for place, folders in places.items():
        walk.beside(place, folders)
        for path in folders:
            walk.into(path, labels[nfc(path.name)], place.given)
    unwanted = read(exclude) if exclude else None
    kept = [file for file in walk.files if unwanted is None or file.path not in unwanted]
    return Survey(
        root=home,
        classes=classes,
        places=places,
        files=tuple(sorted(kept, key=lambda file: file.path)),
        others=tuple(sorted(walk.others)),
        stray=tuple(sorted(walk.stray)),
        unused=found.ignored,
        nested=walk.nested,
        notes=walk.notes,
        excluded=len(walk.files) - len(kept),
        unmatched=() if unwanted is None else tuple(_unmatched_lines(home, unwanted)),
    )


@dataclass
class _Walk:
    """Collects while it goes."""

    root: Path
    files: list[Candidate] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    nested: Counter[str] = field(default_factory=Counter)
    notes: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def note(self, kind: str, path: Path, reason: str) -> None:
        """Take down what was passed over."""
        end = "/" if os.path.isdir(path) and not path.is_symlink() else ""
        self.notes[kind][source.path_in(self.root, path) + end] = reason

    def beside(self, place: SplitFolder, folders: Sequence[Path]) -> None:
        """Files beside the class folders."""
        files = [path for path in layout.visible(place.folder) if path not in folders and not os.path.isdir(path)]
        there = [path for path in files if not layout.is_broken_link(path, self.note)]
        images, others = layout.split_images(there, self.note)
        self.stray += [source.path_in(self.root, path) for path in images]
        self.others += [source.path_in(self.root, path) for path in others]

    def into(self, path: Path, label: int, given: str | None) -> None:
        """Everything in a class folder."""
        images, others = layout.files_under(path, self.note)
        self.files += [Candidate(source.path_in(self.root, image), label, given) for image in images]
        self.others += [source.path_in(self.root, other) for other in others]
        for image in images:
            below = image.relative_to(path).parts
            if len(below) > 1:
                self.nested[f"{source.path_in(self.root, path / below[0])}/"] += 1


def nfc(name: str) -> str:
    """A class name as the program knows it."""
    return unicodedata.normalize("NFC", name)


def _unmatched_lines(root: Path, unwanted: Exclusions) -> list[tuple[str, str]]:
    missing = source.unmatched(root, unwanted)
    return [(f"{unwanted.file}:{number}", path) for number, path in missing]


# Pictures of formats that are not read, by the ends of their names.
_OTHER_PICTURES = (
    ".heic .heif .avif .jp2 .j2k .jpx .jxl .psd .svg .ico .eps .exr .hdr .tga .ppm .pgm .pbm .pnm .dcm"
    " .arw .cr2 .cr3 .dng .erf .kdc .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srw .mp4 .mov .avi .webm"
)
_PICTURES = frozenset(_OTHER_PICTURES.split())
_NOTED: Mapping[str, tuple[Severity, str, str]] = {
    "no_permission": ("error", "that may not be read", "Change their permissions."),
    "link_loop": ("warning", "that are links in a circle, not followed", "Remove the links."),
    "broken_link": ("warning", "that are links to nowhere", "Remove the links, or bring back what they lead to."),
    "hidden": ("info", "that are hidden or of the system, passed over", "Rename them if they hold images you want."),
}


def folder_findings(seen: Survey) -> Iterator[Finding]:
    """Everything wrong with folders and names; classes that are alike, few or uneven are found elsewhere."""
    yield from _noted(seen)
    yield from _different_classes(seen)
    yield from _empty_classes(seen)
    yield from _bad_names(seen)
    yield from _nested(seen)
    yield from _unused(seen)
    yield from _other_files(seen)
    yield from _unmatched(seen)


def _noted(seen: Survey) -> Iterator[Finding]:
    for kind, (severity, what, remedy) in _NOTED.items():
        if noted := seen.notes.get(kind):
            said = {path: reason for path, reason in noted.items() if reason}
            yield Finding(kind, severity, f"files or folders {what}", remedy, tuple(sorted(noted)), notes=said)


def _different_classes(seen: Survey) -> Iterator[Finding]:
    """Splits whose class folders are not those of the training images."""
    (first, folders), *rest = seen.places.items()
    expected = {nfc(path.name) for path in folders}
    notes: dict[str, str] = {}
    for place, found in rest:
        names = {nfc(path.name) for path in found}
        notes |= {f"{seen.path(place.folder)}/{name}/": "is missing" for name in sorted(expected - names)}
        more = f"has no folder in {seen.path(first.folder)}/"
        notes |= {f"{seen.path(place.folder)}/{name}/": more for name in sorted(names - expected)}
    if notes:
        yield Finding(
            "different_classes",
            "error",
            "class folders that only some of the splits have; programs that number the classes of each split by"
            " themselves mix them up",
            "Give every split the same class folders, or leave classes out with data.classes.",
            tuple(notes),
            notes=notes,
        )


def _empty_classes(seen: Survey) -> Iterator[Finding]:
    filled = Counter((file.given, file.label) for file in seen.files)
    labels = {name: label for label, name in enumerate(seen.classes)}
    severities: tuple[tuple[bool, Severity], ...] = ((False, "error"), (True, "warning"))
    for is_test, severity in severities:
        empty = tuple(
            f"{seen.path(path)}/"
            for place, folders in seen.places.items()
            for path in folders
            if (place.given == "test") == is_test and not filled[place.given, labels[nfc(path.name)]]
        )
        if empty:
            what = "class folders without images" + (", so no test score says anything of them" if is_test else "")
            kind = "empty_test_class" if is_test else "empty_class"
            yield Finding(kind, severity, what, "Fill them or remove them.", empty)


def _bad_names(seen: Survey) -> Iterator[Finding]:
    """Names that cannot be written to labels.txt and splits.csv, and class folders that are the same word twice."""
    folders = [path for found in seen.places.values() for path in found]
    classes = tuple(f"{seen.path(path)}/" for path in folders if _has(path.name, "Cc", "Cs"))
    if classes:
        message = "class folders with control characters or bytes that are no UTF-8 in their names"
        yield Finding("bad_class_name", "error", message, "Rename the folders.", classes)
    twice = [
        tuple(f"{seen.path(path)}/" for path in same)
        for found in seen.places.values()
        for same in _by_name(found)
        if len(same) > 1
    ]
    if twice:
        message = "class folders with the same name in different Unicode forms"
        paths = tuple(path for same in twice for path in same)
        yield Finding("same_class_name", "error", message, "Join them or rename one.", paths, tuple(twice))
    files = tuple(file.path for file in seen.files if _has(Path(file.path).name, "Cs"))
    if files:
        yield Finding("bad_file_name", "error", "file names that are no valid UTF-8", "Rename the files.", files)


def _nested(seen: Survey) -> Iterator[Finding]:
    if seen.nested:
        yield Finding(
            "nested",
            "warning",
            f"folders inside class folders, with {plural(sum(seen.nested.values()), 'image')} that count for the class"
            " above",
            "If they are classes of their own, give the folder above them as DATA, or move them up.",
            tuple(sorted(seen.nested)),
            notes={path: plural(count, "image") for path, count in seen.nested.items()},
        )


def _unused(seen: Survey) -> Iterator[Finding]:
    if seen.stray:
        message = "images outside every class folder, not used"
        yield Finding("stray", "warning", message, "Move them into the folder of their class.", seen.stray)
    if seen.unused:
        message = "folders beside train/ that stand for no split, not used"
        yield Finding("unused_folder", "warning", message, "Move them away, or name them val or test.", seen.unused)


def _other_files(seen: Survey) -> Iterator[Finding]:
    """Files that are no images: pictures of formats that are not read, and the rest."""
    pictures = tuple(path for path in seen.others if Path(path).suffix.lower() in _PICTURES)
    rest = tuple(path for path in seen.others if Path(path).suffix.lower() not in _PICTURES)
    if pictures:
        message = f"pictures or films of kinds that are not read ({_suffixes(pictures)}), passed over"
        yield Finding("unread_format", "warning", message, "Convert them to JPEG or PNG.", pictures)
    if rest:
        message = f"files that are no images ({_suffixes(rest)}), passed over"
        yield Finding("not_an_image", "info", message, "Nothing has to be done.", rest)


def _unmatched(seen: Survey) -> Iterator[Finding]:
    if seen.unmatched:
        yield Finding(
            "unmatched_exclusion",
            "warning",
            "lines of the list of --exclude for which there is no file",
            "Correct or remove the lines.",
            tuple(path for _, path in seen.unmatched),
            notes={path: where for where, path in seen.unmatched},
        )


def _has(name: str, *categories: str) -> bool:
    return any(unicodedata.category(character) in categories for character in name)


def _by_name(folders: Sequence[Path]) -> list[list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in folders:
        found.setdefault(nfc(path.name), []).append(path)
    return list(found.values())


def _suffixes(paths: tuple[str, ...]) -> str:
    counted = Counter(Path(path).suffix.lower() or "no suffix" for path in paths).most_common()
    listed = ", ".join(f"{count} {suffix}" for suffix, count in counted[:5])
    return listed + (" …" if len(counted) > 5 else "")
