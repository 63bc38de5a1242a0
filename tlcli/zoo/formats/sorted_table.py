"""Tables of sorted keys in the format of LevelDB, and the wire format of protocol buffers: what checkpoints consist of.

Both are read as data: nothing in a file is executed, and every length is checked against the bytes that are there.
Formats: https://github.com/google/leveldb/blob/main/doc/table_format.md, snappy's format_description.txt and
https://protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Iterator

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER = 5  # after each block: the kind of its compression, and a checksum
_RAW, _SNAPPY = 0, 1
_MAX_GROWTH = 64  # snappy's shortest copy makes 64 bytes of 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field = tuple[int, int | memoryview]
"""Number and value of a protocol buffer field: an integer, or the bytes of a string, message, array or fixed number."""


class DamagedError(ValueError):
    """The bytes are not what the format requires."""


def is_table(data: memoryview) -> bool:
    """True if the bytes end like a table."""
    return len(data) >= _FOOTER and struct.unpack("<Q", data[-8:])[0] == _MAGIC


def entries(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of a table in the order of the keys; read block by block as far as they are asked for.

    Raises:
        DamagedError: The bytes are not a table, or not a complete one.
    """
    if not is_table(data):
        raise DamagedError("it does not end like a table")
    footer = data[-_FOOTER:]
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    for _, value in _block_entries(_block(data, index)):
        yield from _block_entries(_block(data, _handle(value, 0)[0]))


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a protocol buffer message in order; integers are unsigned.

    Raises:
        DamagedError: The bytes are not a message.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            number, at = varint(message, at)
            yield tag >> 3, number
            continue
        if kind == _BYTES:
            size, at = varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise DamagedError(f"field kind {kind} does not exist")
        yield tag >> 3, part(message, at, size)
        at += size


def part(data: memoryview, at: int, size: int) -> memoryview:
    """`size` bytes from position `at`.

    Raises:
        DamagedError: There are fewer.
    """
    if at + size > len(data):
        raise DamagedError(f"{at + size - len(data)} bytes are missing")
    return data[at : at + size]


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The integer of variable length at a position, and the position after it.

    Raises:
        DamagedError: There is none.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise DamagedError("a number does not end")


def _handle(data: memoryview, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and the position after them."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _block(data: memoryview, handle: tuple[int, int]) -> memoryview:
    offset, size = handle
    stored = part(data, offset, size + _TRAILER)
    content, compression = stored[:size], stored[size]
    if compression == _RAW:
        return content
    if compression == _SNAPPY:
        return memoryview(_unsnap(content))
    raise DamagedError(f"compression {compression} does not exist")


def _block_entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys, which are stored as differences from the key before, and values."""
    restarts = struct.unpack("<I", part(block, max(len(block) - 4, 0), 4))[0]
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise DamagedError("a block is too short")
    at, key = 0, b""
    while at < end:
        shared, at = varint(block, at)
        new, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or at + new + size > end:
            raise DamagedError("a key or value is cut off")
        key = key[:shared] + bytes(part(block, at, new))
        yield key, part(block, at + new, size)
        at += new + size


def _unsnap(data: memoryview) -> bytes:
    """Decompress snappy's format."""
    length, at = varint(data, 0)
    if length > _MAX_GROWTH * len(data):
        raise DamagedError("a compressed block has an impossible size")
    out = bytearray()
    while at < len(data):
        tag = data[at]
        if tag & 3 == 0:
            size, at = _literal_size(data, at)
            out += part(data, at, size)
            at += size
        else:
            size, back, at = _copy(data, at)
            if not 0 < back <= len(out):
                raise DamagedError("a compressed block refers to bytes before it")
            for _ in range(size):  # one by one: a copy may repeat what it has just written
                out.append(out[-back])
        if len(out) > length:
            break
    if len(out) != length:
        raise DamagedError("a compressed block has another size than stated")
    return bytes(out)


def _literal_size(data: memoryview, at: int) -> tuple[int, int]:
    """Size of the literal at a position, and the position of its first byte."""
    size = data[at] >> 2
    extra = max(size - 59, 0)
    if extra:
        size = int.from_bytes(part(data, at + 1, extra), "little")
    return size + 1, at + 1 + extra


def _copy(data: memoryview, at: int) -> tuple[int, int, int]:
    """Size and distance back of the copy at a position, and the position after it."""
    tag = data[at]
    kind = tag & 3
    if kind == 1:
        return 4 + (tag >> 2 & 7), (tag >> 5) << 8 | part(data, at + 1, 1)[0], at + 2
    wide = 2 if kind == 2 else 4
    return 1 + (tag >> 2), int.from_bytes(part(data, at + 1, wide), "little"), at + 1 + wide
