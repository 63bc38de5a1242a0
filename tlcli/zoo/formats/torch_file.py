"""Tensors of PyTorch files, `.pth` and `.pt`, read without PyTorch and without running code from the file.

Two forms: a zip archive (since PyTorch 1.6) with `data.pkl` and one member per storage, and the older one, five pickles
followed by the storages. Written by `torch/serialization.py` (`_save`, `_legacy_save`).
"""

import io
import mmap
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tlcli.errors import WeightsError
from tlcli.text import why_unreadable
from tlcli.zoo.formats import pickled
from tlcli.zoo.formats.pickled import PickleError, Storage, Tensor

SUFFIXES = (".pth", ".pt", ".th")
_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")
_MAX_DEPTH = 8
_MAX_VALUES = 100_000
# Tensors may share storages, but not without limit: a small file would fill the memory.
_MAX_SHARING = 4
_HINT = "Save only the tensors, as weights for the same network: torch.save(model.state_dict(), FILE)."


def read(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a PyTorch file.

    Of a training checkpoint only the network's tensors are returned: if the file is a dict with a member `state_dict`,
    `model_state_dict`, `model_state`, `model`, `net` or `weights` (the first of them) that is a dict of tensors, that
    one; otherwise, if the only tensors are in one member, that one. Names of dicts within it are joined by dots. A
    prefix `module.` that all names share, which comes from training on several devices, is dropped.

    Args:
        path: The file.

    Returns:
        Arrays by name, in the order of the file, C-contiguous, in the types of the file except that bfloat16 becomes
        float32.

    Raises:
        WeightsError: The file is missing, damaged, written on a big-endian machine, or holds more than tensors, such as
            code or a whole model.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start == _ZIP:
                return _read_zip(file, path)
            if start[:1] == b"\x80":
                return _read_legacy(file, path)
    except PickleError as error:
        raise WeightsError(str(error), where=str(path), hint=_HINT) from error
    except OSError as error:
        raise WeightsError(f"cannot be read ({why_unreadable(error)})", where=str(path)) from error
    raise WeightsError("is not a PyTorch file", where=str(path), hint=_HINT)


def _read_zip(file: BinaryIO, path: Path) -> dict[str, np.ndarray]:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename: member for member in archive.infolist()}
            prefix = _prefix(members)

            def content(name: str) -> bytes:
                member = members.get(prefix + name)
                if member is None:
                    raise PickleError(f"is damaged: it has no member '{prefix + name}'")
                # PyTorch does not compress, and what is not compressed cannot grow beyond the file.
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
                    raise PickleError(f"is damaged, or was packed by another program: member '{prefix + name}'")
                return archive.read(member)

            if prefix + "byteorder" in members and content("byteorder") != b"little":
                raise PickleError("was written on a big-endian machine")
            tree, _ = pickled.load(io.BytesIO(content("data.pkl")))
            return _network(tree, lambda storage: _member(content, storage), size)
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OverflowError, struct.error) as error:
        raise PickleError(f"is damaged ({why_unreadable(error)})") from error


def _prefix(members: dict[str, Any]) -> str:
    """The folder of the archive, with its slash; its name is that of the file when it was written."""
    prefixes = [name.removesuffix("data.pkl") for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if any(re.fullmatch(r"[^/]+/constants\.pkl", name) for name in members):
        raise PickleError("is a TorchScript archive, which is code")
    if len(prefixes) != 1:
        raise PickleError("is a zip archive, but not of PyTorch")
    return prefixes[0]


def _member(content: Callable[[str], bytes], storage: Storage) -> bytes:
    if not re.fullmatch(r"\w{1,64}", storage.key):
        raise PickleError("is damaged: a storage has no name")
    return content(f"data/{storage.key}")


def _read_legacy(file: BinaryIO, path: Path) -> dict[str, np.ndarray]:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        if pickled.load(stream)[0] != _MAGIC or pickled.load(stream)[0] != _PROTOCOL:
            raise PickleError("is a pickle, but not of PyTorch")
        system, _ = pickled.load(stream)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise PickleError("was written on a big-endian machine")
        tree, storages = pickled.load(stream)
        keys, _ = pickled.load(stream)
        places = dict(_places(stream, keys, storages))

        def content(storage: Storage) -> bytes:
            if storage.key not in places:
                raise PickleError("is damaged: values of a tensor are missing")
            return stream[places[storage.key]]

        return _network(tree, content, path.stat().st_size)


def _places(stream: mmap.mmap, keys: Any, storages: dict[str, Storage]) -> Iterator[tuple[str, slice]]:
    """Where the bytes of each storage are. Each is preceded by its number of elements, a 64-bit integer."""
    for key in keys if isinstance(keys, list) else ():
        storage = storages.get(key) if isinstance(key, str) else None
        header = stream.read(8)
        if storage is None or len(header) < 8 or int.from_bytes(header, "little") != storage.length:
            raise PickleError("is damaged: its storages are not those of its tensors")
        size = storage.length * pickled.item_size(storage.dtype)
        start = stream.tell()
        if start + size > len(stream):
            raise PickleError(f"is incomplete: it ends {start + size - len(stream):,} bytes early, or more")
        stream.seek(start + size)
        yield key, slice(start, start + size)


def _network(tree: Any, content: Callable[[Storage], bytes], file_size: int) -> dict[str, np.ndarray]:
    """The arrays of the network in a file."""
    tensors = _flatten(_chosen(tree))
    if not tensors:
        raise PickleError("holds no named tensors")
    total = sum(prod(tensor.shape) * pickled.item_size(tensor.dtype) for tensor in tensors.values())
    if total > _MAX_SHARING * file_size:
        raise PickleError(f"is damaged: its tensors are declared larger ({total:,} bytes) than the file")
    blocks: dict[str, bytes] = {}
    for storage in {tensor.storage.key: tensor.storage for tensor in tensors.values()}.values():
        blocks[storage.key] = content(storage)
        if sum(map(len, blocks.values())) > file_size:
            raise PickleError("is damaged: its storages are larger than the file")
    is_wrapped = all(name.startswith("module.") for name in tensors)
    return {
        name.removeprefix("module.") if is_wrapped else name: _array(tensor, blocks[tensor.storage.key])
        for name, tensor in tensors.items()
    }


def _chosen(tree: Any) -> Any:
    """The dict of a checkpoint that holds the network, by the rule of `read`."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(tree, dict):
            break
        members = {key: member for key, member in tree.items() if isinstance(member, dict) and _flatten(member)}
        wrapped = [key for key in _WRAPPERS if key in members]
        if not wrapped and (len(members) != 1 or any(isinstance(member, Tensor) for member in tree.values())):
            break
        tree = members[wrapped[0]] if wrapped else next(iter(members.values()))
    return tree


def _flatten(tree: Any) -> dict[str, Tensor]:
    """The tensors of nested dicts; names joined by dots."""
    found: dict[str, Tensor] = {}
    queue = [("", tree, 0)]
    for name, value, depth in queue:
        if len(queue) > _MAX_VALUES or depth > _MAX_DEPTH:
            raise PickleError("has too many or too deeply nested values")
        if isinstance(value, Tensor) and name:
            found[name] = value
        elif isinstance(value, dict):
            queue += [(f"{name}.{key}".lstrip("."), inner, depth + 1) for key, inner in value.items()]
    return found


def _array(tensor: Tensor, block: bytes) -> np.ndarray:
    """The values of a tensor in the bytes of its whole storage."""
    storage, dtype = tensor.storage, np.dtype(pickled.DTYPES[tensor.dtype])
    size = pickled.item_size(storage.dtype)
    if len(block) < storage.length * size:
        raise PickleError("is damaged: values of a tensor are missing")
    count = (storage.end - storage.start) * size // dtype.itemsize
    elements = np.frombuffer(block, dtype, count, storage.start * size)
    if prod(tensor.shape) == 0:
        view = np.zeros(tensor.shape, dtype)
    else:
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(elements[tensor.offset :], tensor.shape, strides)
    if tensor.dtype == "bfloat16":
        # The upper half of a float32.
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view.astype(dtype.newbyteorder("="), order="C", copy=True)
