"""From a Keras network to its graph: names, weights, shapes and operations of every layer."""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras
from keras.src.backend.common import global_state
from keras.src.ops.node import Node
from keras.src.utils.naming import reset_uids

from tlcli.errors import ModelError, did_you_mean
from tlcli.model.groups import Layer, LayerGraph

Shape = tuple[int | None, ...]

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)


@contextmanager
def fresh_names() -> Iterator[None]:
    """Inside, layers without a name of their own are numbered as in a process that has built nothing yet.

    InceptionV3 and others leave `conv2d_7` to Keras, which counts on from what the process built before; only with
    fresh names does the same layer have the same name everywhere. Afterwards the counters stand above both, so that
    later layers do not repeat names of the network built inside.
    """
    before = dict(global_state.get_global_attribute("object_name_uids") or {})
    reset_uids()
    try:
        yield
    finally:
        counters = global_state.get_global_attribute("object_name_uids")
        for name, count in before.items():
            counters[name] = max(count, counters[name])


@contextmanager
def weightless() -> Iterator[None]:
    """Inside, networks are built without memory for their weights, in a fraction of a second, and with fresh names.

    Such a network can be measured, never called.
    """
    waiting = list(global_state.get_global_attribute("uninitialized_variables") or [])
    try:
        with fresh_names(), keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Keras would give memory to all these weights at the next layer built outside.
        global_state.set_global_attribute("uninitialized_variables", waiting)


def measure(model: keras.Model) -> LayerGraph:
    """The graph of a functional or sequential network, its layers in the order of the model's own list.

    FLOPs are two a multiplication with its addition, for one image, of convolutions (plain, grouped, transposed,
    depthwise, separable) and dense layers, also inside nested models. Elementwise work, pooling, normalisation,
    resizing and other layers count as none; so does a layer whose output size the network leaves open.
    A nested model is one layer. A layer used several times in this model has its weights at the first use; later
    uses are entries `name@2`, `name@3` without weights. Uses of the layer in other models do not matter.

    Raises:
        ModelError: The model is no graph of layers, or has several outputs.
    """
    outputs = getattr(model, "outputs", None)
    if not outputs or len(outputs) != 1:
        count = len(outputs) if outputs else "no"
        hint = "Functional and sequential networks with one output can be cut into groups."
        raise ModelError(f"the network has {count} symbolic outputs", where=str(model.name), hint=hint)
    names: dict[int, str] = {}
    layers = []
    for name, node in _named(model):
        names[id(node)] = name
        inputs = dict.fromkeys(names[id(parent)] for parent in node.parent_nodes)
        layers.append(_layer(node, name, tuple(inputs)))
    return LayerGraph(tuple(layers), names[id(_origin(outputs[0]))])


def tensors_at(model: keras.Model, names: Sequence[str]) -> list[keras.KerasTensor]:
    """The symbolic outputs of layers within this model, in the order of the names, which are those of `measure`.

    `model.get_layer(name).output` is not that: a layer that was also called elsewhere, as those of a backbone within
    a classifier are, has an output for every call, and Keras gives the first.

    Raises:
        ModelError: The model has no such layer.
    """
    found = {name: node.outputs[0] for name, node in _named(model)}
    for name in names:
        if name not in found:
            raise ModelError(f"no layer '{name}'", where=str(model.name), hint=did_you_mean(name, found))
    return [found[name] for name in names]


def calls(model: keras.Model) -> list[Node]:
    """The model's own uses of layers in topological order, as in the model's list wherever that allows."""
    nodes: dict[int, Node] = {}
    pending = [_origin(model.outputs[0])]
    while pending:
        node = pending.pop()
        if id(node) not in nodes:
            nodes[id(node)] = node
            pending.extend(node.parent_nodes)
    position = {id(operation): index for index, operation in enumerate(getattr(model, "operations", model.layers))}
    return _sorted(nodes, lambda node: position.get(id(node.operation), -1))


def _named(model: keras.Model) -> Iterator[tuple[str, Node]]:
    """The model's own uses of layers in topological order, each with its name: `a`, and `a@2` for the second of a."""
    uses: dict[int, int] = {}
    for node in calls(model):
        use = uses[id(node.operation)] = uses.get(id(node.operation), 0) + 1
        yield (node.operation.name if use == 1 else f"{node.operation.name}@{use}"), node


def _layer(node: Node, name: str, inputs: tuple[str, ...]) -> Layer:
    operation = node.operation
    is_first = name == operation.name
    parts = _parts(operation) if is_first else []
    return Layer(
        name=name,
        kind=type(operation).__name__,
        inputs=inputs,
        parameters=sum(_size(weight) for part in parts for weight in _own_weights(part)),
        trainable_parameters=sum(_size(weight) for part in parts for weight in part._trainable_variables),
        output_shape=tuple(node.outputs[0].shape[1:]),
        batch_norms=sum(isinstance(part, keras.layers.BatchNormalization) for part in parts),
        flops=_flops(operation, [tensor.shape[1:] for tensor in node.input_tensors], node.outputs[0].shape[1:]),
        outputs=len(node.outputs),
    )


def _parts(operation: keras.Operation) -> list[keras.Layer]:
    """The layer and the layers inside it; none of an operation that is no layer."""
    return list(operation._flatten_layers()) if isinstance(operation, keras.Layer) else []


def _own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """Its weights without those of layers inside it; the states of random generators are no weights."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _size(weight: keras.Variable) -> int:
    return math.prod(weight.shape)


def _origin(tensor: keras.KerasTensor) -> Node:
    """The use of a layer that made a symbolic tensor."""
    return tensor._keras_history.operation._inbound_nodes[tensor._keras_history.node_index]


def _sorted(nodes: dict[int, Node], rank: Callable[[Node], int]) -> list[Node]:
    """The nodes with every one after those it reads; among several that could come next, the lowest rank."""
    missing = {key: len({id(parent) for parent in node.parent_nodes}) for key, node in nodes.items()}
    children: dict[int, list[int]] = {key: [] for key in nodes}
    for key, node in nodes.items():
        for parent in {id(parent) for parent in node.parent_nodes}:
            children[parent].append(key)
    ready = [(rank(nodes[key]), order, key) for order, key in enumerate(nodes) if not missing[key]]
    heapq.heapify(ready)
    ordered = []
    while ready:
        key = heapq.heappop(ready)[2]
        ordered.append(nodes[key])
        for child in children[key]:
            missing[child] -= 1
            if not missing[child]:
                heapq.heappush(ready, (rank(nodes[child]), len(ordered), child))
    return ordered


def _flops(operation: keras.Operation, inputs: list[Shape], output: Shape) -> int:
    """Operations of one use of a layer; shapes without the batch."""
    if not inputs or None in output or any(None in shape for shape in inputs):
        return 0
    elements = math.prod(size or 0 for size in output)
    match operation:
        case keras.Model():
            return _flops_inside(operation, inputs[0])
        case keras.layers.Dense():
            return 2 * operation.kernel.shape[0] * elements
        case _ if isinstance(operation, _SEPARABLE):
            positions = elements // operation.filters
            return 2 * positions * (_size(operation.depthwise_kernel) + _size(operation.pointwise_kernel))
        case _ if isinstance(operation, _DEPTHWISE):
            return 2 * math.prod(operation.kernel_size) * elements
        case _ if isinstance(operation, _TRANSPOSED):
            positions = math.prod(size or 0 for size in inputs[0]) // operation.kernel.shape[-1]
            return 2 * positions * _size(operation.kernel)
        case _ if isinstance(operation, _CONVOLUTIONS):
            return 2 * math.prod(operation.kernel.shape[:-1]) * elements
        case _:
            return 0


def _flops_inside(model: keras.Model, shape: Shape) -> int:
    """Operations of a nested model for one input of the given shape."""
    if not isinstance(model, keras.Sequential):
        return sum(layer.flops for layer in measure(model).layers) if getattr(model, "outputs", None) else 0
    total = 0
    for layer in model.layers:
        output = tuple(layer.compute_output_shape((None, *shape)))[1:]
        total += _flops(layer, [shape], output)
        shape = output
    return total
