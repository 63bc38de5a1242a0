"""Load whole Keras models from files (`.keras`, legacy `.h5`), remove their top, and resize them."""

import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from tlcli.errors import ModelError, did_you_mean
from tlcli.paths import DAMAGED_ZIP
from tlcli.zoo.formats import content, keras_2, model_config
from tlcli.zoo.sources import keras_2_model, kerashub, kerashub_graph, saved_model_layer, weights_file
from tlcli.zoo.sources.initial_values import plain_initial_values

# The first layer of the head of a classifier that tlcli wrote; below it are the features, which may be pooled already.
_OWN_POOLING = "head_pool"
_FETCH_AGAIN = "The file may be damaged or incomplete; fetch it again."
# Starts of the class names of layers that change nothing in predictions, and of layers that prepare the image. The
# program augments, resizes and crops images itself. In Keras 3 these layers also put all layers above them in training
# mode unless the call says otherwise.
_AUGMENTATION = ("Random", "RandAugment", "AugMix", "CutMix", "MixUp")
_RESIZING = ("Resizing", "CenterCrop", "RandomCrop")
_SCALING = ("Rescaling", "Normalization", "Flip", "Identity")


def load(path: Path) -> keras.Model:
    """Load the whole model from a `.keras`, `.h5` or `.hdf5` file, not compiled.

    No code from the file is run, apart from SavedModels that the user has trusted.

    Raises:
        ModelError: The file is not a Keras model, has layers that cannot be loaded, or holds a SavedModel that is not
            trusted.
    """
    if not path.is_file():
        raise ModelError("there is no such file", where=str(path))
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        why = content.reason(path, zipfile.BadZipFile("not a zip file"), "a zip archive")
        raise ModelError(f"is not a Keras model: {why}", where=str(path), hint=_FETCH_AGAIN)
    config = model_config.read(path)
    if config.is_keras_2:
        return _rename_conversions(_load_keras_2(config.tree, path))
    if path.suffix == ".keras":
        saved_model_layer.require_trusted(path)
    if not _has_kerashub_layers(path):
        return _load_safely(path)
    kerashub.require_library(path)
    return kerashub_graph.make_savable(_load_safely(path))


def without_top(model: keras.Model, cut: str | None = None) -> keras.Model:
    """The part of `model` before its pooling: from the image input to the last tensor with spatial dimensions.

    Nested models are replaced by their layers, so that the layers can be divided into groups. Random augmentation is
    removed, and so are layers that only resize or crop the image; their output size becomes the input size.

    Args:
        model: A model with one input (batch, height, width, 3), or 1 for grey images, and one output.
        cut: Layer whose output becomes the output instead; None to cut before the pooling.

    Returns:
        A network with a 4-D output, or a 2-D one if the network pools the features itself, or that of `cut`.
        Unless layers were replaced or removed, it shares its layers with `model`.

    Raises:
        ModelError: The input is not RGB or grey images, or the graph cannot be cut there.
    """
    _require_images(model)
    flat = _without_augmentation(_flattened(model))
    if cut is not None:
        return cut_at(flat, cut)
    pooling = next((layer for layer in flat.layers if layer.name.startswith(_OWN_POOLING)), None)
    features = _last_spatial(flat.outputs[0], model.name) if pooling is None else pooling.input
    return keras.Model(flat.inputs[0], features, name=model.name)


def cut_at(network: keras.Model, layer: str) -> keras.Model:
    """The part of a functional network up to the output of a layer; it shares its layers with `network`.

    Raises:
        ModelError: There is no such layer, or its output is not one tensor.
    """
    names = [existing.name for existing in network.layers]
    if layer not in names:
        raise ModelError(
            f"the network has no layer '{layer}'",
            where="model.cut",
            hint=f"{did_you_mean(layer, names)} For the layer names: tlcli inspect MODEL --by layer".strip(),
        )
    output = network.get_layer(layer).output
    if output is network.outputs[0]:
        return network
    if isinstance(output, (list, tuple)) or output is network.inputs[0] or len(output.shape) not in (2, 4):
        raise ModelError(
            f"{network.name} cannot be cut at '{layer}', whose output is no features of an image",
            where="model.cut",
            hint="Choose a layer with one output (batch, height, width, channels) or (batch, channels).",
        )
    return keras.Model(network.inputs[0], output, name=network.name)


def resized(network: keras.Model, size: tuple[int, int] | None, *, copy_weights: bool = True) -> keras.Model:
    """Copy a network, with new layers, for images of `size`.

    Args:
        network: Network without top.
        size: Height and width, pixels; None for those of `network`.
        copy_weights: False to give the copy random weights.

    Raises:
        ModelError: A layer of the network works only at another size.
    """
    shape = network.inputs[0].shape[1:] if size is None else (*size, network.inputs[0].shape[-1])
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
    """True if a `.keras` file has layers that are not in Keras."""
    try:
        with zipfile.ZipFile(path) as archive:
            return b'"keras_hub.' in archive.read("config.json")
    except DAMAGED_ZIP:
        return False


def _load_safely(path: Path) -> keras.Model:
    with _loading(path), plain_initial_values():
        return _rename_conversions(keras.saving.load_model(path, compile=False, safe_mode=True))


def _load_keras_2(config: dict[str, Any], path: Path) -> keras.Model:
    with _loading(path), plain_initial_values():
        model = keras_2_model.build(config)
    weights_file.load(model, path, with_top=lambda: model)
    return model


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """A context in which all kinds of errors of Keras become a ModelError that names the file."""
    try:
        yield
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        OSError,
        AttributeError,
        ImportError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as error:
        if "lambda" in str(error).lower():
            raise keras_2.lambda_error(path) from error
        raise ModelError(
            f"cannot be loaded as a Keras model ({_reason(error)})",
            where=str(path),
            hint="Only built-in Keras layers are supported. " + _FETCH_AGAIN,
        ) from error


def _without_augmentation(network: keras.Model) -> keras.Model:
    """A copy without the layers that this program replaces; the network itself if it has none."""
    removed = {layer.name for layer in network.layers if type(layer).__name__.startswith(_AUGMENTATION)}
    size = network.inputs[0].shape[1:3]
    for layer in network.layers:
        if type(layer).__name__ in _RESIZING and _reads_image(layer.output):
            removed.add(layer.name)
            size = layer.output.shape[1:3]
    if not removed:
        return network
    if isinstance(network, keras.Sequential):
        network = keras.Model(network.inputs[0], network.outputs[0], name=network.name)

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        return arguments[0] if layer.name in removed else layer(*arguments, **options)

    inputs = keras.Input((*size, 3), dtype=network.inputs[0].dtype, name=network.inputs[0].name)
    structure = _match_structure(network.input, inputs)
    copy = keras.models.clone_model(network, input_tensors=structure, call_function=call)
    weights_file.copy_weights(network, copy)
    return copy


def _reads_image(tensor: Any) -> bool:
    """True if a tensor is the image after layers of the kinds that prepare images only."""
    sources = _sources(tensor)
    while sources:
        kind = type(tensor._keras_history.operation).__name__
        if len(sources) > 1 or not kind.startswith((*_AUGMENTATION, *_RESIZING, *_SCALING)):
            return False
        tensor = sources[0]
        sources = _sources(tensor)
    return True


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
    if len(shape) != 4 or shape[-1] not in (1, 3):
        raise ModelError(
            f"does not accept RGB or grey images (input shape {tuple(shape)})",
            where=model.name,
            hint="The input must be (batch, height, width, 3) or (batch, height, width, 1), channels last.",
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
    """The one tensor of features from which `output` is computed without any other in between."""
    queue, visited, spatial = [output], set(), {}
    while queue:
        tensor = queue.pop()
        if len(tensor.shape) == 4 or _pools_itself(tensor):
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


def _pools_itself(tensor: Any) -> bool:
    """True for the output of a layer that reads images or feature maps and pools inside, such as a SavedModel."""
    operation = tensor._keras_history.operation
    weights = getattr(operation, "weights", ())
    return bool(weights) and len(tensor.shape) == 2 and any(len(source.shape) == 4 for source in _sources(tensor))


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
