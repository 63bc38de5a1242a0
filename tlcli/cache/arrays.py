"""Arrays on disk: computed once, found again by content key, checked at every opening, repaired, bounded in bytes.

An entry is a folder, `<key>/data.npy` beside `<key>/notes.json`, that takes its name when it is complete. The notes
hold a checksum of every block of rows and one of themselves; nothing is handed out before all of them fit. Damaged
blocks are written again in place, so that who has the file mapped sees wrong bytes become right ones. Where the notes
cannot be believed, the entry is made anew as another file; mappings of the old one stay as they are.
"""

import errno
import json
import math
import os
import shutil
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from tlcli.cache.eviction import (
    KEY,
    NOTES,
    DiskSpace,
    free_space,
    limit_total,
    mark_used,
    remove_entry,
    remove_leftovers,
)
from tlcli.paths import write_json

Array = np.memmap[Any, np.dtype[Any]]
# (start, stop, which): for each index in `which` the rows from start to stop of that entry, in its dtype.
Compute = Callable[[int, int, Sequence[int]], Sequence[npt.NDArray[Any]]]

FORMAT_VERSION = 1
# What a block holds at most, but for rounding; blocks of one entry are alike, so most hold more than half of this.
BLOCK_BYTES = 2**24

_DATA = "data.npy"
_THREADS, _PIECE_BYTES = 4, 2**20
# Not the fault of the file: what lies there may be sound.
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(frozen=True)
class Entry:
    """An array by what decides its content.

    Attributes:
        key: Hexadecimal hash of everything that decides the content.
        shape: Shape of the array, rows first.
        dtype: Name of a NumPy dtype: `float32`, `uint8`, …
    """

    key: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if not KEY.fullmatch(self.key):
            raise ValueError(f"the key of an entry is a hexadecimal number, not {self.key!r}")

    @property
    def row_bytes(self) -> int:
        """Bytes a row."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """Bytes of the whole array."""
        return self.shape[0] * self.row_bytes


def open_arrays(
    folder: Path,
    entries: Sequence[Entry],
    compute: Compute,
    *,
    budget: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Array]:
    """The arrays of these entries, read-only memory maps; what is missing or damaged is computed first.

    All that is missing is made in one pass over the rows, where memory holds one block of each entry at a time.
    Several processes may ask at once: one computes, the others wait and find it.

    Args:
        folder: Where the entries lie; made if missing.
        entries: What is wanted; all have the same number of rows.
        compute: Called with (start, stop, indices into `entries`) for the rows that are needed, and only then. It
            gives an array `(stop - start, *shape[1:])` for each index, in the dtype of the entry.
        budget: Bytes that all entries in `folder` may take. After something was made, those used longest ago are
            removed until that holds, though none of this call and none that the system keeps in use.
        progress: Called with (rows computed, rows to compute); not called when there is nothing to compute.

    Raises:
        DataError: The folder cannot be written, or the disk has too little room.
        ValueError: The entries do not have one number of rows, or `compute` gave something else than was asked for.
    """
    keys = {entry.key for entry in entries}
    if len({entry.shape[0] for entry in entries}) > 1 or len(keys) != len(set(entries)):
        raise ValueError("the entries of one call have one number of rows, and each its own key")
    seen = {entry.key: _look(folder / entry.key, entry) for entry in entries}
    lacking = [entry for entry in entries if seen[entry.key].array is None]
    if lacking:
        call = _Call(folder, entries, compute, progress)
        seen |= _completed(call, {entry.key: entry for entry in lacking}, budget)
    for key in keys:
        mark_used(folder / key)
    return [_sound(seen[entry.key], folder / entry.key) for entry in entries]


@dataclass(frozen=True)
class _Notes:
    """What is known of an entry on disk: rows a block, and the checksum of each block."""

    block_rows: int
    checksums: Sequence[int]

    def document(self, entry: Entry) -> dict[str, Any]:
        """As it is written, with a checksum of itself."""
        document: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "block_rows": self.block_rows,
            "checksums": list(self.checksums),
        }
        return document | {"checksum": zlib.crc32(json.dumps(document).encode())}


@dataclass(frozen=True)
class _Seen:
    """What lies on disk of an entry: all of it where there is an array, sound blocks where there are only notes."""

    array: Array | None = None
    notes: _Notes | None = None
    damaged: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Call:
    folder: Path
    entries: Sequence[Entry]
    compute: Compute
    progress: Callable[[int, int], None] | None


@dataclass(frozen=True)
class _Task:
    """An entry to be made, or of which some blocks are to be made again.

    Attributes:
        index: Its place among the entries of the call.
        entry: The entry.
        place: The folder written to; another than the entry's own as long as that is not complete.
        block_rows: Rows a block.
        checksums: Of the blocks; those of `blocks` are filled in.
        blocks: Numbers of the blocks to compute.
    """

    index: int
    entry: Entry
    place: Path
    block_rows: int
    checksums: list[int]
    blocks: Sequence[int]

    def span(self, block: int) -> tuple[int, int]:
        return _span(self.entry, self.block_rows, block)

    def prepare(self) -> None:
        """Give the file its header and its length; what is sound in it stays."""
        self.place.mkdir(exist_ok=True)
        (self.place / _DATA).touch()
        with (self.place / _DATA).open("r+b") as file:
            header = _header(self.entry)
            file.write(header)
            file.truncate(len(header) + self.entry.bytes)

    def write(self, start: int, array: npt.NDArray[Any]) -> None:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        with (self.place / _DATA).open("r+b") as file:
            file.seek(len(_header(self.entry)) + start * self.entry.row_bytes)
            file.write(raw)
        self.checksums[start // self.block_rows] = zlib.crc32(raw)

    def finish(self, place: Path) -> None:
        write_json(self.place / NOTES, _Notes(self.block_rows, self.checksums).document(self.entry))
        if self.place != place:
            self.place.replace(place)


def _completed(call: _Call, lacking: dict[str, Entry], budget: int | None) -> dict[str, _Seen]:
    """Make what is lacking, unless another process does it first."""
    room = DiskSpace("cache", call.folder, sum(entry.bytes for entry in lacking.values()))
    with ExitStack() as stack:
        with room.claimed():
            call.folder.mkdir(parents=True, exist_ok=True)
            # Everybody takes them in this order, so that nobody waits for somebody who waits for him.
            for key in sorted(lacking):
                stack.enter_context(FileLock(call.folder / f"{key}.lock"))
            remove_leftovers(call.folder, lacking)
            seen = {key: _look(call.folder / key, entry) for key, entry in lacking.items()}
            tasks = _tasks(call, {entry: seen[key] for key, entry in lacking.items() if seen[key].array is None})
            if not tasks:
                return seen
            keep = {entry.key for entry in call.entries}
            growth = DiskSpace("cache", call.folder, sum(map(_growth, tasks)))
            if budget is not None:
                free_space(growth, keep)
            growth.require()
            for task in tasks:
                stack.callback(shutil.rmtree, _unfinished(call.folder / task.entry.key), ignore_errors=True)
                task.prepare()
        _compute(call, tasks, room)
        with room.claimed():
            for task in tasks:
                task.finish(call.folder / task.entry.key)
            if budget is not None:
                limit_total(budget, call.folder, keep)
            return {key: _look(call.folder / key, entry) for key, entry in lacking.items()}


def _tasks(call: _Call, lacking: dict[Entry, _Seen]) -> list[_Task]:
    """What is to do. What is nothing to build on is removed here."""
    new = [entry for entry, seen in lacking.items() if seen.notes is None]
    block_rows = _block_rows(new)
    tasks = []
    for entry, seen in lacking.items():
        index, place = call.entries.index(entry), call.folder / entry.key
        if seen.notes is None:
            remove_entry(place)
            blocks = range(-(-entry.shape[0] // block_rows))
            tasks.append(_Task(index, entry, _unfinished(place), block_rows, [0] * len(blocks), blocks))
        else:
            checksums = list(seen.notes.checksums)
            tasks.append(_Task(index, entry, place, seen.notes.block_rows, checksums, seen.damaged))
    return tasks


def _compute(call: _Call, tasks: Sequence[_Task], room: DiskSpace) -> None:
    """Compute and write the blocks of all tasks, in the order of their rows."""
    together: dict[tuple[int, int], list[_Task]] = defaultdict(list)
    for task in tasks:
        for block in task.blocks:
            together[task.span(block)].append(task)
    done, rows = 0, sum(stop - start for start, stop in together)
    for (start, stop), some in sorted(together.items(), key=lambda item: item[0]):
        _step(call, (start, stop), some, room)
        done += stop - start
        if call.progress:
            call.progress(done, rows)


def _step(call: _Call, span: tuple[int, int], tasks: Sequence[_Task], room: DiskSpace) -> None:
    """One block of each task; a function of its own so that its arrays are gone before the next."""
    # Outside of the claim: errors of `compute` are not about the cache.
    arrays = call.compute(*span, [task.index for task in tasks])
    for task, array in zip(tasks, arrays, strict=True):
        wanted = (span[1] - span[0], *task.entry.shape[1:]), np.dtype(task.entry.dtype)
        if (array.shape, array.dtype) != wanted:
            raise ValueError(f"rows of {wanted} were asked for, and {(array.shape, array.dtype)} computed")
    with room.claimed():
        for task, array in zip(tasks, arrays, strict=True):
            task.write(span[0], array)


def _look(place: Path, entry: Entry) -> _Seen:
    """What lies there, with every checksum verified. Needs no lock: a change in the middle shows as damage."""
    try:
        notes = _read_notes(place, entry)
        if notes is None:
            return _Seen()
        with FileIO(place / _DATA) as file:
            damaged = _damaged(file, entry, notes)
            header = _header(entry)
            file.seek(0)
            is_framed = file.read(len(header)) == header and file.seek(0, os.SEEK_END) == len(header) + entry.bytes
            if damaged or not is_framed:
                return _Seen(None, notes, damaged)
            # Of the open file, not of its path, which may have become another one's.
            return _Seen(np.memmap(file, np.dtype(entry.dtype), "r", len(header), entry.shape), notes)
    except OSError as error:
        if error.errno in _SHORTAGE:
            raise
        return _Seen()


def _read_notes(place: Path, entry: Entry) -> _Notes | None:
    """The notes; None where they are not, as they stand, notes of this entry."""
    try:
        stored = json.loads((place / NOTES).read_bytes())
        notes = _Notes(stored["block_rows"], tuple(stored["checksums"]))
    except (ValueError, TypeError, KeyError):
        return None
    return notes if stored == notes.document(entry) else None


def _damaged(file: FileIO, entry: Entry, notes: _Notes) -> tuple[int, ...]:
    """Numbers of the blocks that are not as they were written."""
    guard, before = threading.Lock(), len(_header(entry))

    def is_damaged(block: int) -> bool:
        start, stop = _span(entry, notes.block_rows, block)
        checksum, place, end = 0, before + start * entry.row_bytes, before + stop * entry.row_bytes
        while place < end:
            try:
                with guard:
                    file.seek(place)
                    piece = file.read(min(end - place, _PIECE_BYTES))
            except OSError:
                return True
            if not piece:
                return True
            checksum = zlib.crc32(piece, checksum)
            place += len(piece)
        return checksum != notes.checksums[block]

    with ThreadPoolExecutor(_THREADS) as pool:
        verdicts = list(pool.map(is_damaged, range(len(notes.checksums))))
    return tuple(np.flatnonzero(verdicts).tolist())


def _sound(seen: _Seen, place: Path) -> Array:
    if seen.array is None:
        raise DiskSpace("cache", place, 0).unreadable()
    return seen.array


def _header(entry: Entry) -> bytes:
    """What `data.npy` begins with."""
    header = BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(entry.dtype))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": entry.shape})
    return header.getvalue()


def _span(entry: Entry, block_rows: int, block: int) -> tuple[int, int]:
    return block * block_rows, min((block + 1) * block_rows, entry.shape[0])


def _block_rows(entries: Iterable[Entry]) -> int:
    """Rows a block for entries that are made together: blocks of equal size, as large as the widest rows allow."""
    rows = max((entry.shape[0] for entry in entries), default=0)
    blocks = max((math.ceil(entry.bytes / BLOCK_BYTES) for entry in entries), default=0)
    return max(math.ceil(rows / max(blocks, 1)), 1)


def _growth(task: _Task) -> int:
    """Bytes that the disk needs more for a task; blocks of a file of full length lie there already."""
    data = task.place / _DATA
    return max(task.entry.bytes - (data.stat().st_size if data.exists() else 0), 0)


def _unfinished(place: Path) -> Path:
    """Where an entry is made; only who holds its lock touches this."""
    return place.with_name(f".{place.name}-new")
