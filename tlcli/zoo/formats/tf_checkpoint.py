"""Checkpoints of TensorFlow 1 (`tf.train.Saver`), formats V1 and V2, read without TensorFlow.

V1 is one file, a sorted table of `SavedTensorSlices` messages. V2 is a prefix: `PREFIX.index`, a sorted table of
`BundleEntryProto` messages, and the values in `PREFIX.data-00000-of-00001` and so on. The messages are those in
TensorFlow's `saved_tensor_slice.proto` and `tensor_bundle.proto`. Checksums are not compared.
"""

import math
import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from tlcli.errors import WeightsError
from tlcli.zoo.formats.sorted_table import DamagedError, entries, fields, is_table, part, varint

# Numbers of `DataType` in TensorFlow's types.proto. Only these can be weights.
_FLOATS = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 14: np.dtype(ml_dtypes.bfloat16), 19: np.dtype("<f2")}
# Fields of `TensorProto` that hold these values, if `tensor_content` (4) does not.
_CONTENT, _HALF_VALUES = 4, 13
_VALUES = {_FLOATS[1]: 5, _FLOATS[2]: 6}
_MAX_RANK = 8
_T = TypeVar("_T")
_ENDINGS = r"\.(index|meta|data-\d{5}-of-\d{5})"
_FETCH_AGAIN = "The file may be damaged or incomplete; fetch it again."
_EXPECTED = (
    "Give the prefix of a V2 checkpoint (PREFIX.index and PREFIX.data-…), a V1 file, or the folder of a checkpoint."
)


@dataclass(frozen=True)
class Variable:
    """A variable of a checkpoint.

    Attributes:
        shape: Its shape.
        dtype: Its type; None if it is not a floating-point type.
        location: Where its values are: shard, offset and size in bytes. None in V1, or if it has several parts.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    location: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: the names of its variables, and their values on request.

    Attributes:
        path: Prefix (V2) or file (V1).
        shards: Number of data files; 0 in V1.
        variables: By name.
    """

    path: Path
    shards: int
    variables: Mapping[str, Variable]

    def read(self, names: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
        """Names and values, float32, of the variables `names`, in the order of the file.

        Raises:
            WeightsError: A variable cannot be read: a file is missing, damaged or truncated, the variable is not of
                floating-point type, or it is stored in several parts.
        """
        for name in names:
            if self.variables[name].dtype is None:
                raise WeightsError(f"the variable '{name}' is not of floating-point type", where=str(self.path))
        read = self._read_bundle if self.shards else self._read_slices
        for name, values in read(names):
            yield name, np.array(values, dtype=np.float32).reshape(self.variables[name].shape)

    def _read_bundle(self, names: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
        opened: dict[int, memoryview] = {}
        for name in names:
            variable = self.variables[name]
            if variable.location is None:
                raise _parts_error(self.path, name)
            shard, offset, size = variable.location
            path = _shard(self.path, shard, self.shards)
            if shard not in opened:
                opened[shard] = _content(path)
            values = _checked(path, partial(part, opened[shard], offset, size))
            yield name, np.frombuffer(values, dtype=variable.dtype)

    def _read_slices(self, names: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
        found: dict[str, np.ndarray] = {}
        data = _content(self.path)
        for name, tensor in _checked_each(self.path, _saved_slices(data)):
            if name in names:
                if name in found:
                    raise _parts_error(self.path, name)
                found[name] = _checked(self.path, partial(_values, tensor, self.variables[name]))
        if lost := [name for name in names if name not in found]:
            raise _damaged(self.path, f"the values of '{lost[0]}' are missing")
        yield from found.items()


def open_checkpoint(path: Path) -> Checkpoint:
    """Find a checkpoint and list its variables; values are not read.

    Args:
        path: V2 prefix, V1 file, any file of a V2 checkpoint, or a folder with a `checkpoint` file or one checkpoint.

    Raises:
        WeightsError: There is no checkpoint, or it is damaged.
    """
    file = find(path)
    stat = file.stat()
    return _open(file, stat.st_mtime_ns, stat.st_size)


def find(path: Path) -> Path:
    """The file that lists the variables of a checkpoint: `PREFIX.index`, or the V1 file.

    Raises:
        WeightsError: There is none.
    """
    if path.is_dir():
        path = _latest(path)
    index = path.with_name(re.sub(f"{_ENDINGS}$", "", path.name) + ".index")
    if index.is_file():
        return index
    if path.is_file() and not re.search(f"{_ENDINGS}$", path.name):
        return path
    if path.is_file():
        raise WeightsError(f"the file {index.name} of this checkpoint is missing", where=str(path), hint=_FETCH_AGAIN)
    raise WeightsError("there is no such checkpoint", where=str(path), hint=_EXPECTED)


def _latest(folder: Path) -> Path:
    """The checkpoint that the `checkpoint` file of a folder names, or else the only one in the folder."""
    state = folder / "checkpoint"
    if state.is_file():
        text = state.read_bytes()[:10_000].decode(errors="replace")
        if match := re.search(r'^model_checkpoint_path:\s*"([^"]+)"', text, re.MULTILINE):
            # The folder may have been moved since, so only the name counts.
            return folder / Path(match[1].replace("\\", "/")).name
        raise WeightsError("does not name a checkpoint", where=str(state), hint=_EXPECTED)
    names = [file.with_suffix("") for file in folder.glob("*.index")] or [*folder.glob("*.ckpt")]
    if len(names) != 1:
        raise WeightsError(
            f"has no `checkpoint` file, and {len(names) or 'no'} checkpoints",
            where=str(folder),
            hint=f"Name one of them. {_EXPECTED}" if names else _EXPECTED,
        )
    return names[0]


@lru_cache(maxsize=8)
def _open(file: Path, changed: int, size: int) -> Checkpoint:
    """List the variables. The time and size of the file are only there to notice that it has changed."""
    data = _content(file)
    if not is_table(data):
        raise WeightsError(
            "is not a TensorFlow checkpoint, or is not complete", where=str(file), hint=f"{_EXPECTED} {_FETCH_AGAIN}"
        )
    if file.suffix != ".index":
        return Checkpoint(file, 0, _checked(file, lambda: dict(_saved_variables(data))))
    prefix = file.with_suffix("")
    shards, variables = _checked(file, lambda: _bundle(data))
    for shard in {variable.location[0] for variable in variables.values() if variable.location}:
        path = _shard(prefix, shard, shards)
        if not path.is_file():
            raise WeightsError(
                f"the file {path.name} of this checkpoint is missing",
                where=str(prefix),
                hint=f"Put it beside {file.name}, which lists the variables but holds no values.",
            )
    return Checkpoint(prefix, shards, variables)


def _bundle(data: memoryview) -> tuple[int, dict[str, Variable]]:
    """Number of shards and variables of the index of a V2 checkpoint."""
    table = entries(data)
    key, header = next(table, (b"?", memoryview(b"")))
    values = dict(fields(header))
    if key or values.get(2, 0) != 0:
        raise DamagedError("it has no header, or is of a big-endian machine")
    shards = _integer(values.get(1, 0))
    variables = {name.decode(): _bundle_entry(entry) for name, entry in table if name and 0 not in name[:1]}
    return shards, variables


def _bundle_entry(entry: memoryview) -> Variable:
    """A variable from a `BundleEntryProto`; entry 7 lists the parts of a partitioned one."""
    values = dict(fields(entry))
    shape, dtype = _shape(values.get(2, memoryview(b""))), _FLOATS.get(_integer(values.get(1, 0)))
    shard, offset, size = (_integer(values.get(number, 0)) for number in (3, 4, 5))
    if 7 in values:
        return Variable(shape, dtype)
    if dtype is not None and size != math.prod(shape) * dtype.itemsize:
        raise DamagedError("a variable has another size than its shape says")
    return Variable(shape, dtype, (shard, offset, size))


def _saved_variables(data: memoryview) -> Iterator[tuple[str, Variable]]:
    """Names and variables of a V1 checkpoint, from its first entry, the `SavedTensorSliceMeta`."""
    key, first = next(entries(data), (b"?", memoryview(b"")))
    if key:
        raise DamagedError("it has no list of variables")
    for meta in _messages(first, 1):
        for saved in _messages(meta, 1):
            values = dict(fields(saved))
            dtype = _FLOATS.get(_integer(values.get(3, 0)))
            yield _text(values.get(1)), Variable(_shape(values.get(2, memoryview(b""))), dtype)


def _saved_slices(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Names and `TensorProto` messages of the values in a V1 checkpoint."""
    for key, value in entries(data):
        if key:
            for saved in _messages(value, 2):
                values = dict(fields(saved))
                yield _text(values.get(1)), _message(values.get(3))


def _values(tensor: memoryview, variable: Variable) -> np.ndarray:
    """The values of a `TensorProto`, one-dimensional; its own type is left out here by TensorFlow."""
    numbers, dtype = dict(fields(tensor)), np.dtype(variable.dtype)
    field = _CONTENT if _CONTENT in numbers else _VALUES.get(dtype, _HALF_VALUES)
    stored = _message(numbers.get(field, memoryview(b"")))
    if field == _HALF_VALUES:
        values = np.array([*_integers(stored)], dtype=np.uint16).view(dtype)
    elif len(stored) % dtype.itemsize:
        raise DamagedError("a number is cut off")
    else:
        values = np.frombuffer(stored, dtype=dtype)
    if values.size != math.prod(variable.shape):
        raise DamagedError("a variable has another size than its shape says")
    return values


def _integers(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = varint(data, at)
        yield value & 0xFFFF


def _shape(message: int | memoryview) -> tuple[int, ...]:
    """The shape of a `TensorShapeProto`."""
    sizes = [_integer(dict(fields(dimension)).get(1, 0)) for dimension in _messages(_message(message), 2)]
    if len(sizes) > _MAX_RANK or any(size >= 1 << 40 for size in sizes):
        raise DamagedError("a shape is impossible")
    return tuple(sizes)


def _messages(message: memoryview, number: int) -> Iterator[memoryview]:
    return (_message(value) for field, value in fields(message) if field == number)


def _message(value: int | memoryview | None) -> memoryview:
    if not isinstance(value, memoryview):
        raise DamagedError("a field is missing or has another type")
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise DamagedError("a field has another type")
    return value


def _text(value: int | memoryview | None) -> str:
    return bytes(_message(value)).decode()


def _shard(prefix: Path, shard: int, shards: int) -> Path:
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")


def _content(path: Path) -> memoryview:
    """The bytes of a file, which the system reads when they are needed."""
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise WeightsError(f"cannot be read ({error.strerror})", where=str(path), hint=_FETCH_AGAIN) from error


def _checked(path: Path, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except (DamagedError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error


def _checked_each(path: Path, items: Iterator[_T]) -> Iterator[_T]:
    while True:
        item = _checked(path, lambda: next(items, None))
        if item is None:
            return
        yield item


def _damaged(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"is damaged or not complete ({reason})", where=str(path), hint=_FETCH_AGAIN)


def _parts_error(path: Path, name: str) -> WeightsError:
    return WeightsError(
        f"the variable '{name}' is stored in several parts",
        where=str(path),
        hint="Restore it in TensorFlow without a partitioner, and save it again.",
    )
