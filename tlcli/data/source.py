"""Scan a folder of class folders into a FolderIndex: which files are images, of which class, with which content."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tlcli.data import layout
from tlcli.data.decode import EXTENSIONS
from tlcli.data.exclude import Exclusions, read
from tlcli.data.layout import LAYOUT, SplitFolder
from tlcli.errors import DataError, did_you_mean
from tlcli.text import encodable, printable


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
        excluded: Images that were left out because a list says so.
        unmatched: Lines of that list, number and path, for which there is no file.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[ImageFile, ...]
    ignored: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    excluded: tuple[str, ...] = ()
    unmatched: tuple[tuple[int, str], ...] = ()

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


def scan(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    val: Path | None = None,
    test: Path | None = None,
    exclude: Path | None = None,
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
        exclude: A list of images that are left out.
        progress: Called with (files hashed, files).

    Raises:
        DataError: The folder is not there, cannot be read, or does not hold two classes of images.
    """
    with layout.readable():
        found = _surveyed(root, _Wanted(classes, val, test, exclude))
        results = _hashed(found.root, found.files, progress)
    images = sorted((each for each in results if isinstance(each, ImageFile)), key=lambda image: image.path)
    unreadable = sorted(each for each in results if isinstance(each, tuple))
    return FolderIndex(
        found.root,
        found.classes,
        tuple(images),
        found.ignored,
        tuple(unreadable),
        found.excluded,
        found.unmatched,
    )


def check_layout(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    val: Path | None = None,
    test: Path | None = None,
    exclude: Path | None = None,
) -> None:
    """Raise what `scan` would raise before it hashes the first image: quick, whatever the images' sizes."""
    with layout.readable():
        _surveyed(root, _Wanted(classes, val, test, exclude))


def content_hash(path: Path) -> str:
    """Sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def images_under(folder: Path) -> list[Path]:
    """All images in a folder and below it, sorted; hidden ones are passed over.

    Raises:
        DataError: If something in it cannot be listed.
    """
    with layout.readable():
        return sorted(layout.files_under(folder)[0])


@dataclass(frozen=True)
class _Wanted:
    """Which images of DATA are meant; all as in `scan`."""

    classes: Sequence[str] | None
    val: Path | None
    test: Path | None
    exclude: Path | None


@dataclass(frozen=True)
class _Survey:
    """What lies where; `files` are paths with their label and given split. The rest is as in FolderIndex."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, int, str | None], ...]
    ignored: tuple[str, ...]
    excluded: tuple[str, ...]
    unmatched: tuple[tuple[int, str], ...]


def _surveyed(root: Path, wanted: _Wanted) -> _Survey:
    exclude = None if wanted.exclude is None else read(wanted.exclude)
    given = (("val", wanted.val), ("test", wanted.test))
    elsewhere = {split: folder for split, folder in given if folder is not None}
    for what, folder in {"DATA": root, **{f"data.{split}": folder for split, folder in elsewhere.items()}}.items():
        layout.require_folder(folder, what)
    found_layout = layout.find(root, {split: folder.resolve() for split, folder in elsewhere.items()})
    root = root.resolve()
    places = {place.folder for place in found_layout.places}
    found = [(place, _class_folders(place, places)) for place in found_layout.places]
    names = _chosen(found_layout.places[0].folder, sorted(found[0][1]), wanted.classes)
    for place, folders in found[1:]:
        _require_same_classes(place, folders, names, is_subset=wanted.classes is not None)
    ignored = list(found_layout.ignored)
    candidates: list[tuple[Path, int, str | None]] = []
    excluded: list[str] = []
    for place, folders in found:
        loose = [path for path in layout.visible(place.folder) if not path.is_dir()]
        ignored += [encodable(path_in(root, path)) for path in loose]
        for label, name in enumerate(names):
            images, others = layout.files_under(folders[name])
            ignored += [encodable(path_in(root, path)) for path in others]
            kept, left_out = _sifted(images, root, exclude)
            excluded += left_out
            if not kept and place.given != "test":
                raise _no_images(folders[name], others, len(left_out))
            candidates += [(path, label, place.given) for path in kept]
        if not any(given == place.given for _, _, given in candidates):
            raise DataError("the test folder holds no images", where=str(place.folder), hint="Fill or remove it.")
    missing = () if exclude is None else unmatched(root, exclude)
    return _Survey(root, names, tuple(candidates), tuple(sorted(ignored)), tuple(sorted(excluded)), missing)


def _sifted(images: Sequence[Path], root: Path, exclude: Exclusions | None) -> tuple[Sequence[Path], list[str]]:
    """The images to use, and the paths of those that a list leaves out, whatever bytes are in their names."""
    if exclude is None:
        return images, []
    kept = [path for path in images if path_in(root, path) not in exclude]
    gone = {path_in(root, path) for path in images} - {path_in(root, path) for path in kept}
    return kept, sorted(encodable(path) for path in gone)


def unmatched(root: Path, exclude: Exclusions) -> tuple[tuple[int, str], ...]:
    """The lines of a list, number and path, that name no file.

    Raises:
        DataError: None of them does: it is a list of other images.
    """
    missing = tuple((number, path) for path, number in exclude.lines.items() if not (root / path).is_file())
    if missing and len(missing) == len(exclude.lines):
        number, path = missing[0]
        raise DataError(
            f"there is no image '{path}' in {root}, nor one of any other line",
            where=f"{exclude.file}:{number}",
            hint="Paths are relative to DATA. Was the list made for another folder?",
        )
    return missing


def _class_folders(place: SplitFolder, excluded: Collection[Path]) -> dict[str, Path]:
    """Class name to folder. Names are Unicode NFC, as macOS and Linux write the same word differently."""
    folders: dict[str, Path] = {}
    for path in layout.class_folders(place, excluded):
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
        images, _ = layout.files_under(folder)
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
        if classes is None and layout.holds_folders(folder / found[0]):
            hint = f"'{found[0]}' holds folders itself: give {folder / found[0]} instead?"
        seen = f"holds only one class (got '{wanted[0]}')" if wanted else "no class is left (got an empty list)"
        raise DataError(seen, where=str(folder) if classes is None else "data.classes", hint=hint)
    return tuple(wanted)


def _require_same_classes(
    place: SplitFolder,
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


def _no_images(folder: Path, others: Sequence[Path], excluded: int) -> DataError:
    seen = f"{len(others)} other files such as '{others[0].name}'" if others else "empty"
    if excluded:
        seen = f"all {excluded} are excluded"
    known = " ".join(sorted(EXTENSIONS))
    return DataError(
        f"class folder '{folder.name}' holds no images ({seen})",
        where=str(folder),
        hint=f"Remove the folder, put images into it ({known}), or name the classes to use:"
        " --set data.classes=[NAME,NAME].",
    )


def _hashed(
    root: Path,
    candidates: Sequence[tuple[Path, int, str | None]],
    progress: Callable[[int, int], None] | None,
) -> list[ImageFile | tuple[str, str]]:
    """For each candidate its ImageFile, or its path and why it could not be read."""

    def one(candidate: tuple[Path, int, str | None]) -> ImageFile | tuple[str, str]:
        path, label, given = candidate
        name = relative(path, root)
        try:
            return ImageFile(name, label, content_hash(path), path.stat().st_size, given)
        except OSError as error:
            return name, f"cannot be read ({error.strerror})"

    results: list[ImageFile | tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        for result in pool.map(one, candidates):
            results.append(result)
            if progress:
                progress(len(results), len(candidates))
    return results


def relative(path: Path, root: Path) -> str:
    """A path as all lists name it: relative to DATA, with forward slashes.

    Raises:
        DataError: The name is not valid UTF-8.
    """
    name = path_in(root, path)
    if encodable(name) != name:
        message = f"the file name '{printable(name)}' is not valid UTF-8"
        raise DataError(message, where=str(root), hint="Rename the file, or leave it out with --exclude.")
    return name


def path_in(root: Path, path: Path) -> str:
    """A path relative to DATA, with forward slashes; bytes that are no UTF-8 as Python keeps them."""
    return Path(os.path.relpath(path, root)).as_posix()
