"""One entry of the array cache on disk: its files, and whether they are complete and undamaged.

An entry is a folder with `data.npy`, the array, and `notes.json`, its metadata: a checksum of each block of rows and
one of themselves.
"""

import errno
import json
import math
import os
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.cache.eviction import KEY, METADATA

Array = np.memmap[Any, np.dtype[Any]]

FORMAT_VERSION = 1
DATA = "data.npy"

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


@dataclass(frozen=True)
class Metadata:
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
class State:
    """What is on disk of an entry.

    Attributes:
        array: The array if it is complete and undamaged.
        metadata: The metadata if they are valid; then only `damaged_blocks` must be computed.
        damaged_blocks: Numbers of the blocks whose checksum does not match.
    """

    array: Array | None = None
    metadata: Metadata | None = None
    damaged_blocks: tuple[int, ...] = ()


def inspect(path: Path, entry: Entry) -> State:
    """The state of an entry on disk, all checksums verified. Needs no lock: a concurrent change shows as damage."""
    try:
        metadata = _read_metadata(path, entry)
        if metadata is None:
            return State()
        with FileIO(path / DATA) as file:
            damaged_blocks = _damaged_blocks(file, entry, metadata)
            header = header_of(entry)
            file.seek(0)
            has_header = file.read(len(header)) == header
            has_length = file.seek(0, os.SEEK_END) == len(header) + entry.bytes
            if damaged_blocks or not (has_header and has_length):
                return State(None, metadata, damaged_blocks)
            # A map of the open file: another process may have replaced the file at the path.
            return State(np.memmap(file, np.dtype(entry.dtype), "r", len(header), entry.shape), metadata)
    except OSError as error:
        if error.errno in _SHORTAGE:
            raise
        return State()


def _read_metadata(path: Path, entry: Entry) -> Metadata | None:
    """The metadata on disk; None if they are damaged or belong to another entry."""
    try:
        stored = json.loads((path / METADATA).read_bytes())
        metadata = Metadata(stored["block_rows"], tuple(stored["checksums"]))
    except (ValueError, TypeError, KeyError):
        return None
    return metadata if stored == metadata.to_json(entry) else None


def _damaged_blocks(file: FileIO, entry: Entry, metadata: Metadata) -> tuple[int, ...]:
    """Numbers of the blocks whose checksum does not match."""
    lock, data_offset = threading.Lock(), len(header_of(entry))

    def is_damaged(block: int) -> bool:
        start, stop = row_range(entry, metadata.block_rows, block)
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


def header_of(entry: Entry) -> bytes:
    """The first bytes of `data.npy`."""
    header = BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(entry.dtype))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": entry.shape})
    return header.getvalue()


def row_range(entry: Entry, block_rows: int, block: int) -> tuple[int, int]:
    """First row of a block, and the row after its last."""
    return block * block_rows, min((block + 1) * block_rows, entry.shape[0])
