"""Findings about folders and names: what a survey shows before any image is opened."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tlcli.data.findings import Finding, Severity
from tlcli.doctor.survey import Survey, nfc
from tlcli.shown import counted

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


def findings(seen: Survey) -> Iterator[Finding]:
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
            f"folders inside class folders, with {counted(sum(seen.nested.values()), 'image')} that count for the class"
            " above",
            "If they are classes of their own, give the folder above them as DATA, or move them up.",
            tuple(sorted(seen.nested)),
            notes={path: counted(count, "image") for path, count in seen.nested.items()},
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
