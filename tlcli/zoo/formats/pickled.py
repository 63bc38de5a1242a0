"""Pickles of tensors, interpreted without running code: only the values that a state dict consists of are admitted.

`pickle.load` calls whatever a file names. Here the opcodes are parsed with `pickletools` and interpreted by a small
stack machine that knows dicts, lists, tuples, strings, numbers and tensors; every other opcode or name is an error.
Opcodes: https://docs.python.org/3/library/pickletools.html; what they stand for in PyTorch's files: `torch/_utils.py`
and `torch/serialization.py`.
"""

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

MAX_OPCODES = 5_000_000
_MAX_DIMENSIONS = 32

# Element types by their name in PyTorch. NumPy has no bfloat16: its 16 bits are read as uint16 and widened.
DTYPES = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "|i1",
    "uint64": "<u8",
    "uint32": "<u4",
    "uint16": "<u2",
    "uint8": "|u1",
    "bool": "|b1",
}
BYTES = "bytes"
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class PickleError(Exception):
    """The pickle is damaged, or holds something else than tensors. The message continues the name of the file."""


class Stream(Protocol):
    """A binary file or memory map at the first opcode."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes."""

    def readline(self) -> bytes:
        """The bytes up to and with the next line end."""

    def tell(self) -> int:
        """The position in bytes."""


@dataclass(frozen=True, eq=False)
class Storage:
    """A block of memory that tensors are views of.

    Attributes:
        key: Its name in the file.
        dtype: A key of `DTYPES`, or `BYTES`.
        length: Elements in the file.
        start: First element of this view of the block.
        end: Element after its last one.
    """

    key: str
    dtype: str
    length: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A strided view of a storage: `offset` and `strides` in elements, `dtype` a key of `DTYPES`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Name:
    """A global name of the allowlist that stands for an element type or a type of storage."""

    dtype: str


@dataclass(frozen=True, eq=False)
class _Function:
    """A global name of the allowlist that may be called."""

    call: Callable[[tuple[Any, ...]], Any]


def load(stream: Stream) -> tuple[Any, dict[str, Storage]]:
    """Interpret one pickle; afterwards the stream is behind it.

    Args:
        stream: The bytes.

    Returns:
        The value: dicts with keys that are strings or numbers, lists, tuples, strings, bytes, numbers, None, `Storage`s
        and `Tensor`s. Whether a tensor lies within its storage is checked, whether the storage is in the file is not.
        And all storages by their key.

    Raises:
        PickleError: The pickle is damaged or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            # Damaged strings make pickletools warn; what matters here is the error.
            warnings.simplefilter("ignore")
            return _run(stream)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise PickleError("is damaged: its pickle cannot be parsed") from error


def _run(stream: Stream) -> tuple[Any, dict[str, Storage]]:
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
        if count > MAX_OPCODES:
            raise PickleError(f"has more than {MAX_OPCODES:,} pickle opcodes")
        if opcode.name == "STOP":
            return machine.pop(), machine.storages
        machine.step(opcode.name, argument)
    raise PickleError("is damaged: its pickle does not end")


class _Machine:
    """The stack machine of pickle, without classes, functions or imports."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        else:
            raise PickleError(f"holds more than tensors: pickle opcode {name}")

    def pop(self) -> Any:
        if not self.stack:
            raise PickleError("is damaged: its pickle takes from an empty stack")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise PickleError(f"is damaged: its pickle has no {kind.__name__} where it needs one")
        return self.stack[-1]

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise PickleError("is damaged: its pickle has no mark where it needs one")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def collect(self, kind: Callable[[list[Any]], Any]) -> None:
        items = self.since_mark()
        self.stack.append(kind(items))

    def collect_dict(self) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.update(items)

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple([self.pop() for _ in range(count)][::-1]))

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.top(object)

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError("is damaged: its pickle refers to a value that it does not have")
        self.stack.append(self.memo[index])

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def update(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise PickleError("is damaged: its pickle has a key without a value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a deeply nested tuple would exhaust the C stack.
            if not isinstance(key, str | int | float):
                raise PickleError("holds a dict whose keys are not names")
            target[key] = value

    def name(self, module: Any, name: Any) -> None:
        text = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?"
        if text not in _NAMES:
            raise PickleError(f"holds more than tensors: '{text[:100]}', which is code")
        self.stack.append(_NAMES[text])

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise PickleError("holds more than tensors: its pickle calls what is no function of tensors")
        self.stack.append(function.call(arguments))

    def build(self) -> None:
        # The state of an OrderedDict, which holds the versions of the layers, and of a parameter: not needed.
        self.pop()
        if not isinstance(self.top(object), dict | Tensor):
            raise PickleError("holds more than tensors: its pickle sets the state of an object")

    def persistent(self) -> None:
        storage = _storage(self.pop())
        known = self.storages.setdefault(storage.key, storage)
        if (known.dtype, known.length) != (storage.dtype, storage.length):
            raise PickleError("is damaged: two tensors disagree about their storage")
        self.stack.append(storage)


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES"),
}
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.mark(),
    "TUPLE": lambda machine, _: machine.collect(tuple),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": lambda machine, _: machine.collect(list),
    "DICT": lambda machine, _: machine.collect_dict(),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "PUT": lambda machine, index: machine.put(index),
    "BINPUT": lambda machine, index: machine.put(index),
    "LONG_BINPUT": lambda machine, index: machine.put(index),
    "MEMOIZE": lambda machine, _: machine.put(None),
    "GET": lambda machine, index: machine.get(index),
    "BINGET": lambda machine, index: machine.get(index),
    "LONG_BINGET": lambda machine, index: machine.get(index),
    "GLOBAL": lambda machine, words: machine.name(*words.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*[machine.pop(), machine.pop()][::-1]),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(),
}


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if not arguments:
        return {}
    (pairs,) = arguments
    machine = _Machine()
    machine.stack.append({})
    for key, value in pairs if isinstance(pairs, list) else ():
        machine.update([key, value])
    return machine.pop()  # type: ignore[no-any-return]


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    (sizes,) = arguments
    return tuple(sizes) if isinstance(sizes, tuple | list) else ()


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    if not isinstance(arguments[0], Tensor):
        raise PickleError("is damaged: a parameter is not a tensor")
    return arguments[0]


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """`_rebuild_tensor`, `_rebuild_tensor_v2` and, with a type of elements at index 6, `_rebuild_tensor_v3`."""
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise PickleError("is damaged: a tensor has no storage")
    dtype = next((item.dtype for item in arguments[6:7] if isinstance(item, _Name)), storage.dtype)
    if dtype == BYTES:
        raise PickleError("holds a tensor without a type of elements")
    _require_naturals([offset, *_items(shape), *_items(strides)])
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise PickleError(f"is damaged: a tensor has {len(shape)} dimensions and {len(strides)} strides")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if prod(shape) and last >= _elements(storage, dtype):
        raise PickleError("is damaged: a tensor is larger than its storage")
    return Tensor(storage, dtype, offset, shape, strides)


def _elements(storage: Storage, dtype: str) -> int:
    """Elements of a type in a storage, which may be untyped."""
    length = storage.end - storage.start
    return length // item_size(dtype) if storage.dtype == BYTES else length


def item_size(dtype: str) -> int:
    """Bytes of an element."""
    return 1 if dtype == BYTES else int(DTYPES[dtype][2])


def _storage(identity: Any) -> Storage:
    """The storage of a persistent identity: ("storage", type, key, device, length[, view])."""
    kind, *rest = _items(identity)
    if kind == "module":
        raise PickleError("holds a whole model, which is code")
    if kind != "storage" or not 4 <= len(rest) <= 5 or not isinstance(rest[0], _Name) or not isinstance(rest[1], str):
        raise PickleError("is damaged: a tensor does not say where its values are")
    named, key, _, length = rest[:4]
    _require_naturals([length])
    start, end = _view(rest[4], length) if rest[4:] and rest[4] is not None else (0, length)
    return Storage(key, named.dtype, length, start, end)


def _view(view: Any, length: int) -> tuple[int, int]:
    """First element, and the element after the last one, of a view (key, start, size) of a storage."""
    _, start, size = _items(view)
    _require_naturals([start, size])
    if start + size > length:
        raise PickleError("is damaged: a tensor is larger than its storage")
    return start, start + size


def _items(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise PickleError("is damaged: a tensor has no shape")
    return value


def _require_naturals(values: list[Any]) -> None:
    # Larger numbers would overflow in NumPy.
    if any(type(value) is not int or not 0 <= value < 2**48 for value in values):
        raise PickleError("is damaged: a tensor has an impossible size")


# Names that a state dict uses; every other name is refused.
_NAMES: dict[str, _Name | _Function] = {
    "collections.OrderedDict": _Function(_ordered_dict),
    "torch.Size": _Function(_size),
    "torch._utils._rebuild_tensor": _Function(_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
    "torch._utils._rebuild_tensor_v3": _Function(_tensor),
    "torch._utils._rebuild_parameter": _Function(_parameter),
    "torch._utils._rebuild_parameter_with_state": _Function(_parameter),
    "torch.storage.UntypedStorage": _Name(BYTES),
    "torch.UntypedStorage": _Name(BYTES),
    **{f"torch.{name}": _Name(dtype) for name, dtype in _STORAGES.items()},
    **{f"torch.cuda.{name}": _Name(dtype) for name, dtype in _STORAGES.items()},
    **{f"torch.{dtype}": _Name(dtype) for dtype in DTYPES},
}
