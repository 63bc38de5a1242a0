"""Writes PyTorch files without PyTorch, in both of its forms, honest ones and others."""

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass

import numpy as np

STORAGES = {
    "<f8": "DoubleStorage",
    "<f4": "FloatStorage",
    "<f2": "HalfStorage",
    "<i8": "LongStorage",
    "<i4": "IntStorage",
    "<i2": "ShortStorage",
    "|i1": "CharStorage",
    "|u1": "ByteStorage",
    "|b1": "BoolStorage",
}


@dataclass(frozen=True)
class Raw:
    """Opcodes that stand in place of a value."""

    opcodes: bytes


@dataclass(frozen=True)
class View:
    """A strided view of a named storage, all in elements."""

    key: str
    storage: np.ndarray
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    kind: str = ""


def legacy(tree, *, little_endian=True):
    """The older form: five pickles, then the storages."""
    storages = {}
    body = encode(tree, storages, view=b"N")
    keys = sorted(storages)
    heads = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": little_endian}]
    blocks = b"".join(struct.pack("<q", storages[key].size) + storages[key].tobytes() for key in keys)
    return b"".join([*(pickle.dumps(head, 2) for head in heads), closed(body), pickle.dumps(keys, 2), blocks])


def archive(tree, *, byteorder=b"little", folder="archive", compression=zipfile.ZIP_STORED, extra=()):
    """The zip form."""
    storages = {}
    body = encode(tree, storages)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as file:
        file.writestr(f"{folder}/data.pkl", closed(body))
        file.writestr(f"{folder}/byteorder", byteorder)
        for key, storage in storages.items():
            file.writestr(f"{folder}/data/{key}", storage.tobytes())
        for name in extra:
            file.writestr(f"{folder}/{name}", b"")
    return target.getvalue()


def closed(opcodes):
    return b"\x80\x02" + opcodes + b"."


def encode(value, storages, view=b""):
    """Opcodes that leave a value on the stack; storages of its arrays are added to `storages`."""
    if isinstance(value, Raw):
        return value.opcodes
    if isinstance(value, np.ndarray):
        strides = tuple(stride // value.itemsize for stride in value.strides)
        return encode(View(str(len(storages)), value.ravel(), 0, value.shape, strides), storages, view)
    if isinstance(value, View):
        storages[value.key] = value.storage
        kind = value.kind or STORAGES[value.storage.dtype.str]
        identity = text("storage") + name("torch", kind) + text(value.key) + text("cpu") + number(value.storage.size)
        tail = number(value.offset) + tuple_of(value.shape) + tuple_of(value.strides) + b"\x89" + ordered({}, storages)
        return name("torch._utils", "_rebuild_tensor_v2") + b"((" + identity + view + b"tQ" + tail + b"tR"
    if isinstance(value, dict):
        return ordered(value, storages, view)
    return pickle.dumps(value, 2)[2:-1]


def ordered(items, storages, view=b""):
    pairs = b"".join(encode(key, storages) + encode(value, storages, view) for key, value in items.items())
    return name("collections", "OrderedDict") + b")R" + (b"(" + pairs + b"u" if pairs else b"")


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def tuple_of(values):
    return b"(" + b"".join(map(number, values)) + b"t"
