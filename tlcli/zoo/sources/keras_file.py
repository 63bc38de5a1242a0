"""Load whole Keras models from files (`.keras`, legacy `.h5`), remove their top, and resize them."""

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
from tlcli.zoo.sources import kerashub, kerashub_graph, weights_file

# The first layer of the head of a classifier that tlcli wrote; below it are the features, which may be pooled already.
_OWN_POOLING = "head_pool"
_FETCH_AGAIN = "The file may be damaged or incomplete; fetch it again."
# Keys in files of Keras 2 that layers of Keras 3 reject. `groups` is removed only if it is 1. Initialisers are not
# needed when weights are loaded.
_KERAS_2_KEYS = {
    "DepthwiseConv2D": ("groups",),
    "Conv2DTranspose": ("groups",),
    "SeparableConv2D": ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"),
}


def load(path: Path) -> keras.Model:
    """Load the whole model from a `.keras`, `.h5` or `.hdf5` file, not compiled. No code from the file is run.

    Raises:
        ModelError: The file is not a Keras model, or has layers that cannot be loaded.
    """
    if not path.is_file():
        raise ModelError("there is no such file", where=str(path))
    if path.suffix == ".keras":
        if not zipfile.is_zipfile(path):
            raise ModelError("is not a Keras model: a .keras file is a zip archive", where=str(path), hint=_FETCH_AGAIN)
        if not _has_kerashub_layers(path):
            return _load_safely(path, path)
        kerashub.require_library(path)
        return kerashub_graph.make_savable(_load_safely(path, path))
    config = _legacy_config(path)
    if not _drop_keras_2_keys(config):
        return _load_safely(path, path)
    with tempfile.TemporaryDirectory() as folder:
        patched = Path(folder) / "model.h5"
        shutil.copyfile(path, patched)
        with h5py.File(patched, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
        return _load_safely(patched, path)


def without_top(model: keras.Model) -> keras.Model:
    """The part of `model` before its pooling: from the image input to the last tensor with spatial dimensions.

    Nested models are replaced by their layers, so that the layers can be divided into groups.

    Args:
        model: A model with one input (batch, height, width, 3) and one output.

    Returns:
        A network with a 4-D output, or with the 2-D features of a classifier of tlcli. Without nested models it shares
        its layers with `model`.

    Raises:
        ModelError: The input is not RGB images, or the graph cannot be cut there.
    """
    _require_images(model)
    flat = _flattened(model)
    pooling = next((layer for layer in flat.layers if layer.name.startswith(_OWN_POOLING)), None)
    features = _last_spatial(flat.outputs[0], model.name) if pooling is None else pooling.input
    return keras.Model(flat.inputs[0], features, name=model.name)


def resized(network: keras.Model, size: tuple[int, int] | None, *, copy_weights: bool = True) -> keras.Model:
    """Copy a network, with new layers, for images of `size`.

    Args:
        network: Network without top.
        size: Height and width, pixels; None for those of `network`.
        copy_weights: False to give the copy random weights.

    Raises:
        ModelError: A layer of the network works only at another size.
    """
    shape = network.inputs[0].shape[1:] if size is None else (*size, 3)
    inputs = keras.Input(shape, dtype=network.inputs[0].dtype, name=network.inputs[0].name)
    try:
        copy = keras.models.clone_model(network, input_tensors=_match_structure(network.input, inputs))
        if copy_weights:
            weights_file.copy_weights(network, copy)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"the network does not accept images of {shape[0]}x{shape[1]} ({_reason(error)})",
            where=network.name,
            hint=f"Its input size is {_input_size(network)}. Set data.size to auto.",
        ) from error
    return copy


def _rename_conversions(model: Any) -> Any:
    """Rename the `ConvertToTensor` operations that Keras adds where models are joined. Returns the model.

    Keras numbers them anew in each process, so joining the model again could give one name twice, which Keras rejects.
    """
    operations = list(getattr(model, "operations", ()))
    taken = {operation.name for operation in operations}
    for operation in operations:
        if type(operation).__name__ == "ConvertToTensor":
            while operation.name in taken:
                operation.name += "_inner"
            taken.add(operation.name)
    return model


def _has_kerashub_layers(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return b'"keras_hub.' in archive.read("config.json")
    except (KeyError, OSError, zipfile.BadZipFile):
        return False


def _load_safely(path: Path, shown_path: Path) -> keras.Model:
    """Load a model with Keras; all its kinds of errors become a ModelError that names `shown_path`."""
    try:
        return _rename_conversions(keras.saving.load_model(path, compile=False, safe_mode=True))
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
                "has a Lambda layer, which is code; code from files is not run",
                where=str(shown_path),
                hint="Replace it with built-in layers (Rescaling, Normalization …) and save the model again.",
            ) from error
        raise ModelError(
            f"cannot be loaded as a Keras model ({_reason(error)})",
            where=str(shown_path),
            hint="Only built-in Keras layers are supported. " + _FETCH_AGAIN,
        ) from error


def _legacy_config(path: Path) -> dict[str, Any]:
    """The `model_config` of a legacy HDF5 file."""
    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
    except OSError as error:
        raise ModelError(f"is not a Keras model ({_reason(error)})", where=str(path), hint=_FETCH_AGAIN) from error
    if config is None:
        raise ModelError(
            "holds weights but no model",
            where=str(path),
            hint=f"Name the network, and use the file as its weights: --model NAME --weights {path.name}",
        )
    try:
        decoded: dict[str, Any] = json.loads(config)
    except ValueError as error:
        raise ModelError(f"is not a Keras model ({error})", where=str(path), hint=_FETCH_AGAIN) from error
    return decoded


def _drop_keras_2_keys(config: Any) -> bool:
    """Remove keys that Keras 3 rejects, in place. True if a key was removed."""
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
            "has no layer graph: it is a subclassed model, or was never built",
            where=model.name,
            hint="Functional and Sequential models are supported.",
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"has {len(model.inputs)} inputs and {len(model.outputs)} outputs",
            where=model.name,
            hint="Models with one image input and one output are supported.",
        )
    shape = model.inputs[0].shape
    if len(shape) != 4 or shape[-1] != 3:
        raise ModelError(
            f"does not accept RGB images (input shape {tuple(shape)})",
            where=model.name,
            hint="The input must be (batch, height, width, 3), channels last.",
        )


def _flattened(model: keras.Model) -> keras.Model:
    """The model with nested models replaced by their layers: a copy, or the model itself if it has none."""
    if not _nested(model):
        return model
    _make_names_unique(model)
    flat = _functional(model) if isinstance(model, keras.Sequential) else model
    while _nested(flat):
        flat = keras.models.clone_model(flat, clone_function=lambda layer: layer, call_function=_call_inner_layers)
    # The layers are now part of two graphs. In a copy `layer.output` is unambiguous.
    return resized(flat, None)


def _functional(model: keras.Sequential) -> keras.Model:
    """A Sequential model as a functional model with the same layers."""
    source = model.inputs[0]
    inputs = keras.Input(batch_shape=source.shape, dtype=source.dtype, name=source.name)
    return keras.Model(inputs, model.call(inputs), name=model.name)


def _call_inner_layers(layer: Any, *arguments: Any, **options: Any) -> Any:
    """Call function for `clone_model`: replaces a nested model by its layers, one level deep.

    The `training` flag of a nested model is dropped: layer groups are frozen by the recipe, not by the file.
    """
    return layer.call(arguments[0]) if isinstance(layer, keras.Model) else layer(*arguments, **options)


def _nested(model: keras.Model) -> list[keras.Model]:
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]


def _make_names_unique(model: keras.Model) -> None:
    """Rename layers of nested models that share their name with another layer, for example `dense` to `head_dense`."""
    names = Counter(layer.name for layer in _leaves(model))
    for inner in _nested(model):
        for layer in _leaves(inner):
            if names[layer.name] > 1:
                layer.name = f"{inner.name}_{layer.name}"
    names = Counter(layer.name for layer in _leaves(model))
    if duplicates := [name for name, count in names.items() if count > 1]:
        raise ModelError(
            f"layers of nested models share the name '{duplicates[0]}'",
            where=model.name,
            hint="Save the model with different layer names.",
        )


def _leaves(model: keras.Model) -> list[keras.Layer]:
    """All layers except inputs, with nested models replaced by their layers."""
    layers = [_leaves(layer) if isinstance(layer, keras.Model) else [layer] for layer in model.layers]
    return [layer for group in layers for layer in group if not isinstance(layer, keras.layers.InputLayer)]


def _last_spatial(output: Any, name: str) -> Any:
    """The one 4-D tensor from which `output` is computed without any other 4-D tensor in between."""
    queue, visited, spatial = [output], set(), {}
    while queue:
        tensor = queue.pop()
        if len(tensor.shape) == 4:
            spatial[id(tensor)] = tensor
        elif id(tensor) not in visited:
            visited.add(id(tensor))
            queue.extend(_sources(tensor))
    tensors = list(spatial.values())
    if len(tensors) != 1 or not _sources(tensors[0]):
        raise ModelError(
            f"cannot be cut before its pooling: {len(tensors)} tensors with spatial dimensions lead to the output",
            where=name,
            hint="Save the network without its top, and use that file.",
        )
    return _before_pooling_to_one(tensors[0])


def _before_pooling_to_one(tensor: Any) -> Any:
    """The input of the pooling to 1x1 pixels that `tensor` follows, if any, otherwise `tensor`."""
    current = tensor
    while tuple(current.shape[1:3]) == (1, 1):
        sources = _sources(current)
        if len(sources) != 1 or len(sources[0].shape) != 4:
            return tensor
        current, operation = sources[0], current._keras_history.operation
    # Convolutions alone can shrink small images to one pixel; such outputs are features, not part of the top.
    return current if current is tensor or "Pooling" in type(operation).__name__ else tensor


def _sources(tensor: Any) -> list[Any]:
    """Inputs of the operation that computes `tensor`; empty for an input of the model."""
    history = tensor._keras_history
    return list(history.operation._inbound_nodes[history.node_index].input_tensors)


def _match_structure(structure: Any, tensor: Any) -> Any:
    """`tensor` in the structure of a model's `input`, which is a tensor or a list of one tensor."""
    return [tensor] if isinstance(structure, (list, tuple)) else tensor


def _input_size(network: keras.Model) -> str:
    height, width = network.inputs[0].shape[1:3]
    return f"{height}x{width}"


def _reason(error: Exception) -> str:
    """The reason in a message of Keras, which can wrap it in pages of text; at most 200 characters."""
    reason = str(error).rpartition("Exception encountered: ")[2].strip() or type(error).__name__
    return reason.partition("\n")[0].partition(". ")[0][:200].rstrip(".")
