"""Disk space in a cache folder: eviction of entries, removal of leftovers, and errors when there is too little space.

A cache folder holds complete entries `<key>`, last used when their `notes.json` was last touched, and unfinished or
removed entries `.<key>-…`. Whoever changes one of them holds the lock `<key>.lock`. `.<key>-part` is what an
interrupted pass on several machines has finished; it is kept for a week.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from tlcli.errors import DataError

METADATA = "notes.json"
KEY = re.compile(r"[0-9a-f]+")

# Seconds for which the part of an interrupted pass is kept.
KEEP_PART_S = 7 * 24 * 3600
SECOND_NS = 10**9

_LEFTOVER = re.compile(r"\.([0-9a-f]+)-\w+")
_TOO_SMALL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class DiskSpace:
    """Disk space that a write to a cache folder needs, with errors that explain a failure.

    Attributes:
        name: What is written, for messages: "pixel cache".
        folder: Where it is written.
        bytes: Its size.
    """

    name: str
    folder: Path
    bytes: int

    def require_free(self) -> None:
        """Check that the disk has enough free space.

        Raises:
            DataError: If it has not.
        """
        free = shutil.disk_usage(self.folder).free
        if free < self.bytes:
            raise self._too_small(f"{free:,} free")

    @contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Turn errors of the system about a full disk or a folder that cannot be written into a DataError."""
        try:
            yield
        except OSError as error:
            if error.errno in _TOO_SMALL:
                raise self._too_small(error.strerror) from error
            if error.errno in _NOT_WRITABLE:
                hint = "Set TLCLI_CACHE to a writable folder."
                raise self._error(f"cannot be written ({error.strerror})", hint) from error
            raise

    def unreadable_error(self) -> DataError:
        """The error for content that was written but cannot be read."""
        return self._error("cannot be read back")

    def _too_small(self, reason: str | None) -> DataError:
        return self._error(f"needs {self.bytes:,} bytes on disk ({reason})")

    def _error(self, problem: str, hint: str = "Free some space, or set TLCLI_CACHE to another folder.") -> DataError:
        return DataError(f"the {self.name} {problem}", where=str(self.folder), hint=hint)


class _StoredEntry(NamedTuple):
    """A complete entry on disk. Entries sort by their last use, oldest first."""

    used_ns: int
    key: str
    bytes: int


def mark_used(path: Path) -> None:
    """Set the time of an entry's last use to now. Does nothing if the entry is gone."""
    stamp(path / METADATA, path.parent.glob(f"*/{METADATA}"))


def stamp(path: Path, others: Iterable[Path]) -> None:
    """Set the time of a file to now, or to a second after the last of all others if the clock was set back.

    So the order of use holds whatever the clock does. Does nothing if the file is gone or belongs to another user.
    """
    newest_ns = max((_mtime_ns(other) for other in others if other != path), default=0)
    moment_ns = max(time.time_ns(), newest_ns + SECOND_NS)
    # Another process may have removed the file. A mapping of it stays usable.
    with suppress(OSError):
        os.utime(path, ns=(moment_ns, moment_ns))


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def evict_to_fit(space: DiskSpace, keep: Collection[str]) -> None:
    """Evict the least recently used entries until the disk has the space. Evicts none if all together are too small.

    Args:
        space: The space needed, and the cache folder.
        keep: Keys of entries that are not evicted.
    """
    missing = space.bytes - shutil.disk_usage(space.folder).free
    evictable = sum(entry.bytes for entry in _stored_entries(space.folder) if entry.key not in keep)
    if evictable >= missing:
        _evict_least_recent(space.folder, keep, missing)


def evict_to_budget(budget: int, folder: Path, keep: Collection[str]) -> None:
    """Evict the least recently used entries until all entries take at most `budget` bytes.

    Args:
        budget: In bytes.
        folder: The cache folder.
        keep: Keys of entries that are not evicted, even if they exceed the budget.
    """
    excess = sum(entry.bytes for entry in _stored_entries(folder)) - budget
    _evict_least_recent(folder, keep, excess)


def evict_files_to_budget(budget: int, folder: Path, pattern: str) -> None:
    """Remove the least recently used files that match a pattern until the rest takes at most `budget` bytes."""
    files = []
    for path in folder.glob(pattern):
        # Another process may remove the file at the same time.
        with suppress(FileNotFoundError):
            files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    excess = sum(size for _, size, _ in files) - budget
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size


def remove_entry(path: Path) -> None:
    """Remove an entry. It is renamed first, so no reader finds half of it."""
    removed = path.with_name(f".{path.name}-old")
    with suppress(FileNotFoundError):
        path.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def partial_path(path: Path) -> Path:
    """Where the finished part of an entry is kept when a pass on several machines is interrupted."""
    return path.with_name(f".{path.name}-part")


def remove_leftovers(folder: Path, own: Collection[str]) -> None:
    """Remove what interrupted processes left in a cache folder: `.<key>-…`, unless another process holds the lock.

    Args:
        folder: The cache folder.
        own: Keys whose locks the caller holds.
    """
    for leftover in folder.iterdir():
        match = _LEFTOVER.fullmatch(leftover.name)
        if match and leftover == partial_path(folder / match[1]) and _age_s(leftover) < KEEP_PART_S:
            continue
        if match and match[1] in own:
            shutil.rmtree(leftover, ignore_errors=True)
        elif match:
            with suppress(Timeout), FileLock(folder / f"{match[1]}.lock").acquire(timeout=0):
                shutil.rmtree(leftover, ignore_errors=True)


def _age_s(path: Path) -> float:
    """Seconds since a folder was changed; 0 if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _evict_least_recent(folder: Path, keep: Collection[str], excess: int) -> None:
    """Evict entries in the order of their last use until `excess` bytes are free. Entries in use stay."""
    for entry in sorted(_stored_entries(folder)):
        if excess <= 0:
            return
        if entry.key not in keep and _evict(folder, entry.key):
            excess -= entry.bytes


def _evict(folder: Path, key: str) -> bool:
    """Remove an entry. False if another process is repairing it or, on Windows, has it open."""
    try:
        with FileLock(folder / f"{key}.lock").acquire(timeout=0):
            remove_entry(folder / key)
    except OSError:
        return False
    return True


def _stored_entries(folder: Path) -> list[_StoredEntry]:
    """All complete entries of a cache folder, in no order."""
    entries = []
    for metadata in folder.glob(f"*/{METADATA}"):
        # Another process may remove the entry at the same time.
        with suppress(FileNotFoundError):
            if KEY.fullmatch(metadata.parent.name):
                size = sum(file.stat().st_size for file in metadata.parent.iterdir())
                entries.append(_StoredEntry(metadata.stat().st_mtime_ns, metadata.parent.name, size))
    return entries
