"""Arrays on disk by content key: computed once, verified whenever they are opened, repaired, and bounded in size.

An entry is a folder with `<key>/data.npy` and `<key>/notes.json`. It gets its name when it is complete. The metadata in
`notes.json` hold a checksum of each block of rows and one of themselves; an array is returned only if all checksums
match. Damaged blocks are written again in place, so that existing mappings of the file see correct bytes again. If the
metadata are invalid, the entry is written anew as another file; existing mappings keep the old one.
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
    METADATA,
    DiskSpace,
    evict_to_budget,
    evict_to_fit,
    mark_used,
    remove_entry,
    remove_leftovers,
)
from tlcli.paths import write_json

Array = np.memmap[Any, np.dtype[Any]]
# (start, stop, indices): for each entry in `indices`, its rows from start to stop, in its dtype.
Compute = Callable[[int, int, Sequence[int]], Sequence[npt.NDArray[Any]]]

FORMAT_VERSION = 1
# Most bytes of a block, up to rounding. Blocks of an entry have equal sizes, so most are larger than half of this.
BLOCK_BYTES = 2**24

_DATA = "data.npy"
_THREADS, _READ_BYTES = 4, 2**20
# A shortage of the process, not damage of the file.
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(frozen=True)
class Entry:
    """An array, identified by what determines its content.

    Attributes:
        key: Hexadecimal hash of everything that determines the content.
        shape: Shape of the array, rows first.
        dtype: Name of a NumPy dtype: `float32`, `uint8`, …
    """

    key: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if not KEY.fullmatch(self.key):
            raise ValueError(f"the key of an entry must be a hexadecimal number (got {self.key!r})")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
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
    """Open entries as read-only memory maps; compute those that are missing or damaged first.

    All missing entries are computed in one pass over the rows. Memory holds one block of each entry at a time. If
    several processes open the same entries, one computes them and the others wait.

    Args:
        folder: The cache folder; created if missing.
        entries: What to open. All have the same number of rows.
        compute: Called with (start, stop, indices into `entries`) for missing rows only. Returns an array
            `(stop - start, *shape[1:])` for each index, in the dtype of the entry.
        budget: Bytes that all entries in `folder` may take. After entries were computed, the least recently used ones
            are evicted until the rest fits, except the entries of this call and those that the system keeps in use.
        progress: Called with (rows computed, rows to compute); not called if nothing is computed.

    Raises:
        DataError: The folder cannot be written, or the disk is too small.
        ValueError: The entries differ in their number of rows, or `compute` returned other shapes or dtypes.
    """
    keys = {entry.key for entry in entries}
    if len({entry.shape[0] for entry in entries}) > 1 or len(keys) != len(set(entries)):
        raise ValueError("the entries of one call must have the same number of rows and different keys")
    states = {entry.key: _inspect(folder / entry.key, entry) for entry in entries}
    missing = {entry.key: entry for entry in entries if states[entry.key].array is None}
    if missing:
        states |= _complete(_Request(folder, entries, compute, progress), missing, budget)
    for key in keys:
        mark_used(folder / key)
    return [_require_array(states[entry.key], folder / entry.key) for entry in entries]


@dataclass(frozen=True)
class _Metadata:
    """The content of `notes.json`: rows per block, and the checksum of each block."""

    block_rows: int
    checksums: Sequence[int]

    def to_json(self, entry: Entry) -> dict[str, Any]:
        """The metadata of an entry as they are written, with their own checksum."""
        document: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "block_rows": self.block_rows,
            "checksums": list(self.checksums),
        }
        return document | {"checksum": zlib.crc32(json.dumps(document).encode())}


@dataclass(frozen=True)
class _State:
    """What is on disk of an entry.

    Attributes:
        array: The array if it is complete and undamaged.
        metadata: The metadata if they are valid; then only `damaged_blocks` must be computed.
        damaged_blocks: Numbers of the blocks whose checksum does not match.
    """

    array: Array | None = None
    metadata: _Metadata | None = None
    damaged_blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Request:
    """The arguments of one call of `open_arrays`."""

    folder: Path
    entries: Sequence[Entry]
    compute: Compute
    progress: Callable[[int, int], None] | None


@dataclass(frozen=True)
class _Task:
    """An entry to compute, or some blocks of it.

    Attributes:
        index: Its index among the entries of the request.
        entry: The entry.
        path: The folder written to. A new entry has a temporary folder until it is complete.
        block_rows: Rows per block.
        checksums: Checksums of all blocks; those of `blocks` are set when they are written.
        blocks: Numbers of the blocks to compute.
    """

    index: int
    entry: Entry
    path: Path
    block_rows: int
    checksums: list[int]
    blocks: Sequence[int]

    def row_range(self, block: int) -> tuple[int, int]:
        return _row_range(self.entry, self.block_rows, block)

    def prepare(self) -> None:
        """Write the header and set the length of the file. Undamaged blocks stay."""
        self.path.mkdir(exist_ok=True)
        (self.path / _DATA).touch()
        with (self.path / _DATA).open("r+b") as file:
            header = _header(self.entry)
            file.write(header)
            file.truncate(len(header) + self.entry.bytes)

    def write(self, start: int, array: npt.NDArray[Any]) -> None:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        with (self.path / _DATA).open("r+b") as file:
            file.seek(len(_header(self.entry)) + start * self.entry.row_bytes)
            file.write(raw)
        self.checksums[start // self.block_rows] = zlib.crc32(raw)

    def finish(self, path: Path) -> None:
        """Write the metadata and give the entry its final path."""
        write_json(self.path / METADATA, _Metadata(self.block_rows, self.checksums).to_json(self.entry))
        if self.path != path:
            self.path.replace(path)


def _complete(request: _Request, missing: dict[str, Entry], budget: int | None) -> dict[str, _State]:
    """Compute the missing entries, unless another process does it first. Returns their states on disk."""
    folder, keep = request.folder, {entry.key for entry in request.entries}
    space = DiskSpace("cache", folder, sum(entry.bytes for entry in missing.values()))
    with ExitStack() as stack:
        with space.explain_errors():
            folder.mkdir(parents=True, exist_ok=True)
            # All processes lock in the same order, so that no two of them wait for each other.
            for key in sorted(missing):
                stack.enter_context(FileLock(folder / f"{key}.lock"))
            remove_leftovers(folder, missing)
            states = {key: _inspect(folder / key, entry) for key, entry in missing.items()}
            tasks = _plan_tasks(
                request, {entry: states[key] for key, entry in missing.items() if states[key].array is None}
            )
            if not tasks:
                return states
            extra = DiskSpace("cache", folder, sum(map(_extra_bytes, tasks)))
            if budget is not None:
                evict_to_fit(extra, keep)
            extra.require_free()
            for task in tasks:
                stack.callback(shutil.rmtree, _temporary_path(folder / task.entry.key), ignore_errors=True)
                task.prepare()
        _compute_tasks(request, tasks, space)
        with space.explain_errors():
            for task in tasks:
                task.finish(folder / task.entry.key)
            if budget is not None:
                evict_to_budget(budget, folder, keep)
            return {key: _inspect(folder / key, entry) for key, entry in missing.items()}


def _plan_tasks(request: _Request, missing: dict[Entry, _State]) -> list[_Task]:
    """A task for each missing entry. Entries without valid metadata are removed and computed as a whole."""
    block_rows = _equal_block_rows([entry for entry, state in missing.items() if state.metadata is None])
    tasks = []
    for entry, state in missing.items():
        index, path = request.entries.index(entry), request.folder / entry.key
        if state.metadata is None:
            remove_entry(path)
            blocks = range(-(-entry.shape[0] // block_rows))
            tasks.append(_Task(index, entry, _temporary_path(path), block_rows, [0] * len(blocks), blocks))
        else:
            checksums = list(state.metadata.checksums)
            tasks.append(_Task(index, entry, path, state.metadata.block_rows, checksums, state.damaged_blocks))
    return tasks


def _compute_tasks(request: _Request, tasks: Sequence[_Task], space: DiskSpace) -> None:
    """Compute and write the blocks of all tasks, in the order of their rows."""
    tasks_by_rows: dict[tuple[int, int], list[_Task]] = defaultdict(list)
    for task in tasks:
        for block in task.blocks:
            tasks_by_rows[task.row_range(block)].append(task)
    done, total = 0, sum(stop - start for start, stop in tasks_by_rows)
    for (start, stop), tasks_at in sorted(tasks_by_rows.items(), key=lambda item: item[0]):
        _compute_block(request, (start, stop), tasks_at, space)
        done += stop - start
        if request.progress:
            request.progress(done, total)


def _compute_block(request: _Request, rows: tuple[int, int], tasks: Sequence[_Task], space: DiskSpace) -> None:
    """Compute and write one block of each task. A function of its own, so that its arrays are freed on return."""
    # Errors of `compute` are not about the cache, so they are not explained as such.
    arrays = request.compute(*rows, [task.index for task in tasks])
    for task, array in zip(tasks, arrays, strict=True):
        expected = (rows[1] - rows[0], *task.entry.shape[1:]), np.dtype(task.entry.dtype)
        if (array.shape, array.dtype) != expected:
            raise ValueError(f"compute must return rows of {expected} (got {(array.shape, array.dtype)})")
    with space.explain_errors():
        for task, array in zip(tasks, arrays, strict=True):
            task.write(rows[0], array)


def _inspect(path: Path, entry: Entry) -> _State:
    """The state of an entry on disk, all checksums verified. Needs no lock: a concurrent change shows as damage."""
    try:
        metadata = _read_metadata(path, entry)
        if metadata is None:
            return _State()
        with FileIO(path / _DATA) as file:
            damaged_blocks = _damaged_blocks(file, entry, metadata)
            header = _header(entry)
            file.seek(0)
            has_header = file.read(len(header)) == header
            has_length = file.seek(0, os.SEEK_END) == len(header) + entry.bytes
            if damaged_blocks or not (has_header and has_length):
                return _State(None, metadata, damaged_blocks)
            # A map of the open file: another process may have replaced the file at the path.
            return _State(np.memmap(file, np.dtype(entry.dtype), "r", len(header), entry.shape), metadata)
    except OSError as error:
        if error.errno in _SHORTAGE:
            raise
        return _State()


def _read_metadata(path: Path, entry: Entry) -> _Metadata | None:
    """The metadata on disk; None if they are damaged or belong to another entry."""
    try:
        stored = json.loads((path / METADATA).read_bytes())
        metadata = _Metadata(stored["block_rows"], tuple(stored["checksums"]))
    except (ValueError, TypeError, KeyError):
        return None
    return metadata if stored == metadata.to_json(entry) else None


def _damaged_blocks(file: FileIO, entry: Entry, metadata: _Metadata) -> tuple[int, ...]:
    """Numbers of the blocks whose checksum does not match."""
    lock, data_offset = threading.Lock(), len(_header(entry))

    def is_damaged(block: int) -> bool:
        start, stop = _row_range(entry, metadata.block_rows, block)
        checksum = 0
        position, end = data_offset + start * entry.row_bytes, data_offset + stop * entry.row_bytes
        while position < end:
            try:
                with lock:
                    file.seek(position)
                    chunk = file.read(min(end - position, _READ_BYTES))
            except OSError:
                return True
            if not chunk:
                return True
            checksum = zlib.crc32(chunk, checksum)
            position += len(chunk)
        return checksum != metadata.checksums[block]

    with ThreadPoolExecutor(_THREADS) as pool:
        are_damaged = list(pool.map(is_damaged, range(len(metadata.checksums))))
    return tuple(np.flatnonzero(are_damaged).tolist())


def _require_array(state: _State, path: Path) -> Array:
    if state.array is None:
        raise DiskSpace("cache", path, 0).unreadable_error()
    return state.array


def _header(entry: Entry) -> bytes:
    """The first bytes of `data.npy`."""
    header = BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(entry.dtype))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": entry.shape})
    return header.getvalue()


def _row_range(entry: Entry, block_rows: int, block: int) -> tuple[int, int]:
    """First row of a block, and the row after its last."""
    return block * block_rows, min((block + 1) * block_rows, entry.shape[0])


def _equal_block_rows(entries: Iterable[Entry]) -> int:
    """Rows per block for new entries: blocks of equal size, as large as `BLOCK_BYTES` allows for the widest rows."""
    rows = max((entry.shape[0] for entry in entries), default=0)
    blocks = max((math.ceil(entry.bytes / BLOCK_BYTES) for entry in entries), default=0)
    return max(math.ceil(rows / max(blocks, 1)), 1)


def _extra_bytes(task: _Task) -> int:
    """Bytes by which the file of a task grows. Blocks to repair take no more space."""
    data = task.path / _DATA
    return max(task.entry.bytes - (data.stat().st_size if data.exists() else 0), 0)


def _temporary_path(path: Path) -> Path:
    """The folder in which an entry is computed. Only the holder of its lock touches it."""
    return path.with_name(f".{path.name}-new")
