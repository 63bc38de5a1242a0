"""Locations of files: local paths, and paths in stores, which look and work like local ones.

`locate` turns what a user writes into a path. A `StoredPath` stands for an object of a remote store or a member of an
archive. It answers what this program asks of a `Path`: whether it is a file or folder, what a folder holds, and the
bytes of a file. `photos.zip` is a folder, and so is `s3://bucket/photos`.
"""

import io
import os
import re
import stat
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tlcli.errors import DataError
from tlcli.paths import replacing
from tlcli.storage import archives, objects
from tlcli.storage.objects import EXTRAS, Object, without_secrets
from tlcli.storage.stores import Kind, Root, add_root, find, folders, has_roots, is_located, object_of, root_of

# Reads of a store that are under way at once: a remote answer takes its time, whatever its size.
READS_AHEAD = 32
SCHEMES = (*sorted(EXTRAS), "file", "tar", "zip")

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+]+)://(?=.)")
# An address as `Path` keeps it: with one slash of two.
_COLLAPSED = re.compile(r"^([A-Za-z][A-Za-z0-9+]+):/(?=[^/])")
# The end of the name of an archive, as a part of a path.
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tar\.gz|tar\.bz2|tar\.xz)(?=/|$)")
_SPLITS = ("train", "val", "valid", "validation", "test")
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


if TYPE_CHECKING:
    _Path = Path
else:
    # The class of paths of this system.
    _Path = type(Path())

# Addresses with secrets that the user has named, by their paths without.
_ADDRESSES: dict[str, str] = {}
# The local copies that this process has made or found, by the paths of their objects.
_COPIES: dict[str, Path] = {}


class StoredPath(_Path):
    """The path of a file or folder in a store. It has no secrets, and no place in the file system.

    Questions raise an OSError if the store cannot answer them.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return _COLLAPSED.sub(r"\1://", super().__str__())

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is no path of the file system")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (str(self), root_of(self)[0])

    def as_posix(self) -> str:
        """The text of the path."""
        return str(self)

    def resolve(self, strict: bool = False) -> "StoredPath":
        """The path itself: stores have no links."""
        return self

    def absolute(self) -> "StoredPath":
        """The path itself."""
        return self

    def expanduser(self) -> "StoredPath":
        """The path itself."""
        return self

    def is_symlink(self) -> bool:
        """False."""
        return False

    def exists(self) -> bool:
        """True for a file, and a folder with a file below it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """True for an object or member."""
        store, name = find(self)
        return store.find(name) is not None

    def is_dir(self) -> bool:
        """True if there is a file below."""
        return self._folder is not None

    def names(self) -> list[str]:
        """The names in a folder.

        Raises:
            OSError: If there is no such folder.
        """
        if (folder := self._folder) is None:
            raise FileNotFoundError(2, "there is no such folder", str(self))
        return list(folder)

    def iterdir(self) -> Generator["StoredPath", None, None]:
        """The paths in a folder."""
        return (self / name for name in self.names())

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Mode and size, and an inode number that differs from that of other paths."""
        store, name = find(self)
        found = store.find(name)
        if found is None and not self.is_dir():
            raise FileNotFoundError(2, "there is no such file", str(self))
        mode = stat.S_IFDIR if found is None else stat.S_IFREG
        size = 0 if found is None else found.bytes or 0
        return os.stat_result((mode, hash(self) & (2**63 - 1), 0, 1, 0, 0, size, 0, 0, 0))

    def read_bytes(self) -> bytes:
        """The content of a file."""
        store, name = find(self)
        return store.read(name)

    def head(self, count: int) -> bytes:
        """The first bytes of a file."""
        store, name = find(self)
        return store.head(name, count)

    def open(  # type: ignore[override]  # one signature for all modes
        self, mode: str = "r", buffering: int = -1, *args: Any, **settings: Any
    ) -> IO[Any]:
        """The content of a file as a stream to read."""
        if set(mode) & set("wax+"):
            raise OSError(30, "stored files are only read", str(self))
        content = io.BytesIO(self.read_bytes())
        return content if "b" in mode else io.TextIOWrapper(content, *args, **settings)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The content of a file as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def below(self) -> dict[str, Object]:
        """Every file below a folder, by its name relative to it."""
        store, name = find(self)
        start = f"{name}/" if name else ""
        return {entry[len(start) :]: found for entry, found in store.entries().items() if entry.startswith(start)}

    @property
    def is_located(self) -> bool:
        """True if the store of the path is known."""
        return is_located(self)

    @property
    def _folder(self) -> tuple[str, ...] | None:
        root, name = root_of(self)
        return folders(root).get(name)


def is_address(text: str) -> bool:
    """True for text that names a place by a scheme, such as `s3://bucket/photos`."""
    return _ADDRESS.match(text) is not None


def locate(text: str | Path) -> Path:
    """The path that a text names: an address, an archive on this machine, or any other local path.

    Raises:
        DataError: If the scheme of an address is none that is read.
    """
    if isinstance(text, StoredPath) and is_located(text):
        return text
    words = _ADDRESSES.get(str(text), str(text))
    match = _ADDRESS.match(words)
    if match is None:
        return _local(words)
    scheme, rest = match[1].lower(), words[match.end() :]
    if scheme == "file":
        return _local(rest if os.name == "nt" else f"/{rest.lstrip('/')}")
    if scheme in ("zip", "tar"):
        inner, archive = rest.split("::", 1) if "::" in rest else ("", rest)
        place = archive if is_address(archive) else str(Path(archive).absolute())
        file = _remote(place, is_whole=True) if is_address(place) else Path(place)
        return open_archive(file, scheme, inner)
    if scheme not in EXTRAS:
        hint = f"Addresses that are read: {', '.join(f'{name}://' for name in SCHEMES)}."
        raise DataError(f"there are no {scheme}:// addresses", where=without_secrets(words), hint=hint)
    return _remote(f"{scheme}://{rest}")


def named(text: str) -> Path:
    """The path that a text names, as `locate` would return it, without asking a store. Secrets are kept aside."""
    if not is_address(text):
        return Path(text)
    path = StoredPath(without_secrets(text))
    _ADDRESSES[str(path)] = text
    return path


def open_archive(file: Path, scheme: str = "", inner: str = "", *, is_whole: bool = False) -> Path:
    """An archive as a folder. A remote one is copied into the cache first.

    If all it holds is one folder, as archives are often packed, that is the folder.

    Args:
        file: The archive.
        scheme: `zip` or `tar`; its suffix decides if empty.
        inner: The folder in it; empty for the whole.
        is_whole: True to keep the one folder.

    Raises:
        DataError: If there is no such archive, or it is damaged.
    """
    copy = local_copy(file)
    if scheme == "zip" or (not scheme and file.name.lower().endswith(archives.ZIP)):
        archives.open_zip(copy)
        root = _at_root(str(file), "zip", str(copy))
    else:
        root = _at_root(str(file), "pack", str(archives.index_tar(copy)))
    return root if is_whole else root / inner.strip("/") if inner else _wrapped(root)


def _wrapped(root: StoredPath) -> StoredPath:
    """The only folder in an archive if it holds folders and is no split; else the archive itself."""
    names = [name for name in root.names() if not name.startswith((".", "__MACOSX"))] if root.is_dir() else []
    only = root / names[0] if len(names) == 1 and names[0].lower() not in _SPLITS else root
    holds_folders = only.is_dir() and any((only / name).is_dir() for name in only.names())
    return only if holds_folders else root


def open_pack(file: Path, index: Path) -> Path:
    """A file whose members lie in a pack, as a folder."""
    return _at_root(str(file.resolve()), "pack", str(index))


def local_copy(file: Path) -> Path:
    """The local path of a file: itself, or its copy in the cache, made now if the remote one is new or has changed.

    Raises:
        DataError: If it cannot be read.
    """
    if not isinstance(file, StoredPath):
        if not file.is_file():
            raise DataError("there is no such file", where=str(file), hint="Check the name.")
        return file.resolve()
    if (copy := _COPIES.get(str(file))) is None or not copy.is_file():
        try:
            copy = _COPIES[str(file)] = _fetched(file, address_of(file))
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=str(file), hint="Check the address.") from error
    return copy


def _fetched(file: Path, address: str) -> Path:
    version = objects.about(address).version
    copy = archives.kept_copy(f"{file} {version}", f".bin{file.suffix}")
    with archives.locked(copy):
        # Without a mark of the server nothing tells whether the object has changed.
        if version.endswith("-") or not copy.is_file():
            with replacing(copy) as temporary:
                objects.fetch(address, temporary)
            archives.evict()
        copy.touch()
    return copy


def relative_name(path: Path, root: Path) -> str:
    """The name of a path relative to a folder, one of them stored; the whole path if it lies elsewhere."""
    return "/".join(path.relative_to(root).parts) if path.is_relative_to(root) else str(path)


def join(root: Path, name: str) -> Path:
    """The path of a name that is relative to a folder, or an address or absolute path by itself."""
    if is_address(name) or Path(name).is_absolute():
        return locate(name)
    return root / name if isinstance(root, StoredPath) or not has_roots() else locate(root / name)


def address_of(path: Path) -> str:
    """The address of a remote path, with its secrets.

    Raises:
        DataError: If it is a member of an archive.
    """
    try:
        root, name = object_of(path)
    except LookupError:
        raise DataError("is in an archive", where=str(path), hint="Unpack it, or name a folder.") from None
    return objects.child(root.address, name)


def read_all(paths: Sequence[Path]) -> Iterator[bytes | OSError]:
    """The content of each file, or why it cannot be read. Remote ones are read at once, local ones in turn.

    Memory holds all that arrive early, so the caller asks for a batch.
    """
    if not any(is_remote(path) for path in paths):
        yield from map(_read, paths)
        return
    with ThreadPoolExecutor(READS_AHEAD) as pool:
        yield from pool.map(_read, paths)


def is_remote(path: Path) -> bool:
    """True for an object of a remote store."""
    return isinstance(path, StoredPath) and root_of(path)[0].kind == "objects"


def version_of(path: Path) -> str:
    """A mark that changes with the content of a remote object; empty if there is none, and for other files."""
    if not isinstance(path, StoredPath):
        return ""
    store, name = find(path)
    return store.version(name) if isinstance(store, objects.Objects) else ""


def _read(path: Path) -> bytes | OSError:
    try:
        return path.read_bytes()
    except OSError as error:
        return error


def _local(text: str) -> Path:
    path = Path(text)
    # An archive itself is opened again, because it may have changed.
    if has_roots() and is_located(path.parent):
        return StoredPath(text)
    if _ARCHIVE.search(text.lower()):
        for file in (path, *path.parents):
            if file.name.lower().endswith(archives.SUFFIXES) and file.is_file():
                inner = path.relative_to(file).as_posix()
                return open_archive(file.resolve(), inner="" if inner == "." else inner)
    return path


def _remote(address: str, *, is_whole: bool = False) -> Path:
    """A remote folder, table or archive. The store of a table begins at its folder, where its images lie.

    Args:
        address: The address, with its secrets.
        is_whole: True for an archive as a file.
    """
    base, mark, query = address.partition("?") if address.startswith("http") else (address, "", "")
    text = without_secrets(base).rstrip("/")
    if is_whole:
        return _at_root(text, "objects", address)
    if (found := _ARCHIVE.search(base.lower())) is not None:
        file, inner = base[: found.end()], base[found.end() :]
        return open_archive(_at_root(without_secrets(file), "objects", file + mark + query), inner=inner)
    if text.lower().endswith(_TABLES):
        folder = _at_root(text.rpartition("/")[0], "objects", base.rpartition("/")[0] + mark + query)
        return folder / text.rpartition("/")[2]
    has_secrets = base + mark != without_secrets(base)
    is_known = not has_secrets and is_located(StoredPath(text))
    return StoredPath(text) if is_known else _at_root(text, "objects", address)


def _at_root(text: str, kind: Kind, address: str) -> StoredPath:
    path = StoredPath(text)
    add_root(Root(str(path), kind, address))
    return path


def _restored(text: str, root: Root) -> StoredPath:
    """A path that another process has sent, with its root."""
    add_root(root)
    return StoredPath(text)
