"""What lies in DATA, noted without giving up: where `finetune` would refuse, the survey goes on."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tlcli.data import exclude as exclusions
from tlcli.data import folder, layout
from tlcli.data.layout import LAYOUT, Place
from tlcli.errors import DataError


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
    places: Mapping[Place, Sequence[Path]]
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
        return folder.path_in(self.root, of)


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
        folder.check(root)
        raise DataError("holds no class folders", where=str(root), hint=LAYOUT)
    labels = {name: label for label, name in enumerate(classes)}
    for place, folders in places.items():
        walk.beside(place, folders)
        for path in folders:
            walk.into(path, labels[nfc(path.name)], place.given)
    unwanted = exclusions.read(exclude) if exclude else None
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
        unmatched=() if unwanted is None else tuple(_unmatched(home, unwanted)),
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
        self.notes[kind][folder.path_in(self.root, path) + end] = reason

    def beside(self, place: Place, folders: Sequence[Path]) -> None:
        """Files beside the class folders."""
        files = [path for path in layout.visible(place.folder) if path not in folders and not os.path.isdir(path)]
        there = [path for path in files if not layout.is_broken_link(path, self.note)]
        images, others = layout.told_apart(there, self.note)
        self.stray += [folder.path_in(self.root, path) for path in images]
        self.others += [folder.path_in(self.root, path) for path in others]

    def into(self, path: Path, label: int, given: str | None) -> None:
        """Everything in a class folder."""
        images, others = layout.sorted_out(path, self.note)
        self.files += [Candidate(folder.path_in(self.root, image), label, given) for image in images]
        self.others += [folder.path_in(self.root, other) for other in others]
        for image in images:
            below = image.relative_to(path).parts
            if len(below) > 1:
                self.nested[f"{folder.path_in(self.root, path / below[0])}/"] += 1


def nfc(name: str) -> str:
    """A class name as the program knows it."""
    return unicodedata.normalize("NFC", name)


def _unmatched(root: Path, unwanted: exclusions.Exclusions) -> list[tuple[str, str]]:
    missing = folder.unmatched(root, unwanted)
    return [(f"{unwanted.file}:{number}", path) for number, path in missing]
