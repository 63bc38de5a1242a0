"""Reading the files of Caffe: networks (`.prototxt`), weights (`.caffemodel`) and image means (`.binaryproto`)."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcli.errors import ModelError, WeightsError
from tlcli.zoo.formats.caffe_schema import NEW_TYPE, message

Array = NDArray[np.float32]

MAX_TEXT_BYTES = 4_000_000
# Messages of protobuf are smaller than 2 GB.
MAX_BINARY_BYTES = 2**31 - 1
_MAX_NAME = 80
_MAX_AXES = 8
_DATA_TYPES = ("Data", "ImageData", "MemoryData", "HDF5Data", "WindowData", "DummyData", "AnnotatedData")
_DAMAGED = "The file may be damaged or incomplete; fetch it again."
_RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}


@dataclass(frozen=True)
class CaffeLayer:
    """A layer of the TEST phase.

    Attributes:
        name: Its name in the file.
        type: Type in the words of present files, such as `InnerProduct`.
        bottoms: Names of the blobs it reads.
        tops: Names of the blobs it writes.
        settings: Its message, with fields such as `convolution_param`.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    settings: Any

    @property
    def is_data(self) -> bool:
        """True for layers that read images."""
        return self.type in _DATA_TYPES


@dataclass(frozen=True)
class Transform:
    """What a data layer does to BGR or grey values 0–255: subtract the mean, then multiply by `scale`.

    Attributes:
        mean: One value, or one a channel in the order of the file (BGR); empty if it is not given.
        scale: Factor.
        mean_file: Name of the file of a mean image; empty if there is none.
    """

    mean: tuple[float, ...]
    scale: float
    mean_file: str


@dataclass(frozen=True)
class CaffeFile:
    """The TEST phase of a network in a prototxt file.

    Attributes:
        path: The file.
        name: Name of the network; may be empty.
        layers: Its layers in the order of the file.
        input: Name of the input blob; empty if no layer reads images.
        input_shape: Channels, height and width of the input; None for what the file does not say.
        transform: Preprocessing of its data layer; None if it has none.
        text: The text of the file.
    """

    path: Path
    name: str
    layers: tuple[CaffeLayer, ...]
    input: str
    input_shape: tuple[int | None, int | None, int | None]
    transform: Transform | None
    text: str

    def where(self, layer: str) -> str:
        """File and line of a layer, for messages."""
        match = re.search(rf"name\s*:\s*[\"']{re.escape(layer)}[\"']", self.text) if layer else None
        return f"{self.path}:{self.text.count(chr(10), 0, match.start()) + 1}" if match else str(self.path)


def read_prototxt(path: Path) -> CaffeFile:
    """Read the TEST phase of a network.

    Raises:
        ModelError: The file is missing or not a network of Caffe.
    """
    text = _read(path, MAX_TEXT_BYTES, ModelError).decode("utf-8", errors="replace")
    net = _parse_text(path, text)
    if any(layer.HasField("layer") for layer in net.layers):
        hint = "Convert it with Caffe's upgrade_net_proto_text, and the weights with upgrade_net_proto_binary."
        raise ModelError("is in the format of Caffe before 2014, which is not supported", where=str(path), hint=hint)
    layers = [_layer(layer) for layer in (*net.layer, *net.layers) if _is_in_test(layer)]
    if not layers:
        hint = "A network has `layer { … }` entries; a solver file names it in `net:`."
        raise ModelError("has no layers", where=str(path), hint=hint)
    data = next((layer for layer in layers if layer.is_data), None)
    name, shape = _input(net, layers, data)
    transform = None if data is None else _transform(data)
    return CaffeFile(path, net.name[:_MAX_NAME], tuple(layers), name, shape, transform, text)


def read_weights(path: Path) -> dict[str, tuple[Array, ...]]:
    """Read the weights of all layers that have some: float32 arrays with the shapes of the file, by layer name.

    Raises:
        WeightsError: The file is missing, damaged or not a caffemodel.
    """
    net = _parse_binary(path, "NetParameter")
    weights: dict[str, tuple[Array, ...]] = {}
    for layer in (*net.layers, *net.layer):
        if layer.blobs:
            weights[layer.name] = tuple(_array(blob, path, layer.name) for blob in layer.blobs)
    if not weights:
        raise WeightsError("has no weights of layers", where=str(path), hint="Is it a .caffemodel? " + _DAMAGED)
    return weights


def read_mean(path: Path) -> tuple[float, ...]:
    """Read a mean image and average each of its channels, in the order of the file (BGR).

    Raises:
        WeightsError: The file is missing, damaged or not a mean image.
    """
    mean = _array(_parse_binary(path, "BlobProto"), path, "mean")
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim not in (1, 3) or mean.shape[0] not in (1, 3) or not np.isfinite(mean).all():
        message_ = f"is not a mean image of one or three channels (its shape is {list(mean.shape)})"
        raise WeightsError(message_, where=str(path), hint="Remove the file, or give model.arguments.mean.")
    return tuple(float(value) for value in mean.reshape(mean.shape[0], -1).mean(axis=1, dtype=np.float64))


def _read(path: Path, limit: int, kind: type[ModelError]) -> bytes:
    try:
        if (size := path.stat().st_size) > limit:
            raise kind(f"is too large ({size} bytes; at most {limit})", where=str(path))
        return path.read_bytes()
    except OSError as error:
        raise kind(f"cannot be read ({error.strerror or error})", where=str(path)) from error


def _parse_text(path: Path, text: str) -> Any:
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, message("NetParameter")(), allow_unknown_field=True)
    except text_format.ParseError as error:
        line = error.GetLine()
        where = f"{path}:{line}" if line else str(path)
        reason = re.sub(r"^\d+:\d+ : |caffe\.\w+Scope\.", "", str(error)).partition("\n")[0][:200].rstrip(".")
        raise ModelError(f"is not a prototxt of Caffe ({reason})", where=where) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"is not a prototxt of Caffe ({type(error).__name__})", where=str(path)) from error


def _parse_binary(path: Path, kind: str) -> Any:
    from google.protobuf.message import DecodeError

    data = _read(path, MAX_BINARY_BYTES, WeightsError)
    try:
        return message(kind).FromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise WeightsError("is not a binary file of Caffe", where=str(path), hint=_DAMAGED) from error


def _array(blob: Any, path: Path, layer: str) -> Array:
    if blob.data:
        dtype, data = "<f4", b"".join(blob.data)
    elif blob.double_data:
        dtype, data = "<f8", b"".join(blob.double_data)
    else:
        dtype, data = _RAW_TYPES.get(blob.raw_data_type, ""), blob.raw_data
    if not dtype or len(data) % np.dtype(dtype).itemsize:
        raise WeightsError(f"has values of an unknown kind in layer '{layer}'", where=str(path), hint=_DAMAGED)
    values = np.frombuffer(data, dtype).astype(np.float32)
    old_shape = (blob.num, blob.channels, blob.height, blob.width)
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else old_shape
    if len(shape) > _MAX_AXES or min(shape, default=1) < 0 or math.prod(shape) != len(values):
        reason = f"has {len(values)} values in layer '{layer}' for the shape {list(shape[:_MAX_AXES])}"
        raise WeightsError(reason, where=str(path), hint=_DAMAGED)
    return values.reshape(shape)


def _layer(layer: Any) -> CaffeLayer:
    kind = layer.type if isinstance(layer.type, str) else NEW_TYPE[layer.type]
    return CaffeLayer(layer.name, kind, tuple(layer.bottom), tuple(layer.top), layer)


def _is_in_test(layer: Any) -> bool:
    """Whether the rules of a layer put it into the TEST phase, with level 0 and without stages."""
    if layer.include:
        return any(_is_met(rule) for rule in layer.include)
    return not any(_is_met(rule) for rule in layer.exclude)


def _is_met(rule: Any) -> bool:
    is_test = not rule.HasField("phase") or rule.phase == 1
    has_level = rule.min_level <= 0 and (not rule.HasField("max_level") or rule.max_level >= 0)
    return is_test and has_level and not rule.stage


def _input(
    net: Any, layers: list[CaffeLayer], data: CaffeLayer | None
) -> tuple[str, tuple[int | None, int | None, int | None]]:
    """Name of the input blob, and its channels, height and width as far as the file says them."""
    if net.input:
        dims = list(net.input_dim[:4]) or (list(net.input_shape[0].dim) if net.input_shape else [])
        return net.input[0], _channels_and_size(dims)
    given = next((layer for layer in layers if layer.type == "Input" and layer.tops), None)
    if given is not None:
        shapes = given.settings.input_param.shape
        return given.tops[0], _channels_and_size(list(shapes[0].dim) if shapes else [])
    if data is None or not data.tops:
        return "", (None, None, None)
    return data.tops[0], _data_shape(data)


def _channels_and_size(dims: list[int]) -> tuple[int | None, int | None, int | None]:
    return (dims[1], dims[2], dims[3]) if len(dims) == 4 else (None, None, None)


def _data_shape(data: CaffeLayer) -> tuple[int | None, int | None, int | None]:
    settings = data.settings
    memory, image = settings.memory_data_param, settings.image_data_param
    crop = settings.transform_param.crop_size or settings.data_param.crop_size or image.crop_size
    height, width = crop or memory.height or image.new_height, crop or memory.width or image.new_width
    channels = memory.channels or (1 if settings.transform_param.force_gray or not image.is_color else 3)
    return channels, height or None, width or None


def _transform(data: CaffeLayer) -> Transform:
    settings = data.settings
    if settings.HasField("transform_param"):
        given = settings.transform_param
        return Transform(tuple(given.mean_value), given.scale, given.mean_file)
    # The oldest files have it among the settings of the data layer.
    given = settings.image_data_param if data.type == "ImageData" else settings.data_param
    return Transform((), given.scale, given.mean_file)
