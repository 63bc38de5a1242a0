"""Archives as folders: ZIP files read in place, and packs, which are one file of contents with an index.

A plain tar is its own pack: only its index is written, into the cache. A compressed tar, which cannot be read at
random, and the images of a table are copied into the cache once. No name of a member ever becomes a path on disk.
"""

import errno
import hashlib
import json
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath

from filelock import FileLock

from tlcli.cache.eviction import evict_files_to_budget, stamp
from tlcli.errors import DataError
from tlcli.paths import cache_dir, replacing, write_text
from tlcli.storage.objects import MAX_BYTES, Object
from tlcli.text import why_unreadable

ZIP, TARS = ".zip", (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SUFFIXES = (ZIP, *TARS)
# All copies together; the least recently used are removed first.
BUDGET = 50 * 2**30
# Names of the copies in the cache.
COPIES = "*.bin*"
# Part of the key of every copy: raise it when the same archive gives another pack.
FORMAT_VERSION = 1

# A compressed archive may grow by this factor, and by so many bytes. Images hardly shrink, so more is an attack.
_MAX_GROWTH, _FREE_GROWTH = 100, 2**30
# Disk space that an unpacked archive leaves free.
_RESERVE = 2**30
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError)


class ZipFolder:
    """The members of a ZIP file. Threads may read at once.

    Raises:
        DataError: If it is damaged, or holds a name that leads out of it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._zip = zipfile.ZipFile(file)
        except _DAMAGE as error:
            raise _damaged(file, error) from error
        self._members = {_safe(info.filename, file): info for info in self._zip.infolist() if not info.is_dir()}

    def entries(self) -> Mapping[str, Object]:
        """Every member by name."""
        return {name: Object(info.file_size, f"{info.CRC:08x}") for name, info in self._members.items()}

    def find(self, name: str) -> Object | None:
        """One member; None if there is none."""
        info = self._members.get(name)
        return None if info is None else Object(info.file_size, f"{info.CRC:08x}")

    def read(self, name: str) -> bytes:
        """The content of a member.

        Raises:
            OSError: If it is damaged, encrypted or too large.
        """
        return self._read(name, MAX_BYTES + 1)

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a member.

        Raises:
            OSError: If it is damaged or encrypted.
        """
        return self._read(name, count)

    def _read(self, name: str, count: int) -> bytes:
        where = f"{self.file}/{name}"
        info = self._members.get(name)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such member", where)
        if count > MAX_BYTES:
            _require_readable_size(info.file_size, where)
        try:
            with self._zip.open(info) as stream:
                content = stream.read(count)
        except _DAMAGE as error:
            raise OSError(
                errno.EIO, f"the member of the archive is damaged ({why_unreadable(error)})", where
            ) from error
        _require_readable_size(len(content), where)
        return content


class Pack:
    """Contents in one file, found by an index on disk: `{"data": FILE, "members": {NAME: [OFFSET, BYTES]}}`."""

    def __init__(self, index: Path) -> None:
        self.index = index
        document = json.loads(index.read_text(encoding="utf-8"))
        self._data, self._members = document["data"], document["members"]
        for path in (index, Path(self._data)):
            if path.is_relative_to(_folder()):
                stamp(path, _folder().glob(COPIES))

    def entries(self) -> Mapping[str, Object]:
        """Every member by name."""
        return {name: Object(size, str(offset)) for name, (offset, size) in self._members.items()}

    def find(self, name: str) -> Object | None:
        """One member; None if there is none."""
        found = self._members.get(name)
        return None if found is None else Object(found[1], str(found[0]))

    def read(self, name: str) -> bytes:
        """The content of a member.

        Raises:
            OSError: If it is too large, or the archive was cut off.
        """
        return self._read(name, MAX_BYTES + 1)

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a member.

        Raises:
            OSError: If the archive was cut off.
        """
        return self._read(name, count)

    def _read(self, name: str, count: int) -> bytes:
        where = f"{self._data}/{name}"
        if name not in self._members:
            raise FileNotFoundError(errno.ENOENT, "there is no such member", where)
        offset, size = self._members[name]
        if count > MAX_BYTES:
            _require_readable_size(size, where)
        # Opened for each read: threads share no position, and an archive that is replaced is noticed.
        with open(self._data, "rb") as stream:
            stream.seek(offset)
            content = stream.read(min(count, size))
        if len(content) < min(count, size):
            raise OSError(errno.EIO, "the archive ends within this member", where)
        return content


def index_tar(file: Path) -> Path:
    """The index of a tar as a pack. A compressed tar is unpacked into one file of the cache, which bounds its growth.

    Raises:
        DataError: If it is damaged, grows too much, or holds a name that leads out of it.
    """
    index = _index_path(file, "")
    with locked(index):
        if not _is_usable(index):
            try:
                if _is_plain_tar(file):
                    _write_index(index, file, _plain_members(file))
                else:
                    write_pack(index, _unpacked(file), limit=_MAX_GROWTH * file.stat().st_size + _FREE_GROWTH)
            except _DAMAGE as error:
                raise _damaged(file, error) from error
    return index


def pack_of_table(file: Path, images: Iterable[tuple[str, bytes]]) -> Path:
    """The index of a pack of the images of a table. They are read only if they are not in the cache."""
    index = _index_path(file, "images")
    with locked(index):
        if not _is_usable(index):
            write_pack(index, images, limit=_MAX_GROWTH * file.stat().st_size + _FREE_GROWTH)
    return index


def write_pack(index: Path, members: Iterable[tuple[str, bytes]], *, limit: int) -> None:
    """Copy members one by one into one file beside an index.

    Raises:
        DataError: If all together have more than `limit` bytes, or the disk has too little space.
    """
    data, end = index.with_suffix(".bin"), 0
    positions: dict[str, list[int]] = {}
    with replacing(data) as temporary, temporary.open("wb") as stream:
        for name, content in members:
            if end + len(content) > limit or shutil.disk_usage(data.parent).free < len(content) + _RESERVE:
                hint = "Unpack it yourself, or set TLCLI_CACHE to a larger disk."
                raise DataError(f"unpacks to more than {end:,} bytes", where=index.stem, hint=hint)
            positions[name] = [end, len(content)]
            end += stream.write(content)
    _write(index, data, positions)
    evict()


def kept_copy(key: str, suffix: str) -> Path:
    """The path of a copy in the cache, by the hash of what determines its content. It may not exist."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {key}".encode()).hexdigest()[:32]
    return _folder() / f"{digest}{suffix}"


def _plain_members(file: Path) -> Iterator[tuple[str, int, int]]:
    with tarfile.open(file, "r:") as tar:
        for member in tar:
            # The list of all members would grow with the archive.
            tar.members = []  # type: ignore[attr-defined]
            if member.isreg() and not member.issparse():
                yield _safe(member.name, file), member.offset_data, member.size


def _is_plain_tar(file: Path) -> bool:
    try:
        with tarfile.open(file, "r:"):
            return True
    except tarfile.ReadError:
        return False


def _unpacked(file: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(file, "r|*") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is not None:
                if member.size > MAX_BYTES:
                    raise tarfile.ReadError(f"{member.name[:200]} has {member.size:,} bytes; {MAX_BYTES:,} are allowed")
                yield _safe(member.name, file), stream.read()


def _write_index(index: Path, data: Path, members: Iterable[tuple[str, int, int]]) -> None:
    _write(index, data, {name: [offset, size] for name, offset, size in members})


def _write(index: Path, data: Path, positions: Mapping[str, list[int]]) -> None:
    # Escaped, because names may have bytes that are not UTF-8.
    write_text(index, json.dumps({"data": str(data), "members": positions}))


@lru_cache(maxsize=256)
def open_pack(index: Path) -> Pack:
    """The pack of an index, opened once per process."""
    return Pack(index)


def open_zip(file: Path) -> ZipFolder:
    """A ZIP file, opened once per process, and again after it has changed."""
    status = file.stat()
    return _open_zip(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _open_zip(file: Path, _size: int, _mtime: int) -> ZipFolder:
    return ZipFolder(file)


def _index_path(file: Path, kind: str) -> Path:
    status = file.stat()
    return kept_copy(f"{file} {status.st_size} {status.st_mtime_ns} {kind}", ".json")


def _is_usable(index: Path) -> bool:
    try:
        return Path(json.loads(index.read_text(encoding="utf-8"))["data"]).is_file()
    except (OSError, ValueError, KeyError):
        return False


def locked(path: Path) -> FileLock:
    """A lock for a copy in the cache, whose folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")


def _folder() -> Path:
    return cache_dir().absolute() / "archives"


def evict() -> None:
    """Remove the copies that were not used for longest until all fit the budget."""
    evict_files_to_budget(BUDGET, _folder(), COPIES)


def _safe(name: str, file: Path) -> str:
    """The name of a member without `./`.

    Raises:
        DataError: If it leads out of the archive.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith("/"):
        hint = "Pack it again, with names below one folder."
        raise DataError(f"holds a name that leads out of it (got '{name[:200]}')", where=str(file), hint=hint)
    return "/".join(parts)


def _require_readable_size(size: int, where: str) -> None:
    if size > MAX_BYTES:
        raise OSError(errno.EFBIG, f"has {size:,} bytes, and at most {MAX_BYTES:,} are read", where)


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(
        f"is not a readable archive ({why_unreadable(error)})", where=str(file), hint="Get or pack it again."
    )
