"""Scan a folder of class folders into a FolderIndex: which files are images, of which class, with which content."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tlcli.data.kinds import EXTENSIONS, is_image
from tlcli.errors import DataError, did_you_mean

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LAYOUT = "DATA holds one folder of images per class, or train/, val/ and test/ with class folders inside."

_NOT_SHOWN = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a scanned folder.

    Attributes:
        path: Relative to DATA with forward slashes; may begin with `..` for a val or test folder elsewhere.
        label: Position of its class in `FolderIndex.classes`.
        sha256: Of the file's bytes, 64 hex digits.
        bytes: Size of the file.
        given: The split whose folder it stands in, `train`, `val` or `test`; None where DATA has no such folders.
    """

    path: str
    label: int
    sha256: str
    bytes: int
    given: str | None


@dataclass(frozen=True)
class FolderIndex:
    """What a scan found.

    Attributes:
        root: DATA, absolute, links resolved.
        classes: Class names, Unicode NFC, in the order of the labels.
        images: Sorted by path.
        ignored: Paths of what is there and not used: files that are no images by name nor by content, images
            outside every class folder, and folders (with a slash at the end) beside `train/`.
        unreadable: Paths and reasons of images that the system does not let us read.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[ImageFile, ...]
    ignored: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...] = ()

    @property
    def given_splits(self) -> tuple[str, ...]:
        """Which of `train`, `val`, `test` have a folder of their own, in this order."""
        found = {image.given for image in self.images}
        return tuple(split for split in ("train", "val", "test") if split in found)

    def file(self, image: ImageFile) -> Path:
        """Where the image lies on disk."""
        return self.root / image.path

    def without(self, shas: Collection[str]) -> "FolderIndex":
        """The same index less the images of these contents; the classes stay."""
        return replace(self, images=tuple(image for image in self.images if image.sha256 not in shas))

    def counts(self) -> dict[str, int]:
        """Images of each class, in the order of the classes; a class may have 0 after `without`."""
        found = Counter(image.label for image in self.images)
        return {name: found[label] for label, name in enumerate(self.classes)}


@dataclass(frozen=True)
class _Place:
    """A folder of class folders, and the split it stands for."""

    folder: Path
    given: str | None


@dataclass(frozen=True)
class _Layout:
    places: tuple[_Place, ...]
    ignored: tuple[str, ...]


def scan(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    val: Path | None = None,
    test: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FolderIndex:
    """Find the classes and images under `root` and hash every image.

    `root` holds class folders, or `train/` beside `val/` (`valid/`, `validation/`) and `test/`. A class folder may
    have sub-folders. Names that begin with a dot are not looked at; links to folders are followed.

    Args:
        root: DATA.
        classes: A subset or an order of the class folders; sorted by name when None.
        val: A folder of class folders used as validation images in place of the one in `root`.
        test: The same for the test images.
        progress: Called with (files hashed, files).

    Raises:
        DataError: The folder is not there, cannot be read, or does not hold two classes of images.
    """
    with _readable():
        found = _surveyed(root, classes, {"val": val, "test": test})
        results = _hashed(found.root, found.files, progress)
    images = sorted((each for each in results if isinstance(each, ImageFile)), key=lambda image: image.path)
    unreadable = sorted(each for each in results if isinstance(each, tuple))
    return FolderIndex(found.root, found.classes, tuple(images), found.ignored, tuple(unreadable))


def check(
    root: Path, *, classes: Sequence[str] | None = None, val: Path | None = None, test: Path | None = None
) -> None:
    """Raise what `scan` would raise before it hashes the first image: quick, whatever the images' sizes."""
    with _readable():
        _surveyed(root, classes, {"val": val, "test": test})


def content_hash(path: Path) -> str:
    """Sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def images_under(folder: Path) -> list[Path]:
    """All images in a folder and below it, sorted; hidden ones are passed over.

    Raises:
        DataError: If something in it cannot be listed.
    """
    with _readable():
        return sorted(_sorted_out(folder)[0])


@dataclass(frozen=True)
class _Survey:
    """What lies where; `files` are paths with their label and given split."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, int, str | None], ...]
    ignored: tuple[str, ...]


def _surveyed(root: Path, classes: Sequence[str] | None, given: Mapping[str, Path | None]) -> _Survey:
    elsewhere = {split: folder for split, folder in given.items() if folder is not None}
    for what, folder in {"DATA": root, **{f"data.{split}": folder for split, folder in elsewhere.items()}}.items():
        _require_folder(folder, what)
    layout = _layout(root, {split: folder.resolve() for split, folder in elsewhere.items()})
    root = root.resolve()
    excluded = {place.folder for place in layout.places}
    found = [(place, _class_folders(place, excluded)) for place in layout.places]
    names = _chosen(layout.places[0].folder, sorted(found[0][1]), classes)
    for place, folders in found[1:]:
        _require_same_classes(place, folders, names, is_subset=classes is not None)
    ignored = list(layout.ignored)
    candidates: list[tuple[Path, int, str | None]] = []
    for place, folders in found:
        ignored += [_relative(path, root) for path in _visible(place.folder) if not path.is_dir()]
        for label, name in enumerate(names):
            images, others = _sorted_out(folders[name])
            ignored += [_relative(path, root) for path in others]
            if not images and place.given != "test":
                raise _no_images(folders[name], others)
            candidates += [(path, label, place.given) for path in images]
        if not any(given == place.given for _, _, given in candidates):
            raise DataError("the test folder holds no images", where=str(place.folder), hint="Fill or remove it.")
    return _Survey(root, names, tuple(candidates), tuple(sorted(ignored)))


def _layout(root: Path, elsewhere: dict[str, Path]) -> _Layout:
    """Decide between class folders and split folders."""
    folders = [path for path in _visible(root) if path.is_dir()]
    home = root.resolve()
    others = [path for path in folders if path.resolve() not in elsewhere.values()]
    splits = _split_folders(others)
    beside = "val" in splits or "test" in splits
    given = tuple(_Place(folder, split) for split, folder in sorted(elsewhere.items()))
    if "train" in splits and (beside or len(others) == 1) and _holds_folders(splits["train"]):
        places = {"train": _Place(home / splits["train"].name, "train")}
        places |= {split: _Place(home / path.name, split) for split, path in splits.items()}
        places |= {place.given: place for place in given if place.given}
        used = {place.folder for place in places.values()}
        unused = tuple(f"{path.name}/" for path in others if home / path.name not in used)
        ordered = tuple(places[split] for split in ("train", "val", "test") if split in places)
        return _Layout(ordered, unused)
    only_splits = bool(splits) and all(path.name.lower() in SPLIT_NAMES for path in others)
    if only_splits and "train" not in splits:
        names = " and ".join(f"{path.name}/" for path in others)
        raise DataError(f"holds {names} but no train/ folder", where=str(root), hint=LAYOUT)
    if only_splits and not _holds_folders(splits["train"]):
        train = splits["train"]
        images, _ = _sorted_out(train)
        hint = f"Sort the images into one folder per class, such as {train.name}/cat and {train.name}/dog."
        raise DataError(f"holds {len(images)} images but no class folders", where=str(train), hint=hint)
    return _Layout((_Place(home, "train" if given else None), *given), ())


def _split_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders with the name of a split. Only beside `train/` do two of one meaning matter."""
    pairs = [(SPLIT_NAMES[path.name.lower()], path) for path in folders if path.name.lower() in SPLIT_NAMES]
    splits = {split: path for split, path in reversed(pairs)}
    if "train" in splits and len(splits) < len(pairs):
        names = ", ".join(f"{path.name}/" for _, path in pairs)
        raise DataError(
            f"two folders stand for the same split (got {names})",
            where=str(folders[0].parent),
            hint="Keep one or join them.",
        )
    return splits


def _class_folders(place: _Place, excluded: Collection[Path]) -> dict[str, Path]:
    """Class name to folder. Names are Unicode NFC, as macOS and Linux write the same word differently."""
    folders: dict[str, Path] = {}
    for path in _visible(place.folder):
        if not path.is_dir() or path.resolve() in excluded:
            continue
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in path.name):
            raise DataError(
                f"the name of class folder {path.name!r} has characters that cannot be written to labels.txt",
                where=str(place.folder),
                hint="Rename the folder.",
            )
        name = unicodedata.normalize("NFC", path.name)
        if name in folders:
            raise DataError(
                f"two class folders have the same name, '{name}', in different Unicode forms",
                where=str(place.folder),
                hint="Join them or rename one.",
            )
        folders[name] = path
    return folders


def _chosen(folder: Path, found: Sequence[str], classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes to use, in order: all that were found, or those asked for."""
    if not found:
        images, _ = _sorted_out(folder)
        seen = f"holds {len(images)} images but no class folders" if images else "holds no images"
        raise DataError(seen, where=str(folder), hint=LAYOUT)
    wanted = [unicodedata.normalize("NFC", name) for name in classes] if classes is not None else list(found)
    for name in wanted:
        if name not in found:
            hint = f"Classes: {', '.join(found)}. {did_you_mean(name, found)}".rstrip()
            raise DataError(f"no class folder '{name}' in {folder}", where="data.classes", hint=hint)
    if doubled := [name for name, count in Counter(wanted).items() if count > 1]:
        raise DataError(f"class '{doubled[0]}' is named twice", where="data.classes", hint="Name each class once.")
    if len(wanted) < 2:
        hint = LAYOUT
        if classes is None and _holds_folders(folder / found[0]):
            hint = f"'{found[0]}' holds folders itself: give {folder / found[0]} instead?"
        seen = f"holds only one class (got '{wanted[0]}')" if wanted else "no class is left (got an empty list)"
        raise DataError(seen, where=str(folder) if classes is None else "data.classes", hint=hint)
    return tuple(wanted)


def _require_same_classes(
    place: _Place,
    folders: Collection[str],
    names: Sequence[str],
    *,
    is_subset: bool,
) -> None:
    missing = [name for name in names if name not in folders]
    extra = [] if is_subset else sorted(set(folders) - set(names))
    if missing or extra:
        said = " and ".join(
            f"{word} {', '.join(listed)}" for word, listed in (("lacks", missing), ("also has", extra)) if listed
        )
        raise DataError(
            f"the {place.given} folder {said}, unlike the training images",
            where=str(place.folder),
            hint=f"Classes: {', '.join(names)}. Every split needs the same class folders.",
        )


def _no_images(folder: Path, others: Sequence[Path]) -> DataError:
    seen = f"{len(others)} other files such as '{others[0].name}'" if others else "empty"
    known = " ".join(sorted(EXTENSIONS))
    return DataError(
        f"class folder '{folder.name}' holds no images ({seen})",
        where=str(folder),
        hint=f"Remove the folder or put images into it ({known}).",
    )


def _require_folder(path: Path, what: str) -> None:
    if path.is_dir():
        return
    if path.exists():
        raise DataError(f"{what} is a file, a folder is expected", where=str(path), hint=LAYOUT)
    parent = path.absolute().parent
    near = [entry.name for entry in _visible(parent) if entry.is_dir()] if parent.is_dir() else []
    hint = did_you_mean(path.name, near) or LAYOUT
    raise DataError(f"{what} is not there, no such folder", where=str(path), hint=hint)


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden entries."""
    names = (name for name in sorted(os.listdir(folder)) if not name.startswith("."))
    return [folder / name for name in names if name.lower() not in _NOT_SHOWN]


def _holds_folders(folder: Path) -> bool:
    return any(path.is_dir() for path in _visible(folder))


def _walk(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Every visible file below `folder`. A link back to a folder above is not entered."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for path in _visible(folder):
        if path.is_dir():
            yield from _walk(path, above | {here})
        else:
            yield path


def _sorted_out(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images below a folder, and its other files."""
    images: list[Path] = []
    others: list[Path] = []
    for path in _walk(folder):
        (images if is_image(path) else others).append(path)
    return images, others


def _hashed(
    root: Path,
    candidates: Sequence[tuple[Path, int, str | None]],
    progress: Callable[[int, int], None] | None,
) -> list[ImageFile | tuple[str, str]]:
    """For each candidate its ImageFile, or its path and why it could not be read."""

    def one(candidate: tuple[Path, int, str | None]) -> ImageFile | tuple[str, str]:
        path, label, given = candidate
        relative = _relative(path, root)
        try:
            return ImageFile(relative, label, content_hash(path), path.stat().st_size, given)
        except OSError as error:
            return relative, f"cannot be read ({error.strerror})"

    results: list[ImageFile | tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        for result in pool.map(one, candidates):
            results.append(result)
            if progress:
                progress(len(results), len(candidates))
    return results


@contextmanager
def _readable() -> Iterator[None]:
    """Turn the system's refusal to list or read something into a DataError that names it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        message = f"cannot be read ({error.strerror})"
        raise DataError(message, where=str(error.filename), hint="Check its permissions.") from error


def _relative(path: Path, root: Path) -> str:
    relative = Path(os.path.relpath(path, root)).as_posix()
    if any(unicodedata.category(character) == "Cs" for character in relative):
        raise DataError(f"the file name {relative!r} is not valid UTF-8", where=str(root), hint="Rename the file.")
    return relative
