"""What a SavedModel is, read from its `saved_model.pb` without TensorFlow. Nothing in it is run.

Only the few fields that are needed are read, by the wire format of Protocol Buffers: protobuf.dev, "Encoding". The
numbers of the fields are those of TensorFlow's saved_model.proto, meta_graph.proto, saved_object_graph.proto,
struct.proto, tensor_shape.proto and graph.proto.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tlcli.errors import ModelError

FILE = "saved_model.pb"
# Other forms of the graph that TensorFlow loads: in parts, and as text.
_OTHER_FILES = ("saved_model.cpb", "saved_model.pbtxt")
MAX_BYTES = 2**31 - 1
# Numbers of `DataType` in types.proto.
TYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 6: "int8", 9: "int64", 14: "bfloat16", 19: "float16"}
# Operations that reach beyond the graph: files, other processes, the Python interpreter.
_REACHING = {
    "EagerPyFunc", "LoadLibrary", "MatchingFiles", "MergeV2Checkpoints", "PrintV2", "PyFunc", "PyFuncStateless",
    "ReadFile", "Save", "SaveSlices", "SaveV2", "ShardedFilename", "WriteFile",
}  # fmt: skip
# Every SavedModel saves and restores its own variables with these.
_USUAL = {"MergeV2Checkpoints", "SaveV2", "ShardedFilename", "Save", "SaveSlices"}

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name, its dtype (empty if it is not numeric) and its shape; None if the rank is open."""

    name: str
    dtype: str
    shape: Shape | None


@dataclass(frozen=True)
class Endpoint:
    """A way to call a SavedModel.

    Attributes:
        name: `__call__`, `serve`, or the name of a signature.
        image: Its image input.
        is_signature: True if it is called by the names of its inputs and returns a dictionary.
    """

    name: str
    image: Tensor
    is_signature: bool


@dataclass(frozen=True)
class SavedModel:
    """A SavedModel on disk.

    Attributes:
        folder: Its folder.
        tags: Tags of the graph to load.
        endpoint: How to call it.
        has_objects: True for TensorFlow 2; False for a TensorFlow 1 module, which has a graph only.
        reaching: Operations that reach files or Python, sorted.
    """

    folder: Path
    tags: tuple[str, ...]
    endpoint: Endpoint
    has_objects: bool
    reaching: tuple[str, ...]


def read(folder: Path) -> SavedModel:
    """Read a SavedModel.

    Raises:
        ModelError: The folder has no SavedModel, it is damaged, or it takes no images.
    """
    path = folder / FILE
    if other := next((name for name in _OTHER_FILES if (folder / name).exists()), None):
        # TensorFlow might load that graph instead of the one that is read here.
        hint = f"Save the module again, as {FILE} alone."
        raise ModelError(f"holds its graph in {other}, which is not supported", where=str(folder), hint=hint)
    try:
        facts = path.stat()
        return _read(folder, facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        hint = "Name the folder that holds saved_model.pb. A .keras or .h5 file is named without 'tfhub:'."
        raise ModelError(f"has no readable {FILE} ({error.strerror})", where=str(folder), hint=hint) from error


# A command asks several times, and large graphs take a second.
@lru_cache(maxsize=16)
def _read(folder: Path, size: int, modified_ns: int) -> SavedModel:
    path = folder / FILE
    try:
        if size > MAX_BYTES:
            raise ValueError("it is larger than 2 GB")
        graphs = [bytes(graph) for graph in _fields(path.read_bytes(), 2)]
        if not graphs:
            raise ValueError("it holds no graph")
        graph, tags = _choose_graph(graphs)
        endpoints = list(_endpoints(graph))
        reaching = tuple(sorted(_operations(graph) & (_REACHING - _USUAL)))
        has_objects = any(True for _ in _fields(graph, 7))
    except (ValueError, RecursionError) as error:
        hint = "The file may be damaged or incomplete; fetch it again."
        raise ModelError(f"is not a SavedModel ({error})", where=str(path), hint=hint) from error
    return SavedModel(folder, tags, _choose_endpoint(endpoints, path), has_objects, reaching)


def _choose_graph(graphs: Sequence[bytes]) -> tuple[bytes, tuple[str, ...]]:
    """The graph for inference and its tags. TensorFlow 1 modules have one without tags, and one with `train`."""
    tagged = [(graph, tuple(sorted(_texts(_one(graph, 1), 4)))) for graph in graphs]
    return min(tagged, key=lambda pair: ("train" in pair[1], "serve" not in pair[1], len(pair[1])))


def _choose_endpoint(endpoints: Sequence[Endpoint], path: Path) -> Endpoint:
    """The best endpoint that takes images: a call, a Keras export, then the signatures of TF Hub for features."""
    order = ("__call__", "serve", "image_feature_vector", "feature_vector", "default", "serving_default")
    ranked = sorted(endpoints, key=lambda end: (order.index(end.name) if end.name in order else len(order), end.name))
    for endpoint in ranked:
        shape = endpoint.image.shape
        if endpoint.image.dtype and shape is not None and len(shape) == 4 and shape[3] in (3, None):
            return endpoint
    found = ", ".join(f"{end.name} {_shown(end.image)}" for end in ranked[:5]) or "none"
    raise ModelError(
        f"takes no RGB images of shape (batch, height, width, 3) (endpoints: {found})",
        where=str(path),
        hint="Choose a module for images, such as a feature vector.",
    )


def _shown(tensor: Tensor) -> str:
    sides = (
        "of any shape"
        if tensor.shape is None
        else "×".join("?" if side is None else str(side) for side in tensor.shape)
    )
    return f"({tensor.dtype or 'not numeric'} {sides})"


def _endpoints(graph: bytes) -> Iterator[Endpoint]:
    """All endpoints with one input, or whose first argument is a tensor."""
    for objects in _fields(graph, 7):
        yield from _attributes(bytes(objects))
    for entry in _fields(graph, 5):
        inputs = [_named_tensor(bytes(item)) for item in _fields(_one(entry, 2), 1)]
        if len(inputs) == 1:
            yield Endpoint(_text(_one(entry, 1)), inputs[0], is_signature=True)


def _attributes(objects: bytes) -> Iterator[Endpoint]:
    """The functions `__call__` and `serve` of the root object."""
    nodes = [bytes(node) for node in _fields(objects, 1)]
    concrete = {_text(_one(entry, 1)): _one(entry, 2) for entry in _fields(objects, 2)}
    for reference in _fields(nodes[0], 1) if nodes else ():
        name, number = _text(_one(reference, 2)), _number(reference, 1)
        if name not in ("__call__", "serve") or number >= len(nodes):
            continue
        signatures = [_one(concrete.get(key, b""), 3) for key in _texts(_one(nodes[number], 6), 1)]
        images = [tensor for signature in signatures if (tensor := _first_tensor(signature)) is not None]
        # A function has a signature for each shape it was saved with; an open size is the most useful.
        images.sort(key=lambda tensor: -1 if tensor.shape is None else sum(side is not None for side in tensor.shape))
        if images:
            yield Endpoint(
                name, next((t for t in images if t.shape is not None and len(t.shape) == 4), images[0]), False
            )


def _first_tensor(structure: bytes) -> Tensor | None:
    """The first tensor in the arguments of a function, a `StructuredValue`."""
    for spec in _fields(structure, 33):
        return Tensor(_text(_one(spec, 1)), TYPES.get(_number(spec, 3), ""), _shape(_one(spec, 2)))
    for number in (51, 52):
        for items in _fields(structure, number):
            for item in _fields(items, 1):
                if (tensor := _first_tensor(bytes(item))) is not None:
                    return tensor
    return None


def _named_tensor(entry: bytes) -> Tensor:
    info = _one(entry, 2)
    return Tensor(_text(_one(entry, 1)), TYPES.get(_number(info, 2), ""), _shape(_one(info, 3)))


def _shape(shape: bytes) -> Shape | None:
    if _number(shape, 3):
        return None
    sizes = [_number(dimension, 1) for dimension in _fields(shape, 2)]
    # -1, an open size, is stored as an unsigned number of 64 bits.
    return tuple(None if size >= 2**63 else size for size in sizes)


def _operations(graph: bytes) -> set[str]:
    """Names of all operations, also inside functions."""
    definition = _one(graph, 2)
    nodes = list(_fields(definition, 1))
    for library in _fields(definition, 2):
        for function in _fields(library, 1):
            nodes += _fields(function, 3)
    return {_text(_one(node, 2)) for node in nodes}


def _one(message: bytes, number: int) -> bytes:
    """The last value of a field, as the format prescribes; empty without one."""
    values = list(_fields(message, number))
    return values[-1] if values else b""


def _texts(message: bytes, number: int) -> list[str]:
    return [_text(value) for value in _fields(message, number)]


def _text(value: bytes) -> str:
    return bytes(value).decode("utf-8", "replace")


def _number(message: bytes, number: int) -> int:
    """The last value of a numeric field; 0 without one."""
    return next(
        (value for field, value in reversed(list(_walk(message))) if field == number and isinstance(value, int)), 0
    )


def _fields(message: bytes, number: int) -> Iterator[bytes]:
    """The values of a field of bytes, in order."""
    for field, value in _walk(message):
        if field == number and not isinstance(value, int):
            yield value


def _walk(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of all fields of a message: whole numbers, or bytes.

    Raises:
        ValueError: The bytes are no message.
    """
    view, position = memoryview(message), 0
    while position < len(view):
        key, position = _varint(view, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(view, position)
            yield key >> 3, value
            continue
        if kind == 2:
            length, position = _varint(view, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if position + length > len(view):
            raise ValueError("it ends too early")
        yield key >> 3, view[position : position + length]  # type: ignore[misc]  # a view of bytes
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(view) or shift > 63:
            raise ValueError("it ends too early" if position >= len(view) else "a number is too long")
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
