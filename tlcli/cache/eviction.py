"""Room in a cache folder: who gives way to whom, what the interrupted left, and what to say when there is too little.

In such a folder `<key>` is a complete entry, used last when its `notes.json` was touched last, `.<key>-…` an unfinished
or a removed one, and who changes any of them holds `<key>.lock`.
"""

import errno
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tlcli.errors import DataError

NOTES = "notes.json"
KEY = re.compile(r"[0-9a-f]+")

_LEFTOVER = re.compile(r"\.([0-9a-f]+)-\w+")


@dataclass(frozen=True)
class DiskSpace:
    """Bytes that shall be written into a cache folder, and how the system's refusal is explained.

    Attributes:
        what: What is written: "pixel cache".
        folder: Where.
        bytes: How much.
    """

    what: str
    folder: Path
    bytes: int

    def require(self) -> None:
        """Refuse to begin what cannot end.

        Raises:
            DataError: The disk has less room than is needed.
        """
        free = shutil.disk_usage(self.folder).free
        if free < self.bytes:
            raise self._too_small(f"{free:,} free")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Turn the system's refusal to write into a DataError."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise self._too_small(error.strerror) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
                raise self._refused(f"cannot be written ({error.strerror})") from error
            raise

    def unreadable(self) -> DataError:
        """What to raise when something was written and is not there."""
        return self._refused("cannot be read back")

    def _too_small(self, seen: str | None) -> DataError:
        return self._refused(f"needs {self.bytes:,} bytes on disk ({seen})")

    def _refused(self, verdict: str) -> DataError:
        hint = "Free some space, or set TLCLI_CACHE to a folder elsewhere."
        return DataError(f"the {self.what} {verdict}", where=str(self.folder), hint=hint)


def remove_leftovers(folder: Path, own: Collection[str]) -> None:
    """Remove what interrupted processes left in a cache folder: `.<key>-*`, guarded by `<key>.lock`.

    Args:
        folder: The folder.
        own: Keys whose locks the caller holds; the leftovers of others go unless somebody holds theirs.
    """
    for leftover in folder.iterdir():
        match = _LEFTOVER.fullmatch(leftover.name)
        if match and match[1] in own:
            shutil.rmtree(leftover, ignore_errors=True)
        elif match:
            with suppress(Timeout), FileLock(folder / f"{match[1]}.lock").acquire(timeout=0):
                shutil.rmtree(leftover, ignore_errors=True)


def mark_used(place: Path) -> None:
    """Note that an entry was used just now."""
    # It may belong to somebody else, or be removed by another process: who has it mapped can use it all the same.
    with suppress(OSError):
        os.utime(place / NOTES)


def free_space(room: DiskSpace, keep: Collection[str]) -> None:
    """Where the disk is too full, remove what was used longest ago, unless that would not be enough either."""
    short = room.bytes - shutil.disk_usage(room.folder).free
    if sum(size for _, key, size in _held(room.folder) if key not in keep) >= short:
        _evict(room.folder, keep, short)


def limit_total(budget: int, folder: Path, keep: Collection[str]) -> None:
    """Remove what was used longest ago until all entries take at most `budget` bytes.

    Args:
        budget: In bytes.
        folder: The folder.
        keep: Keys of entries that stay, be they larger than the budget.
    """
    _evict(folder, keep, sum(size for _, _, size in _held(folder)) - budget)


def limit_files(budget: int, folder: Path, pattern: str) -> None:
    """Remove the least recently used files that match a pattern until those left take at most `budget` bytes."""
    found = []
    for path in folder.glob(pattern):
        # Another process may remove the file at the same time.
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    excess = sum(size for _, size, _ in found) - budget
    for _, size, path in sorted(found):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size


def remove_entry(place: Path) -> None:
    """Remove an entry: by its name first, so that nobody finds half of it."""
    removed = place.with_name(f".{place.name}-old")
    with suppress(FileNotFoundError):
        place.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def _evict(folder: Path, keep: Collection[str], excess: int) -> None:
    for _, key, size in sorted(_held(folder)):
        if excess <= 0:
            return
        # It stays where somebody is repairing it or, on Windows, has it open.
        with suppress(OSError):
            if key not in keep:
                with FileLock(folder / f"{key}.lock").acquire(timeout=0):
                    remove_entry(folder / key)
                excess -= size


def _held(folder: Path) -> list[tuple[int, str, int]]:
    """Of every entry when it was used last (ns), its key and its bytes."""
    held = []
    for notes in folder.glob(f"*/{NOTES}"):
        # Another process may remove it just now.
        with suppress(FileNotFoundError):
            if KEY.fullmatch(notes.parent.name):
                sizes = [file.stat().st_size for file in notes.parent.iterdir()]
                held.append((notes.stat().st_mtime_ns, notes.parent.name, sum(sizes)))
    return held
