"""A network called once. On TensorFlow without tracing: for a few images, that would take longer than the answers."""

from typing import Any
from weakref import WeakKeyDictionary

import keras
from keras import ops

from tlcli.model.graph import in_inference_mode

# The models with which networks were called on JAX: each holds its compiled programs.
_compiled: WeakKeyDictionary[Any, keras.Model] = WeakKeyDictionary()


def call_once(model: Any, inputs: Any) -> Any:
    """The output of a functional network in inference mode, computed layer by layer.

    Calling the network itself would hold the outputs of all layers until the end: 75 MB for an image of 224 pixels in
    EfficientNet-Lite0. Here each is forgotten after the last layer that reads it, so that more images fit in one call.

    On JAX it is compiled as a whole: each operation called by itself would be compiled by itself.

    Args:
        model: A `keras.Model` or `keras.Function` with one input and one output.
        inputs: An array, batch first.

    Returns:
        A tensor or array, batch first.
    """
    if keras.backend.backend() == "jax":
        if model not in _compiled:
            _compiled[model] = keras.Model(model.inputs, model.outputs)
        return _compiled[model].predict_on_batch(inputs)
    (source,), (result,) = model.inputs, model.outputs
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    last_reader = {id(tensor): node for node in nodes for tensor in node.input_tensors}
    last_reader[id(result)] = None
    values = {id(source): ops.convert_to_tensor(inputs, dtype=source.dtype)}
    for node in nodes:
        if node.is_input or any(id(tensor) not in values for tensor in node.input_tensors):
            continue  # As in Keras: layers below the input of a function.
        args, kwargs = node.arguments.fill_in(values)
        outputs = keras.tree.flatten(in_inference_mode(node.operation)(*args, **kwargs))
        values.update(zip(map(id, node.outputs), outputs, strict=True))
        for key in [id(tensor) for tensor in node.input_tensors if last_reader[id(tensor)] is node]:
            values.pop(key, None)
    return values[id(result)]
