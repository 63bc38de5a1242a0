"""Whole Keras models from files (`.keras`, legacy `.h5`), and the same models without their top."""

import json
import shutil
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import keras

from tlcli.errors import ModelError
from tlcli.zoo.sources import weights_file

# Keras 2 wrote these keys into its files; the layers of Keras 3 refuse them. A key is dropped only at the value
# that means nothing, and the initialisers do not matter where weights are loaded.
_KERAS_2_KEYS = {
    "DepthwiseConv2D": ("groups",),
    "Conv2DTranspose": ("groups",),
    "SeparableConv2D": ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"),
}


def load(path: Path) -> keras.Model:
    """The whole model in a `.keras`, `.h5` or `.hdf5` file, not compiled. No code from the file is run.

    Raises:
        ModelError: The file is no Keras model, or holds layers this program does not load.
    """
    if not path.is_file():
        raise ModelError("there is no such file", where=str(path))
    if path.suffix == ".keras":
        if not zipfile.is_zipfile(path):
            raise ModelError("is not a Keras model: a .keras file is a zip archive", where=str(path), hint=_DAMAGED)
        return _loaded(path, path)
    config = _legacy_config(path)
    if not _drop_keras_2_keys(config):
        return _loaded(path, path)
    with tempfile.TemporaryDirectory() as folder:
        patched = Path(folder) / "model.h5"
        shutil.copyfile(path, patched)
        with h5py.File(patched, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
        return _loaded(patched, path)


def without_top(model: keras.Model) -> keras.Model:
    """The part of `model` before its pooling: image input → last tensor with spatial dimensions.

    Nested models are dissolved into their layers, so that layer groups can be made of them.

    Args:
        model: One input (batch, height, width, 3), one output.

    Returns:
        A network with a 4-D output. Without nested models it shares its layers with `model`.

    Raises:
        ModelError: The model takes no RGB images, or its graph cannot be cut there.
    """
    _require_images(model)
    flat = _flattened(model)
    return keras.Model(flat.inputs[0], _last_spatial(flat.outputs[0], model.name), name=model.name)


def resized(network: keras.Model, size: tuple[int, int] | None, *, copy_weights: bool = True) -> keras.Model:
    """A copy of a network with layers of its own, for images of `size` (height, width), pixels.

    Args:
        network: Network without top.
        size: Height and width in pixels, or None for those of `network`.
        copy_weights: Off, the copy starts from fresh random weights.

    Raises:
        ModelError: A layer of the network is bound to another size.
    """
    shape = network.inputs[0].shape[1:] if size is None else (*size, 3)
    inputs = keras.Input(shape, dtype=network.inputs[0].dtype, name=network.inputs[0].name)
    try:
        copy = keras.models.clone_model(network, input_tensors=_like(network.input, inputs))
        if copy_weights:
            weights_file.copy_weights(network, copy)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"the network does not take images of {shape[0]}x{shape[1]} ({_first_line(error)})",
            where=network.name,
            hint=f"It was made for {_shape(network)}; leave data.size at auto.",
        ) from error
    return copy


_DAMAGED = "The file may be damaged or only partly copied; fetch it again."


def _with_names_of_its_own(model: Any) -> Any:
    """Rename operations that Keras named by itself where models were joined.

    A process that has not joined any yet would name the next one alike, and a model bears each name once.
    """
    operations = list(getattr(model, "operations", ()))
    taken = {operation.name for operation in operations}
    for operation in operations:
        if type(operation).__name__ == "ConvertToTensor":
            while operation.name in taken:
                operation.name += "_inner"
            taken.add(operation.name)
    return model


def _loaded(path: Path, named: Path) -> keras.Model:
    """Keras's own loader, with its many kinds of failure told as one; `named` is the file the user knows."""
    try:
        return _with_names_of_its_own(keras.saving.load_model(path, compile=False, safe_mode=True))
    except (
        ValueError,
        TypeError,
        KeyError,
        OSError,
        AttributeError,
        ImportError,
        NotImplementedError,
        zipfile.BadZipFile,
    ) as error:
        if "lambda" in str(error).lower():
            raise ModelError(
                "holds a Lambda layer, which is code; code from files is not run",
                where=str(named),
                hint="Replace it by stock layers (Rescaling, Normalization …) and save the model again.",
            ) from error
        raise ModelError(
            f"cannot be loaded as a Keras model ({_first_line(error)})",
            where=str(named),
            hint="Models of stock Keras layers are taken. " + _DAMAGED,
        ) from error


def _legacy_config(path: Path) -> dict[str, Any]:
    """The `model_config` of a legacy HDF5 file."""
    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
    except OSError as error:
        raise ModelError(f"is not a Keras model: {_first_line(error)}", where=str(path), hint=_DAMAGED) from error
    if config is None:
        raise ModelError(
            "holds weights only, no model",
            where=str(path),
            hint=f"Name the network and give the file as its weights: --model NAME --weights {path.name}",
        )
    try:
        decoded: dict[str, Any] = json.loads(config)
    except ValueError as error:
        raise ModelError(f"is not a Keras model: {error}", where=str(path), hint=_DAMAGED) from error
    return decoded


def _drop_keras_2_keys(config: Any) -> bool:
    """Remove, in place, keys that Keras 3 refuses; true when something was removed."""
    if isinstance(config, list):
        return any([_drop_keras_2_keys(item) for item in config])
    if not isinstance(config, dict):
        return False
    dropped = any([_drop_keras_2_keys(item) for item in config.values()])
    inner = config.get("config")
    for key in _KERAS_2_KEYS.get(str(config.get("class_name")), ()):
        if isinstance(inner, dict) and key in inner and (key != "groups" or inner[key] == 1):
            del inner[key]
            dropped = True
    return dropped


def _require_images(model: keras.Model) -> None:
    if not isinstance(model, (keras.Sequential, keras.models.Model)) or not getattr(model, "inputs", None):
        raise ModelError(
            "has no layer graph: it is a model class of its own, or was never built",
            where=model.name,
            hint="Functional and Sequential models are taken.",
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"has {len(model.inputs)} inputs and {len(model.outputs)} outputs",
            where=model.name,
            hint="Models with one image input and one output are taken.",
        )
    shape = model.inputs[0].shape
    if len(shape) != 4 or shape[-1] != 3:
        raise ModelError(
            f"does not take RGB images (input shape {tuple(shape)})",
            where=model.name,
            hint="The input must be (batch, height, width, 3), channels last.",
        )


def _flattened(model: keras.Model) -> keras.Model:
    """The model with nested models dissolved; layers of its own where there were any, the same layers else."""
    if not _nested(model):
        return model
    _make_names_unique(model)
    flat = _dissolved(model) if isinstance(model, keras.Sequential) else model
    while _nested(flat):
        flat = keras.models.clone_model(flat, clone_function=lambda layer: layer, call_function=_opened)
    # The layers now sit in two graphs; in a copy `layer.output` is unambiguous again.
    return resized(flat, None)


def _dissolved(model: keras.Model) -> keras.Model:
    source = model.inputs[0]
    inputs = keras.Input(batch_shape=source.shape, dtype=source.dtype, name=source.name)
    return keras.Model(inputs, model.call(inputs), name=model.name)


def _opened(layer: Any, *arguments: Any, **options: Any) -> Any:
    """Call function for `clone_model`: a nested model is replaced by its layers, one level deep.

    Its `training` flag is left out: what is frozen is decided by layer group, not by the file.
    """
    return layer.call(arguments[0]) if isinstance(layer, keras.Model) else layer(*arguments, **options)


def _nested(model: keras.Model) -> list[keras.Model]:
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]


def _make_names_unique(model: keras.Model) -> None:
    """Rename layers of nested models whose name another layer has, `dense` to `head_dense`."""
    names = Counter(layer.name for layer in _leaves(model))
    for inner in _nested(model):
        for layer in _leaves(inner):
            if names[layer.name] > 1:
                layer.name = f"{inner.name}_{layer.name}"
    names = Counter(layer.name for layer in _leaves(model))
    if doubled := [name for name, count in names.items() if count > 1]:
        raise ModelError(
            f"layers of nested models share the name '{doubled[0]}'",
            where=model.name,
            hint="Save the model with different names for them.",
        )


def _leaves(model: keras.Model) -> list[keras.Layer]:
    """All layers but inputs, nested models dissolved."""
    layers = [_leaves(layer) if isinstance(layer, keras.Model) else [layer] for layer in model.layers]
    return [layer for group in layers for layer in group if not isinstance(layer, keras.layers.InputLayer)]


def _last_spatial(output: Any, name: str) -> Any:
    """The 4-D tensor from which everything up to `output` is computed."""
    edge, seen, found = [output], set(), {}
    while edge:
        tensor = edge.pop()
        if len(tensor.shape) == 4:
            found[id(tensor)] = tensor
        elif id(tensor) not in seen:
            seen.add(id(tensor))
            edge.extend(_sources(tensor))
    tensors = list(found.values())
    if len(tensors) != 1 or not _sources(tensors[0]):
        raise ModelError(
            f"cannot be cut before its pooling: {len(tensors)} tensors with spatial dimensions lead to the output",
            where=name,
            hint="Save the network without its top and use that file.",
        )
    return _before_pooling_to_one(tensors[0])


def _before_pooling_to_one(tensor: Any) -> Any:
    """Step back over what belongs to the top though it is 4-D: pooling to 1x1 pixel and what follows it."""
    current = tensor
    while tuple(current.shape[1:3]) == (1, 1):
        sources = _sources(current)
        if len(sources) != 1 or len(sources[0].shape) != 4:
            return tensor
        current, operation = sources[0], current._keras_history.operation
    # Small images can shrink to one pixel by convolution alone; those are features.
    return current if current is tensor or "Pooling" in type(operation).__name__ else tensor


def _sources(tensor: Any) -> list[Any]:
    """Tensors the operation behind `tensor` was applied to; empty for an input."""
    history = tensor._keras_history
    return list(history.operation._inbound_nodes[history.node_index].input_tensors)


def _like(structure: Any, tensor: Any) -> Any:
    """`tensor` in the structure of a model's `input` (files hold plain tensors, or lists of one)."""
    return [tensor] if isinstance(structure, (list, tuple)) else tensor


def _shape(network: keras.Model) -> str:
    height, width = network.inputs[0].shape[1:3]
    return f"{height}x{width}"


def _first_line(error: Exception) -> str:
    """The heart of Keras's messages, which wrap the real reason and can run to pages."""
    reason = str(error).rpartition("Exception encountered: ")[2].strip() or type(error).__name__
    return reason.partition("\n")[0].partition(". ")[0][:200].rstrip(".")
