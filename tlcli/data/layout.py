"""The splits and class folders of DATA, and the files below them that are images."""

import errno
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tlcli.data.decode import is_image
from tlcli.errors import DataError, did_you_mean
from tlcli.storage.location import StoredPath
from tlcli.text import listed, plural

SPLIT_NAMES = ("train", "val", "test")
LAYOUT = "DATA holds one folder of images per class, or train/, val/ and test/ with class folders inside."

OnSkip = Callable[[str, Path, str], None]
"""Receives what is skipped: `hidden`, `link_loop`, `broken_link` or `no_permission`, the path, and a reason."""

SPLIT_OF_NAME = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LEADS_BACK = "leads back to a folder above it"
_SYSTEM_FILES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class SplitFolder:
    """A folder of class folders, and the split it holds; None if DATA has no split folders."""

    folder: Path
    split: str | None


@dataclass(frozen=True)
class Layout:
    """The split folders, train first, and the names of the other folders beside `train/`."""

    split_folders: tuple[SplitFolder, ...]
    ignored: tuple[str, ...]


def find(root: Path, elsewhere: Mapping[str, Path]) -> Layout:
    """Decide whether DATA holds class folders or split folders.

    Args:
        root: DATA.
        elsewhere: Folders that replace the val or test folder of `root`, by split, links resolved.

    Raises:
        DataError: If the split folders of `root` contradict each other, or hold no class folders.
    """
    home = root.resolve()
    folders = [path for path in visible(root) if path.is_dir() and path.resolve() not in elsewhere.values()]
    splits = _folders_by_split(folders)
    given = tuple(SplitFolder(folder, split) for split, folder in sorted(elsewhere.items()))
    has_val_or_test = "val" in splits or "test" in splits
    if "train" in splits and (has_val_or_test or len(folders) == 1) and holds_folders(splits["train"]):
        return _split_layout(home, folders, splits, given)
    if splits and all(path.name.lower() in SPLIT_OF_NAME for path in folders):
        _require_train_with_classes(root, folders, splits)
    return Layout((SplitFolder(home, "train" if given else None), *given), ())


def _folders_by_split(folders: Sequence[Path]) -> dict[str, Path]:
    """The folders whose name means a split. Two for one split are an error only beside `train/`."""
    pairs = [(SPLIT_OF_NAME[path.name.lower()], path) for path in folders if path.name.lower() in SPLIT_OF_NAME]
    splits = {split: path for split, path in reversed(pairs)}
    if "train" in splits and len(splits) < len(pairs):
        names = ", ".join(f"{path.name}/" for _, path in pairs)
        raise DataError(
            f"two folders are for the same split (got {names})",
            where=str(folders[0].parent),
            hint="Keep one of them, or merge them.",
        )
    return splits


def _split_layout(
    home: Path, folders: Sequence[Path], splits: Mapping[str, Path], given: Sequence[SplitFolder]
) -> Layout:
    split_folders = {split: SplitFolder(home / path.name, split) for split, path in splits.items()}
    split_folders |= {split_folder.split: split_folder for split_folder in given if split_folder.split}
    used = {split_folder.folder for split_folder in split_folders.values()}
    unused = tuple(f"{path.name}/" for path in folders if home / path.name not in used)
    return Layout(tuple(split_folders[split] for split in SPLIT_NAMES if split in split_folders), unused)


def _require_train_with_classes(root: Path, folders: Sequence[Path], splits: Mapping[str, Path]) -> None:
    """Check a DATA that holds nothing but split folders."""
    if "train" not in splits:
        names = " and ".join(f"{path.name}/" for path in folders)
        raise DataError(f"holds {names} but no train/ folder", where=str(root), hint=LAYOUT)
    train = splits["train"]
    if not holds_folders(train):
        images, _ = files_under(train)
        raise DataError(
            f"holds {plural(len(images), 'image')} but no class folders",
            where=str(train),
            hint=f"Sort the images into one folder per class, such as {train.name}/cat and {train.name}/dog.",
        )


def class_folders(split_folder: SplitFolder, excluded: Collection[Path], on_skip: OnSkip | None = None) -> list[Path]:
    """The class folders of a split folder, sorted by name.

    Args:
        split_folder: Where to look.
        excluded: The split folders themselves, which are not classes.
        on_skip: Receives links back to the split folder or above it, which are not classes either.
    """
    above = (split_folder.folder, *split_folder.folder.parents)
    classes = []
    for path in visible(split_folder.folder, on_skip):
        if not path.is_dir():
            continue
        if path.is_symlink() and path.resolve() in above:
            if on_skip:
                on_skip("link_loop", path, _LEADS_BACK)
        elif path.resolve() not in excluded:
            classes.append(path)
    return classes


def folders_by_class(split_folder: SplitFolder, excluded: Collection[Path]) -> dict[str, Path]:
    """The class folders by the names of the classes, which are Unicode NFC: macOS and Linux write one word differently.

    Args:
        split_folder: Where to look.
        excluded: The split folders themselves, which are not classes.

    Raises:
        DataError: If labels.txt cannot hold a name, or folders have the same one.
    """
    paths, where = class_folders(split_folder, excluded), str(split_folder.folder)
    if bad := [path.name for path in paths if any(map(_is_control, path.name))]:
        is_one = len(bad) == 1
        subject = f"the name of class folder {bad[0]!r} has" if is_one else "names of class folders have"
        got = "" if is_one else f" (got {', '.join(map(repr, bad[:5]))}{', …' if len(bad) > 5 else ''})"
        hint = "Rename the folder." if is_one else "Rename the folders."
        raise DataError(f"{subject} characters that cannot be written to labels.txt{got}", where=where, hint=hint)
    names = [unicodedata.normalize("NFC", path.name) for path in paths]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        message = f"class folders have the same name, {listed(repeated)}, in different Unicode forms"
        raise DataError(message, where=where, hint="Merge them, or rename one.")
    return dict(zip(names, paths, strict=True))


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def require_folder(path: Path, name: str) -> None:
    """Check that a path is a folder and not that of a run. `name` is what the user calls it, such as `DATA`.

    Raises:
        DataError: If it is a run folder, a file, or does not exist.
    """
    if (path / "run.json").is_file():
        hint = f"To see its network and scores: tlcli inspect {path}, tlcli evaluate {path}"
        raise DataError(f"{name} is the folder of a run, not of images", where=str(path), hint=hint)
    if path.is_dir():
        return
    if isinstance(path, StoredPath):
        hint = f"Check the address and the credentials. {LAYOUT}"
        raise DataError(f"there are no files (given as {name})", where=str(path), hint=hint)
    if path.exists():
        hint = f"{LAYOUT} A manifest of images ends in .csv, .tsv, .jsonl or .parquet, an archive in .zip or .tar."
        raise DataError(f"{name} is a file, not a folder", where=str(path), hint=hint)
    parent = path.absolute().parent
    # A name with a suffix may be meant for a manifest or an archive.
    entries = list(visible(parent)) if parent.is_dir() else []
    siblings = [entry.name for entry in entries if entry.is_dir() or path.suffix]
    hint = did_you_mean(path.name, siblings) or LAYOUT
    what = "file or folder" if path.suffix else "folder"
    raise DataError(f"no such {what} (given as {name})", where=str(path), hint=hint)


def visible(folder: Path, on_skip: OnSkip | None = None) -> list[Path]:
    """The entries of a folder, sorted by name, without hidden ones.

    Raises:
        OSError: If the folder cannot be listed and there is no `on_skip`.
    """
    try:
        names = sorted(folder.names() if isinstance(folder, StoredPath) else os.listdir(folder))
    except OSError as error:
        if on_skip is None:
            raise
        on_skip("no_permission", folder, f"cannot be listed ({error.strerror})")
        return []
    kept = [name for name in names if not (name.startswith(".") or name.lower() in _SYSTEM_FILES)]
    if on_skip:
        for name in sorted(set(names) - set(kept)):
            on_skip("hidden", folder / name, "")
    return [folder / name for name in kept]


def holds_folders(folder: Path) -> bool:
    """True if a folder holds a visible folder."""
    return any(path.is_dir() for path in visible(folder))


def files_under(folder: Path, on_skip: OnSkip | None = None) -> tuple[list[Path], list[Path]]:
    """The images below a folder, and its other files. Links back to a folder above are not followed.

    Raises:
        OSError: If something cannot be listed or read and there is no `on_skip`.
    """
    # Stores have no links, which could lead back.
    parents = () if isinstance(folder, StoredPath) else folder.resolve().parents
    above = frozenset(_identity(parent) for parent in parents)
    return split_images(_walk(folder, above, on_skip), on_skip)


def split_images(paths: Iterable[Path], on_skip: OnSkip | None = None) -> tuple[list[Path], list[Path]]:
    """The images among some files, and the other files.

    Raises:
        OSError: If a file cannot be read and there is no `on_skip`.
    """
    images: list[Path] = []
    others: list[Path] = []
    for path in paths:
        try:
            (images if is_image(path) else others).append(path)
        except OSError as error:
            if on_skip is None:
                raise
            on_skip("no_permission", path, f"cannot be read ({error.strerror})")
    return images, others


@contextmanager
def readable() -> Iterator[None]:
    """Turn an OSError about a file or folder into a DataError that names it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        message = f"cannot be read ({error.strerror})"
        where = str(error.filename)
        hint = "Check the address and the credentials." if "://" in where else "Check its permissions."
        raise DataError(message, where=where, hint=hint) from error


def _walk(folder: Path, above: frozenset[tuple[int, int]], on_skip: OnSkip | None) -> Iterator[Path]:
    """Every visible file below `folder`; `above` are the folders that lead there."""
    here = _identity(folder)
    if here in above:
        if on_skip:
            on_skip("link_loop", folder, _LEADS_BACK)
        return
    for path in visible(folder, on_skip):
        if _is_folder(path, on_skip):
            yield from _walk(path, above | {here}, on_skip)
        elif not (on_skip and is_broken_link(path, on_skip)):
            yield path


def is_folder(path: Path) -> bool:
    """True for a folder; False also for a path that may not be read."""
    return path.is_dir() if isinstance(path, StoredPath) else os.path.isdir(path)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(path: Path, on_skip: OnSkip | None) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # With `on_skip`, reading the path as a file reports the reason.
        if on_skip is None:
            raise
        return False


def is_broken_link(path: Path, on_skip: OnSkip) -> bool:
    """True if a path is a link to itself or to a missing file; `on_skip` receives it."""
    if isinstance(path, StoredPath) or not os.path.islink(path):
        return False
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            on_skip("link_loop", path, "leads to itself")
        elif error.errno == errno.ENOENT:
            on_skip("broken_link", path, f"leads to {os.readlink(path)}, which does not exist")
        return error.errno in (errno.ELOOP, errno.ENOENT)
    return False
