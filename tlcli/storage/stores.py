"""Stores of files, and where each begins: the roots of this process, by their paths without secrets."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

from tlcli.storage import archives, objects
from tlcli.storage.objects import Object

Kind = Literal["objects", "zip", "pack"]


class Store(Protocol):
    """Files by name. Names are relative, with forward slashes."""

    def entries(self) -> Mapping[str, Object]:
        """Every file by name."""

    def find(self, name: str) -> Object | None:
        """One file; None if there is none."""

    def read(self, name: str) -> bytes:
        """The content of a file."""

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a file."""


@dataclass(frozen=True)
class Root:
    """Where a store begins: its path, its kind, and its address with secrets, its ZIP file or the index of its pack."""

    text: str
    kind: Kind
    address: str


_ROOTS: dict[str, Root] = {}
# Those of remote stores again: a remote archive or table is an object, too, after it was opened.
_REMOTE: dict[str, Root] = {}


def add_root(root: Root) -> None:
    """Make a root known to this process."""
    _ROOTS[root.text] = root
    if root.kind == "objects":
        _REMOTE[root.text] = root


def has_roots() -> bool:
    """True if any path of this process is in a store."""
    return bool(_ROOTS)


def is_located(path: Path) -> bool:
    """True if a path is a root, or below one."""
    return any(str(folder) in _ROOTS for folder in (path, *path.parents))


def root_of(path: Path) -> tuple[Root, str]:
    """The root of a stored path, and its name in the store."""
    return _nearest(path, _ROOTS)


def object_of(path: Path) -> tuple[Root, str]:
    """The root of a path that is a remote object, opened or not, and its name in the store.

    Raises:
        LookupError: If the path is in an archive.
    """
    root, name = root_of(path)
    if root.kind != "objects" and name:
        raise LookupError(f"{path} is in an archive")
    return _nearest(path, _REMOTE)


def _nearest(path: Path, roots: Mapping[str, Root]) -> tuple[Root, str]:
    for folder in (path, *path.parents):
        if (root := roots.get(str(folder))) is not None:
            return root, str(path)[len(str(folder)) :].lstrip("/")
    raise LookupError(f"{path} was not located")


def find(path: Path) -> tuple[Store, str]:
    """The store of a path, and its name there."""
    root, name = root_of(path)
    return _store(root), name


def _store(root: Root) -> Store:
    if root.kind == "objects":
        return _objects(root.address)
    return archives.open_zip(Path(root.address)) if root.kind == "zip" else archives.open_pack(Path(root.address))


@lru_cache(maxsize=1024)
def _objects(address: str) -> objects.Objects:
    return objects.Objects(address)


@lru_cache(maxsize=64)
def folders(root: Root) -> dict[str, tuple[str, ...]]:
    """The names in each folder of a store, by the name of the folder; the root is the empty name."""
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for entry in _store(root).entries():
        folder, _, name = entry.rpartition("/")
        while name not in names[folder]:
            names[folder][name] = None
            folder, _, name = folder.rpartition("/") if folder else ("", "", name)
    return {folder: tuple(children) for folder, children in names.items()}
