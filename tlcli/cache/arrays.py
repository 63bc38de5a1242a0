"""Arrays on disk by content key: computed once, verified whenever they are opened, repaired, and bounded in size.

An entry is a folder with `<key>/data.npy` and `<key>/notes.json`. It gets its name when it is complete. The metadata in
`notes.json` hold a checksum of each block of rows and one of themselves; an array is returned only if all checksums
match. Damaged blocks are written again in place, so that existing mappings of the file see correct bytes again. If the
metadata are invalid, the entry is written anew as another file; existing mappings keep the old one.
"""

import math
import shutil
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from tlcli.cache.entry import DATA, Array, Entry, Metadata, State, header_of, inspect, row_range
from tlcli.cache.eviction import (
    METADATA,
    DiskSpace,
    evict_to_budget,
    evict_to_fit,
    mark_used,
    partial_path,
    remove_entry,
    remove_leftovers,
)
from tlcli.paths import write_json

# (start, stop, indices): for each entry in `indices`, its rows from start to stop, in its dtype.
Compute = Callable[[int, int, Sequence[int]], Sequence[npt.NDArray[Any]]]
Block = tuple[int, int, Sequence[int]]
"""First row, the row after the last, and indices of entries."""

# Most bytes of a block, up to rounding. Blocks of an entry have equal sizes, so most are larger than half of this.
BLOCK_BYTES = 2**24
# Seconds between two records of the blocks that a pass on other machines has finished.
RECORD_EVERY_S = 1.0
# The checksum of a block that is not computed yet. No content has it.
_MISSING = -1


@dataclass(frozen=True)
class Distributed:
    """Computes blocks on other machines. The blocks that it has finished survive an interruption.

    Attributes:
        block_rows: Rows of a block of new entries.
        run: Takes all missing blocks. Yields the number of a block and its arrays, as of `Compute`, in any order.
    """

    block_rows: int
    run: Callable[[Sequence[Block]], Iterator[tuple[int, Sequence[npt.NDArray[Any]]]]]


def open_arrays(
    folder: Path,
    entries: Sequence[Entry],
    compute: Compute | Distributed,
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
            `(stop - start, *shape[1:])` for each index, in the dtype of the entry. Or a `Distributed`, whose finished
            blocks are found by the next call after an interruption, unless another pass clears the folder first.
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
    states = {entry.key: inspect(folder / entry.key, entry) for entry in entries}
    missing = {entry.key: entry for entry in entries if states[entry.key].array is None}
    if missing:
        states |= _complete(_Request(folder, entries, compute, progress), missing, budget)
    for key in keys:
        mark_used(folder / key)
    return [_require_array(states[entry.key], folder / entry.key) for entry in entries]


def is_stored(folder: Path, entry: Entry) -> bool:
    """True if an entry is complete and undamaged."""
    return inspect(folder / entry.key, entry).array is not None


def forget(folder: Path, entry: Entry) -> None:
    """Remove an entry, and what an interrupted pass on other machines has finished of it, if there is one."""
    if not folder.is_dir():
        return
    with FileLock(folder / f"{entry.key}.lock"):
        remove_entry(folder / entry.key)
        shutil.rmtree(partial_path(folder / entry.key), ignore_errors=True)


@dataclass(frozen=True)
class _Request:
    """The arguments of one call of `open_arrays`."""

    folder: Path
    entries: Sequence[Entry]
    compute: Compute | Distributed
    progress: Callable[[int, int], None] | None


def results(
    compute: Compute | Distributed, blocks: Sequence[Block]
) -> Iterator[tuple[int, Sequence[npt.NDArray[Any]]]]:
    """The number of a block and its arrays, for all blocks: in their order, or in any if distributed."""
    if isinstance(compute, Distributed):
        yield from compute.run(blocks)
    else:
        for number, block in enumerate(blocks):
            yield number, compute(*block)


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
        return row_range(self.entry, self.block_rows, block)

    def record(self) -> None:
        """Write the metadata with the checksums so far."""
        write_json(self.path / METADATA, Metadata(self.block_rows, self.checksums).to_json(self.entry))

    def prepare(self) -> None:
        """Write the header and set the length of the file. Undamaged blocks stay."""
        self.path.mkdir(exist_ok=True)
        (self.path / DATA).touch()
        with (self.path / DATA).open("r+b") as file:
            header = header_of(self.entry)
            file.write(header)
            file.truncate(len(header) + self.entry.bytes)

    def write(self, start: int, array: npt.NDArray[Any]) -> None:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        with (self.path / DATA).open("r+b") as file:
            file.seek(len(header_of(self.entry)) + start * self.entry.row_bytes)
            file.write(raw)
        self.checksums[start // self.block_rows] = zlib.crc32(raw)

    def finish(self, path: Path) -> None:
        """Write the metadata and give the entry its final path."""
        self.record()
        if self.path != path:
            self.path.replace(path)


def _complete(request: _Request, missing: dict[str, Entry], budget: int | None) -> dict[str, State]:
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
            states = {key: inspect(folder / key, entry) for key, entry in missing.items()}
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
            return {key: inspect(folder / key, entry) for key, entry in missing.items()}


def _plan_tasks(request: _Request, missing: dict[Entry, State]) -> list[_Task]:
    """A task for each missing entry. Entries without valid metadata are removed and computed as a whole.

    An entry that an interrupted distributed pass has begun is continued.
    """
    is_distributed = isinstance(request.compute, Distributed)
    new = []
    tasks = []
    for entry, state in missing.items():
        index, path = request.entries.index(entry), request.folder / entry.key
        begun = State() if state.metadata else inspect(partial_path(path), entry)
        if metadata := state.metadata or begun.metadata:
            at, blocks = (path, state.damaged_blocks) if state.metadata else (partial_path(path), begun.damaged_blocks)
            tasks.append(_Task(index, entry, at, metadata.block_rows, list(metadata.checksums), blocks))
        else:
            remove_entry(path)
            new.append((index, entry, partial_path(path) if is_distributed else _temporary_path(path)))
    block_rows = _block_rows(request, [entry for _, entry, _ in new])
    for index, entry, path in new:
        count = -(-entry.shape[0] // block_rows)
        tasks.append(_Task(index, entry, path, block_rows, [_MISSING] * count, range(count)))
    return tasks


def _compute_tasks(request: _Request, tasks: Sequence[_Task], space: DiskSpace) -> None:
    """Compute and write the blocks of all tasks; one after the other in the order of their rows, or distributed."""
    tasks_by_rows: dict[tuple[int, int], list[_Task]] = defaultdict(list)
    for task in tasks:
        for block in task.blocks:
            tasks_by_rows[task.row_range(block)].append(task)
    ordered = sorted(tasks_by_rows.items(), key=lambda item: item[0])
    blocks = [(*rows, [task.index for task in tasks_at]) for rows, tasks_at in ordered]
    done, total, recorded_at = 0, sum(stop - start for start, stop in tasks_by_rows), time.monotonic()
    computed = results(request.compute, blocks)
    # Errors of `compute` are not about the cache, so they are not explained as such. One block is in memory at a time.
    try:
        while (result := next(computed, None)) is not None:
            rows, tasks_at = ordered[result[0]]
            _write_block(rows, tasks_at, result[1], space)
            del result
            done += rows[1] - rows[0]
            if time.monotonic() - recorded_at >= RECORD_EVERY_S:
                _record(request, tasks)
                recorded_at = time.monotonic()
            if request.progress:
                request.progress(done, total)
    finally:
        _record(request, tasks)


def _record(request: _Request, tasks: Sequence[_Task]) -> None:
    """Note the finished blocks of a distributed pass, so that they survive an interruption."""
    if isinstance(request.compute, Distributed):
        for task in tasks:
            task.record()


def _write_block(
    rows: tuple[int, int], tasks: Sequence[_Task], arrays: Sequence[npt.NDArray[Any]], space: DiskSpace
) -> None:
    """Write one block of each task."""
    for task, array in zip(tasks, arrays, strict=True):
        expected = (rows[1] - rows[0], *task.entry.shape[1:]), np.dtype(task.entry.dtype)
        if (array.shape, array.dtype) != expected:
            raise ValueError(f"compute must return rows of {expected} (got {(array.shape, array.dtype)})")
    with space.explain_errors():
        for task, array in zip(tasks, arrays, strict=True):
            task.write(rows[0], array)


def _require_array(state: State, path: Path) -> Array:
    if state.array is None:
        raise DiskSpace("cache", path, 0).unreadable_error()
    return state.array


def _block_rows(request: _Request, entries: Sequence[Entry]) -> int:
    """Rows per block for new entries: blocks of equal size, as large as `BLOCK_BYTES` allows for the widest rows."""
    if isinstance(request.compute, Distributed):
        return request.compute.block_rows
    rows = max((entry.shape[0] for entry in entries), default=0)
    blocks = max((math.ceil(entry.bytes / BLOCK_BYTES) for entry in entries), default=0)
    return max(math.ceil(rows / max(blocks, 1)), 1)


def _extra_bytes(task: _Task) -> int:
    """Bytes by which the file of a task grows. Blocks to repair take no more space."""
    data = task.path / DATA
    return max(task.entry.bytes - (data.stat().st_size if data.exists() else 0), 0)


def _temporary_path(path: Path) -> Path:
    """The folder in which an entry is computed. Only the holder of its lock touches it."""
    return path.with_name(f".{path.name}-new")
