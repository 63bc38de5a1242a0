"""Scan of DATA: which files are images, and their class, split and content hash."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tlcli.data import layout, manifest
from tlcli.data.decode import EXTENSIONS
from tlcli.data.exclude import ExclusionList, read_list, unmatched
from tlcli.data.hashes import Hashes
from tlcli.data.layout import LAYOUT, SPLIT_NAMES, SplitFolder
from tlcli.errors import DataError, did_you_mean
from tlcli.storage.location import READS_AHEAD, StoredPath, is_remote, join, relative_name
from tlcli.text import encodable, listed, plural, printable


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a scanned folder.

    Attributes:
        path: Relative to DATA with forward slashes; may begin with `..` for a val or test folder elsewhere.
        label: Position of its class in `FolderIndex.classes`.
        sha256: SHA-256 of the file, 64 hex digits.
        bytes: Size of the file.
        given: The split whose folder holds it, `train`, `val` or `test`; None if DATA has no split folders.
        group: Images of one group never cross splits; None for no group.
    """

    path: str
    label: int
    sha256: str
    bytes: int
    given: str | None
    group: str | None = None


@dataclass(frozen=True)
class FolderIndex:
    """The classes and images of DATA.

    Attributes:
        root: DATA, absolute, links resolved.
        classes: Class names, Unicode NFC, in the order of the labels.
        images: Sorted by path.
        ignored: Paths of what is not used: files that are not images by name or content, images outside every class
            folder, and folders (with a slash at the end) beside `train/`.
        unreadable: Paths and reasons of images that the system cannot open.
        excluded: Paths of images that the exclusion list leaves out.
        unmatched: Lines of the exclusion list, number and path, that match no file.
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
        """The splits that have a folder of their own, in the order `train`, `val`, `test`."""
        given = {image.given for image in self.images}
        return tuple(split for split in SPLIT_NAMES if split in given)

    def file(self, image: ImageFile) -> Path:
        """The path of an image on disk or in a store."""
        return join(self.root, image.path)

    def without(self, shas: Collection[str]) -> "FolderIndex":
        """The index without the images of these contents (sha256). The classes stay."""
        return replace(self, images=tuple(image for image in self.images if image.sha256 not in shas))

    def counts(self) -> dict[str, int]:
        """Number of images per class, in the order of the labels. A class may have 0 after `without`."""
        counts = Counter(image.label for image in self.images)
        return {name: counts[label] for label, name in enumerate(self.classes)}


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
    have sub-folders. Names that begin with a dot are skipped. Links to folders are followed.

    Args:
        root: DATA.
        classes: The class folders to use, in this order; all, sorted by name, if None.
        val: A folder of class folders that replaces the val folder of `root`.
        test: A folder of class folders that replaces the test folder of `root`.
        exclude: A list of images to leave out.
        progress: Called with (files hashed, files).

    Raises:
        DataError: If the folder does not exist, cannot be read, or does not hold two classes of images.
    """
    with layout.readable():
        return _hashed(*_survey(root, classes, {"val": val, "test": test}, exclude), progress)


def scan_some(root: Path) -> FolderIndex:
    """As `scan`, for images to score: one class is enough.

    Raises:
        DataError: If the folder does not exist, cannot be read, or holds no class of images.
    """
    with layout.readable():
        return _hashed(*_survey(root, None, {}, None, fewest=1), None)


def check_layout(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    val: Path | None = None,
    test: Path | None = None,
    exclude: Path | None = None,
) -> None:
    """Check all that `scan` checks before it hashes the first image. Takes the same arguments.

    Raises:
        DataError: If `scan` would raise it.
    """
    with layout.readable():
        _survey(root, classes, {"val": val, "test": test}, exclude)


def images_under(folder: Path) -> list[Path]:
    """All images in a folder and below it, sorted, without hidden ones.

    Raises:
        DataError: If something in the folder cannot be listed.
    """
    with layout.readable():
        return sorted(layout.files_under(folder)[0])


def relative(path: Path, root: Path) -> str:
    """A path relative to DATA, with forward slashes.

    Raises:
        DataError: If the name is not valid UTF-8.
    """
    name = path_in(root, path)
    if encodable(name) != name:
        message = f"the file name '{printable(name)}' is not valid UTF-8"
        raise DataError(message, where=str(root), hint="Rename the file, or leave it out with --exclude.")
    return name


def path_in(root: Path, path: Path) -> str:
    """A path relative to DATA, with forward slashes; bytes that are not UTF-8 become surrogates."""
    if isinstance(path, StoredPath) or isinstance(root, StoredPath):
        return relative_name(path, root)
    return Path(os.path.relpath(path, root)).as_posix()


@dataclass(frozen=True, slots=True)
class _File:
    """An image before it is hashed."""

    path: Path
    label: int
    given: str | None
    group: str | None = None


def _hashed(index: FolderIndex, files: list[_File], progress: Callable[[int, int], None] | None) -> FolderIndex:
    """The index with its images, each hashed."""
    results = _hash_files(index.root, files, progress)
    images = sorted((result for result in results if isinstance(result, ImageFile)), key=lambda image: image.path)
    unreadable = sorted(result for result in results if isinstance(result, tuple))
    return replace(index, images=tuple(images), unreadable=tuple(unreadable))


def _survey(
    root: Path,
    classes: Sequence[str] | None,
    elsewhere: Mapping[str, Path | None],
    exclude: Path | None,
    fewest: int = 2,
) -> tuple[FolderIndex, list[_File]]:
    """An index without its images, and the image files; no file is hashed.

    Args:
        root: As in `scan`.
        classes: As in `scan`.
        elsewhere: Folders that replace the val and test folders of `root`.
        exclude: As in `scan`.
        fewest: Number of classes that there must be.
    """
    exclusions = None if exclude is None else read_list(exclude)
    replaced = {split: folder for split, folder in elsewhere.items() if folder is not None}
    if manifest.is_manifest(root):
        return _survey_manifest(root, classes, replaced, exclusions, fewest)
    for name, folder in {"DATA": root, **{f"data.{split}": folder for split, folder in replaced.items()}}.items():
        layout.require_folder(folder, name)
    data_layout = layout.find(root, {split: folder.resolve() for split, folder in replaced.items()})
    root = root.resolve()
    own = {split_folder.folder for split_folder in data_layout.split_folders}
    folders = [(split_folder, layout.folders_by_class(split_folder, own)) for split_folder in data_layout.split_folders]
    names = _choose_classes(data_layout.split_folders[0].folder, sorted(folders[0][1]), classes, fewest)
    for split_folder, class_folders in folders[1:]:
        _require_same_classes(split_folder, class_folders, names, is_subset=classes is not None)
    collected = _Collection(root, exclusions, ignored=list(data_layout.ignored))
    for split_folder, class_folders in folders:
        collected.add(split_folder, [class_folders[name] for name in names])
    index = FolderIndex(
        root,
        names,
        (),
        tuple(sorted(collected.ignored)),
        excluded=tuple(sorted(collected.excluded)),
        unmatched=() if exclusions is None else unmatched(root, exclusions),
    )
    return index, collected.files


def _survey_manifest(
    file: Path, classes: Sequence[str] | None, replaced: Collection[str], exclusions: ExclusionList | None, fewest: int
) -> tuple[FolderIndex, list[_File]]:
    """As `_survey`, for a manifest."""
    for split in replaced:
        hint = "Leave it out, and give the manifest a column 'split'."
        raise DataError("is a folder, but DATA is a manifest", where=f"data.{split}", hint=hint)
    root, rows = manifest.home_of(file), manifest.read_rows(file)
    names = _choose_classes(file, sorted({row.label for row in rows}), classes, fewest)
    collected = _Collection(root, exclusions, ignored=[])
    kept = set(collected.without_excluded([row.path for row in rows if row.label in names]))
    needed = {row.split for row in rows} - {"test"} | {rows[0].split and "train"}
    rows = [row for row in rows if row.path in kept]
    for given in needed if fewest > 1 else ():
        present = {row.label for row in rows if row.split == given}
        if missing := [name for name in names if name not in present]:
            hint = "Add rows, or choose the classes with --set data.classes=[NAME,NAME]."
            subject = "class {} has" if len(missing) == 1 else "classes {} have"
            message = f"{subject.format(listed(missing))} no {given or 'image'} rows"
            raise DataError(message, where=str(file), hint=hint)
    files = [_File(row.path, names.index(row.label), row.split, row.group) for row in rows]
    lines = () if exclusions is None else unmatched(root, exclusions)
    return FolderIndex(root, names, (), (), excluded=tuple(sorted(collected.excluded)), unmatched=lines), files


class _Collection:
    """The files of all split folders."""

    def __init__(self, root: Path, exclusions: ExclusionList | None, ignored: list[str]) -> None:
        self.root, self.exclusions = root, exclusions
        self.files: list[_File] = []
        self.ignored = ignored
        self.excluded: list[str] = []

    def add(self, split_folder: SplitFolder, class_folders: Sequence[Path]) -> None:
        """Add the files of a split folder. The class folders are in the order of the labels."""
        loose = [path for path in layout.visible(split_folder.folder) if not path.is_dir()]
        self.ignored += [encodable(path_in(self.root, path)) for path in loose]
        count, empty = len(self.files), list[tuple[Path, str]]()
        for label, folder in enumerate(class_folders):
            images, others = layout.files_under(folder)
            self.ignored += [encodable(path_in(self.root, path)) for path in others]
            kept = self.without_excluded(images)
            if not kept and split_folder.split != "test":
                empty.append((folder, _content(others, excluded=len(images) - len(kept))))
            self.files += [_File(path, label, split_folder.split) for path in kept]
        if empty:
            raise _no_images(split_folder.folder, empty)
        if len(self.files) == count:
            where = str(split_folder.folder)
            raise DataError("the test folder holds no images", where=where, hint="Add images, or remove the folder.")

    def without_excluded(self, images: Sequence[Path]) -> Sequence[Path]:
        """The images that no line of the exclusion list names."""
        if self.exclusions is None:
            return images
        kept = []
        for path in images:
            name = path_in(self.root, path)
            if name in self.exclusions:
                self.excluded.append(encodable(name))
            else:
                kept.append(path)
        return kept


def _choose_classes(
    folder: Path, existing: Sequence[str], classes: Sequence[str] | None, fewest: int
) -> tuple[str, ...]:
    """The classes to use, in order: all existing ones, or those of the recipe."""
    if not existing:
        images, _ = layout.files_under(folder)
        problem = f"holds {plural(len(images), 'image')} but no class folders" if images else "holds no images"
        raise DataError(problem, where=str(folder), hint=LAYOUT)
    chosen = [unicodedata.normalize("NFC", name) for name in classes] if classes is not None else list(existing)
    if missing := [name for name in chosen if name not in existing]:
        hint = " ".join([f"Classes: {', '.join(existing)}.", *(did_you_mean(name, existing) for name in missing)])
        message = f"no class folder{'s' * (len(missing) > 1)} {listed(missing)} in {folder}"
        raise DataError(message, where="data.classes", hint=hint.rstrip())
    if repeated := [name for name, count in Counter(chosen).items() if count > 1]:
        subject = "class {} is" if len(repeated) == 1 else "classes {} are"
        message = f"{subject.format(listed(repeated))} named twice"
        raise DataError(message, where="data.classes", hint="Name each class once.")
    if len(chosen) < fewest:
        hint = LAYOUT
        if classes is None and folder.is_dir() and layout.holds_folders(folder / existing[0]):
            hint = f"'{existing[0]}' holds folders. Did you mean {folder / existing[0]}?"
        problem = f"holds only one class (got '{chosen[0]}')" if chosen else "no class is left (got an empty list)"
        raise DataError(problem, where=str(folder) if classes is None else "data.classes", hint=hint)
    return tuple(chosen)


def _require_same_classes(
    split_folder: SplitFolder,
    folders: Collection[str],
    names: Sequence[str],
    *,
    is_subset: bool,
) -> None:
    missing = [name for name in names if name not in folders]
    extra = [] if is_subset else sorted(set(folders) - set(names))
    if missing or extra:
        differences = " and ".join(
            f"{verb} {', '.join(listed)}" for verb, listed in (("lacks", missing), ("also has", extra)) if listed
        )
        raise DataError(
            f"the {split_folder.split} folder {differences}, unlike the training images",
            where=str(split_folder.folder),
            hint=f"Classes: {', '.join(names)}. Every split needs the same class folders.",
        )


def _content(others: Sequence[Path], *, excluded: int) -> str:
    """What a class folder without images holds, in words."""
    if excluded:
        return f"all {excluded} are excluded"
    return f"{plural(len(others), 'other file')} such as '{others[0].name}'" if others else "empty"


def _no_images(home: Path, empty: Sequence[tuple[Path, str]]) -> DataError:
    """The error for class folders without images, with what each holds."""
    (first, content), several = empty[0], len(empty) > 1
    names = listed([path.name for path, _ in empty])
    message = (
        f"class folders {names} hold no images" if several else f"class folder {names} holds no images ({content})"
    )
    remedy = (
        f"Add images ({' '.join(sorted(EXTENSIONS))}), remove the folder{'s' * several}, or choose the classes with"
    )
    return DataError(message, where=str(home if several else first), hint=f"{remedy} --set data.classes=[NAME,NAME].")


def _hash_files(
    root: Path,
    files: Sequence[_File],
    progress: Callable[[int, int], None] | None,
) -> list[ImageFile | tuple[str, str]]:
    """For each file its ImageFile, or its path and the reason why it cannot be read."""

    def hash_file(file: _File) -> ImageFile | tuple[str, str]:
        name = relative(file.path, root)
        try:
            sha256, size = hashes.of(file.path)
            return ImageFile(name, file.label, sha256, size, file.given, file.group)
        except OSError as error:
            return name, f"cannot be read ({error.strerror})"

    hashes, results = Hashes(root), list[ImageFile | tuple[str, str]]()
    with ThreadPoolExecutor(READS_AHEAD if any(is_remote(file.path) for file in files) else None) as pool:
        for result in pool.map(hash_file, files):
            results.append(result)
            if progress:
                progress(len(results), len(files))
    hashes.keep()
    return results
