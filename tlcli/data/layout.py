"""Where a folder of images keeps its splits and classes, and which of its files are to be seen at all."""

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tlcli.data.decode import is_image
from tlcli.errors import DataError, did_you_mean

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LAYOUT = "DATA holds one folder of images per class, or train/, val/ and test/ with class folders inside."

Note = Callable[[str, Path, str], None]
"""Told what is passed over: `hidden`, `link_loop`, `broken_link` or `no_permission`, the path, and a reason."""

_LEADS_BACK = "leads back to a folder above it"
_NOT_SHOWN = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class SplitFolder:
    """A folder of class folders, and the split it stands for; None where DATA has no split folders."""

    folder: Path
    given: str | None


@dataclass(frozen=True)
class Layout:
    """The places of the images, train first, and what stands beside `train/` and is no split."""

    places: tuple[SplitFolder, ...]
    ignored: tuple[str, ...]


def find(root: Path, elsewhere: Mapping[str, Path]) -> Layout:
    """Decide between class folders and split folders.

    Args:
        root: DATA.
        elsewhere: Folders that stand for the val or test split in the place of one in `root`, links resolved.

    Raises:
        DataError: The split folders of `root` contradict each other, or hold no class folders.
    """
    folders = [path for path in visible(root) if path.is_dir()]
    home = root.resolve()
    others = [path for path in folders if path.resolve() not in elsewhere.values()]
    splits = _split_folders(others)
    has_others = "val" in splits or "test" in splits
    given = tuple(SplitFolder(folder, split) for split, folder in sorted(elsewhere.items()))
    if "train" in splits and (has_others or len(others) == 1) and holds_folders(splits["train"]):
        places = {split: SplitFolder(home / path.name, split) for split, path in splits.items()}
        places |= {place.given: place for place in given if place.given}
        used = {place.folder for place in places.values()}
        unused = tuple(f"{path.name}/" for path in others if home / path.name not in used)
        ordered = tuple(places[split] for split in ("train", "val", "test") if split in places)
        return Layout(ordered, unused)
    only_splits = bool(splits) and all(path.name.lower() in SPLIT_NAMES for path in others)
    if only_splits and "train" not in splits:
        names = " and ".join(f"{path.name}/" for path in others)
        raise DataError(f"holds {names} but no train/ folder", where=str(root), hint=LAYOUT)
    if only_splits and not holds_folders(splits["train"]):
        train = splits["train"]
        images, _ = files_under(train)
        hint = f"Sort the images into one folder per class, such as {train.name}/cat and {train.name}/dog."
        raise DataError(f"holds {len(images)} images but no class folders", where=str(train), hint=hint)
    return Layout((SplitFolder(home, "train" if given else None), *given), ())


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


def class_folders(place: SplitFolder, excluded: Collection[Path], note: Note | None = None) -> list[Path]:
    """The folders of a place that stand for classes, sorted by name; `excluded` are places themselves.

    A link back to the place or above it stands for none.
    """
    above = (place.folder, *place.folder.parents)
    found = []
    for path in visible(place.folder, note):
        if not path.is_dir():
            continue
        if path.is_symlink() and path.resolve() in above:
            if note:
                note("link_loop", path, _LEADS_BACK)
        elif path.resolve() not in excluded:
            found.append(path)
    return found


def require_folder(path: Path, what: str) -> None:
    """Refuse what is no folder.

    Raises:
        DataError: If it is not there, or a file.
    """
    if (path / "run.json").is_file():
        hint = f"Its network and scores: tlcli inspect {path}, tlcli evaluate {path}"
        raise DataError(f"{what} is the folder of a run, not of images", where=str(path), hint=hint)
    if path.is_dir():
        return
    if path.exists():
        raise DataError(f"{what} is a file, a folder is expected", where=str(path), hint=LAYOUT)
    parent = path.absolute().parent
    siblings = [entry.name for entry in visible(parent) if entry.is_dir()] if parent.is_dir() else []
    hint = did_you_mean(path.name, siblings) or LAYOUT
    raise DataError(f"{what} is not there, no such folder", where=str(path), hint=hint)


def visible(folder: Path, note: Note | None = None) -> list[Path]:
    """What a folder holds, sorted by name, without hidden entries.

    Raises:
        OSError: It cannot be listed, and there is no `note` to tell of it.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        if note is None:
            raise
        note("no_permission", folder, f"cannot be listed ({error.strerror})")
        return []
    shown = [name for name in names if not (name.startswith(".") or name.lower() in _NOT_SHOWN)]
    if note:
        for name in sorted(set(names) - set(shown)):
            note("hidden", folder / name, "")
    return [folder / name for name in shown]


def holds_folders(folder: Path) -> bool:
    """Whether a visible folder is in it."""
    return any(path.is_dir() for path in visible(folder))


def files_under(folder: Path, note: Note | None = None) -> tuple[list[Path], list[Path]]:
    """The images below a folder, and its other files. A link back to a folder above is not entered.

    Raises:
        OSError: Something cannot be listed or read, and there is no `note` to tell of it.
    """
    above = frozenset(_identity(parent) for parent in folder.resolve().parents)
    return split_images(_walk(folder, above, note), note)


def split_images(paths: Iterable[Path], note: Note | None = None) -> tuple[list[Path], list[Path]]:
    """Files as images and others. `note` is told of those that cannot be read; without it that raises."""
    images: list[Path] = []
    others: list[Path] = []
    for path in paths:
        try:
            (images if is_image(path) else others).append(path)
        except OSError as error:
            if note is None:
                raise
            note("no_permission", path, f"cannot be read ({error.strerror})")
    return images, others


@contextmanager
def readable() -> Iterator[None]:
    """Turn the system's refusal to list or read something into a DataError that names it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        message = f"cannot be read ({error.strerror})"
        raise DataError(message, where=str(error.filename), hint="Check its permissions.") from error


def _walk(folder: Path, above: frozenset[tuple[int, int]], note: Note | None) -> Iterator[Path]:
    """Every visible file below `folder`; `above` are the folders that lead there."""
    here = _identity(folder)
    if here in above:
        if note:
            note("link_loop", folder, _LEADS_BACK)
        return
    for path in visible(folder, note):
        if _is_folder(path, note):
            yield from _walk(path, above | {here}, note)
        elif not (note and is_broken_link(path, note)):
            yield path


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(path: Path, note: Note | None) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # Reading it as a file will tell why.
        if note is None:
            raise
        return False


def is_broken_link(path: Path, note: Note) -> bool:
    """Whether a path is a link to itself or to nowhere, which `note` is told."""
    if not os.path.islink(path):
        return False
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            note("link_loop", path, "leads to itself")
        elif error.errno == errno.ENOENT:
            note("broken_link", path, f"leads to {os.readlink(path)}, which is not there")
        return error.errno in (errno.ELOOP, errno.ENOENT)
    return False
