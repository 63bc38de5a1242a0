"""Model configurations of Keras 1 and 2, rewritten for Keras 3. Plain dictionaries in and out; no code is run.

Where a functional model of Keras 2 calls TensorFlow, as in `preprocess_input(x)` or `x / 127.5 - 1`, its file names the
TensorFlow function and its constants. The common functions have counterparts among the layers of Keras 3.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.errors import ModelError

Entry = dict[str, Any]
"""A layer in the configuration: `class_name`, `config`, and in a functional model `name` and `inbound_nodes`."""

_CLASSES = {"SyncBatchNormalization": "BatchNormalization", "BatchNormalizationV1": "BatchNormalization"}
# Keys that the layers of Keras 3 reject, besides initialisers, which loaded weights replace.
_DROPPED = {
    "Conv2DTranspose": ("groups",),
    "SeparableConv2D": ("groups", "kernel_regularizer", "kernel_constraint"),
    "BatchNormalization": ("renorm", "renorm_clipping", "renorm_momentum", "fused", "virtual_batch_size", "adjustment"),
    "InputLayer": ("ragged", "type_spec"),
}
_BINARY = {"__operators__.add": "Add", "math.add": "Add", "math.subtract": "Subtract", "math.multiply": "Multiply"}
_ACTIVATIONS = {
    "nn.relu": "relu", "nn.relu6": "relu6", "nn.sigmoid": "sigmoid", "math.sigmoid": "sigmoid", "nn.silu": "silu",
    "nn.swish": "silu", "nn.softmax": "softmax", "nn.elu": "elu", "nn.tanh": "tanh", "math.tanh": "tanh",
}  # fmt: skip
_CONSTANT = "_CONSTANT_VALUE"


def convert(tree: Mapping[str, Any], path: Path) -> Entry:
    """Rewrite the configuration of a model of Keras 1 or 2 for the legacy loader of Keras 3.

    Args:
        tree: Class name and configuration of the model.
        path: The file, for messages.

    Raises:
        ModelError: The model contains code (a Lambda layer), or calls a TensorFlow function without a counterpart.
    """
    entry: Entry = {key: value for key, value in tree.items() if key not in ("module", "registered_name")}
    kind, config = str(entry.get("class_name")), entry.get("config")
    if isinstance(config, dict) and isinstance(config.get("layers"), list):
        layers = [convert(layer, path) for layer in config["layers"]]
        return entry | {"config": config | {"layers": layers}}
    if isinstance(config, list):
        # The oldest Sequential files.
        return entry | {"config": [convert(layer, path) for layer in config]}
    if not isinstance(config, dict):
        return entry
    if kind == "Lambda" or _has_code(config):
        raise lambda_error(path)
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        return _convert_call(entry, path)
    return entry | {"class_name": _CLASSES.get(kind, kind)} | _converted_layer(kind, config, path)


def lambda_error(path: Path) -> ModelError:
    """The error for a model with code inside."""
    return ModelError(
        "has a Lambda layer, which is code; code from files is not run",
        where=str(path),
        hint="Replace it with built-in layers (Rescaling, Normalization …) and save the model again.",
    )


def _converted_layer(kind: str, config: Entry, path: Path) -> Entry:
    """The changed parts of the entry of a built-in layer."""
    if kind.startswith("Random") and kind != "RandomCrop":
        # All random augmentation is the identity in predictions, and Keras 3 lacks some of its layers and keys.
        return {"class_name": "RandomFlip", "config": {"name": config.get("name")}}
    kept = {
        key: _without_modules(value)
        for key, value in config.items()
        if not key.endswith("_initializer") and key not in (*_DROPPED.get(kind, ()), "rng_type")
    }
    if kind in ("DepthwiseConv2D", "SeparableConv2D") and kept.get("groups") == 1:
        del kept["groups"]
    if isinstance(config.get("dtype"), dict):
        # A precision policy; the recipe sets the precision.
        kept["dtype"] = "float32"
    if kind == "LeakyReLU" and "alpha" in kept:
        kept["negative_slope"] = kept.pop("alpha")
    if "BatchNormalization" in kind and isinstance(kept.get("axis"), list) and len(kept["axis"]) == 1:
        kept["axis"] = kept["axis"][0]
    if "hard_sigmoid" in (kept.get("activation"), kept.get("recurrent_activation")):
        raise _unsupported("the activation hard_sigmoid, which is another function in Keras 3", path)
    return {"config": kept}


def _has_code(value: Any) -> bool:
    """True if a layer or function inside the configuration of a layer, as of a wrapper, is code."""
    if isinstance(value, list):
        return any(_has_code(item) for item in value)
    if isinstance(value, dict):
        return value.get("class_name") in ("Lambda", "__lambda__") or any(_has_code(item) for item in value.values())
    return False


def _without_modules(value: Any) -> Any:
    """The value without the module names of Keras 2, which Keras 3 does not have."""
    if isinstance(value, list):
        return [_without_modules(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_modules(item) for key, item in value.items() if key not in ("module", "registered_name")}
    return value


def _convert_call(entry: Entry, path: Path) -> Entry:
    """The layer of Keras 3 for one call of a TensorFlow function."""
    function, name = str(entry["config"].get("function")), str(entry["config"].get("name"))
    sources, values, options = _arguments(entry, path)
    layer = (
        _scaling(function, values, options)
        or _merge(function, sources, options)
        or _reversal(function, options)
        or _one_input(function, options)
    )
    if layer is None:
        raise _unsupported(f"a call of the TensorFlow function tf.{function}", path)
    kind, config = layer
    nodes = [[[*source, {}] for source in sources]]
    return {"class_name": kind, "config": {"name": name, **config}, "name": name, "inbound_nodes": nodes}


def _arguments(entry: Entry, path: Path) -> tuple[list[list[Any]], list[Any], Entry]:
    """The tensors of a call as `[layer, node, tensor]`, the constant before its tensor if any, and its other arguments.

    A node is `[layer, node, tensor, options]`, or a list of these for a function of a list. Options may be tensors.
    """
    nodes = entry.get("inbound_nodes")
    try:
        (node,) = list(nodes or [])
        records = [node] if isinstance(node[0], str) else node
        options = dict(records[0][3])
        constants = [record[2] for record in records if record[0] == _CONSTANT]
        sources = [list(record[:3]) for record in records if record[0] != _CONSTANT]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise _unsupported("a TensorFlow function that is called in an unusual way", path) from error
    for key, value in list(options.items()):
        if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
            sources.append(options.pop(key))
    options.pop("name", None)
    return sources, constants, options


def _scaling(function: str, constants: list[Any], options: Entry) -> tuple[str, Entry] | None:
    """`Rescaling` for a function of one tensor and a constant, one number or one a channel."""
    is_first = bool(constants)
    constant = _numbers(constants[0] if is_first else options.get("bias" if function == "nn.bias_add" else "y"))
    if constant is None:
        return None
    match function:
        case "math.truediv" | "math.divide" if not is_first:
            scale, offset = 1.0 / constant, 0.0 * constant
        case "math.multiply":
            scale, offset = constant, 0.0 * constant
        case "__operators__.add" | "math.add" | "nn.bias_add":
            scale, offset = 1.0 + 0.0 * constant, constant
        case "math.subtract":
            sign = -1.0 if is_first else 1.0
            scale, offset = sign + 0.0 * constant, -sign * constant
        case _:
            return None
    if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        return None
    return "Rescaling", {"scale": scale.tolist(), "offset": offset.tolist(), "dtype": "float32"}


def _numbers(value: Any) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """A constant as an array () or (channels,); None if it is not numbers of such a shape."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return None
    if value is None or math.prod(array.shape[:-1]) != 1 or not array.size:
        return None
    return array.reshape(()) if array.size == 1 else array.reshape(-1)


def _merge(function: str, sources: list[list[Any]], options: Entry) -> tuple[str, Entry] | None:
    """The layer for a function of several tensors."""
    if len(sources) == 2 and function in _BINARY:
        return _BINARY[function], {}
    if function == "concat" and len(sources) > 1 and isinstance(options.get("axis"), int):
        return "Concatenate", {"axis": options["axis"]}
    return None


def _reversal(function: str, options: Entry) -> tuple[str, Entry] | None:
    """The operation for `x[..., ::-1]`, which makes BGR of RGB."""
    slices = options.get("slice_spec")
    if function != "__operators__.getitem" or not isinstance(slices, list) or not slices:
        return None
    whole, last = {"start": None, "stop": None, "step": None}, {"start": None, "stop": None, "step": -1}
    others = [part for part in slices[:-1] if part != whole]
    has_all_axes = len(slices) == 4 if not others else len(others) == 1 and "ellipsis" in str(others[0]).lower()
    return ("Flip", {"axis": -1}) if slices[-1] == last and has_all_axes else None


def _one_input(function: str, options: Entry) -> tuple[str, Entry] | None:
    """The layer for another function of one tensor."""
    if function in _ACTIVATIONS:
        return "Activation", {"activation": _ACTIVATIONS[function]}
    if function == "identity" or (function == "cast" and options.get("dtype") in ("float32", "float16", "bfloat16")):
        return "Identity", {}
    if function == "math.reduce_mean" and options.get("axis") in ([1, 2], [-3, -2]):
        return "GlobalAveragePooling2D", {"keepdims": bool(options.get("keepdims"))}
    if function == "image.resize" and set(options) <= {"size", "method", "antialias"} and not options.get("antialias"):
        height, width = options["size"]
        return "Resizing", {"height": height, "width": width, "interpolation": options.get("method", "bilinear")}
    return None


def _unsupported(what: str, path: Path) -> ModelError:
    return ModelError(
        f"has {what}",
        where=str(path),
        hint="Replace it with built-in layers in Keras 2 and save the model again, or use the file as weights:"
        f" --model NAME --weights {path}",
    )
