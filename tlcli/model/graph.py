"""From a Keras network to its graph: names, weights, shapes and operations of every layer."""

import heapq
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.ops.node import Node
from keras.src.utils.naming import reset_uids

from tlcli.errors import ModelError, did_you_mean
from tlcli.model import grouping, receptive_field, structure
from tlcli.model.cut_points import LayerGraph
from tlcli.model.groups import Layer, LayerGroups
from tlcli.model.receptive_field import Field, window
from tlcli.paths import cache_dir
from tlcli.zoo.card import ModelCard
from tlcli.zoo.sources import applications, keras_file

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

    FLOPs are multiply-adds, a multiplication with its addition counted once, as papers on networks do. Counted, for one
    image, are convolutions (plain, grouped, transposed, depthwise, separable) and dense layers, also inside nested
    models. Elementwise work, pooling, normalisation, resizing and other layers count as none; so does a layer whose
    output size the network leaves open.
    A nested model is one layer, with what is inside as its parts. A layer used several times in this model has its
    weights at the first use; later uses are entries `name@2`, `name@3` without weights. Uses of the layer in other
    models do not matter.

    Raises:
        ModelError: The model is no graph of layers, or has several outputs.
    """
    outputs = getattr(model, "outputs", None)
    if not outputs or len(outputs) != 1:
        count = len(outputs) if outputs else "no"
        hint = "Functional and sequential networks with one output can be cut into groups."
        raise ModelError(f"the network has {count} symbolic outputs", where=str(model.name), hint=hint)
    layers, names, _ = _walked(model, receptive_field.IMAGE)
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


def _walked(model: keras.Model, picture: Field | None) -> tuple[list[Layer], dict[int, str], Field | None]:
    """The layers of a model, their names by the identity of their node, and what its output sees.

    `picture`: what each place of its inputs sees.
    """
    names: dict[int, str] = {}
    seen: dict[str, Field | None] = {}
    layers = []
    for name, node in _named(model):
        names[id(node)] = name
        inputs = tuple(dict.fromkeys(names[id(parent)] for parent in node.parent_nodes))
        below = receptive_field.join([seen[each] for each in inputs]) if inputs else picture
        inner, seen[name] = _inside(node, below)
        # A later use of a layer shows nothing of its inside again.
        parts = inner if name == node.operation.name else ()
        layers.append(_placed(replace(_layer(node, name), inputs=inputs, parts=parts), seen[name]))
    return layers, names, seen[names[id(_origin(model.outputs[0]))]]


def _inside(node: Node, below: Field | None) -> tuple[tuple[Layer, ...], Field | None]:
    """The layers inside the one that a node calls, and what its output sees."""
    operation = node.operation
    if isinstance(operation, keras.Model) and len(getattr(operation, "outputs", None) or ()) == 1:
        layers, _, field = _walked(operation, below)
        return tuple(replace(layer, inputs=()) for layer in layers if layer.kind != "InputLayer"), field
    shapes = [tuple(tensor.shape[1:]) for tensor in node.input_tensors]
    field = receptive_field.through(window(operation, shapes, tuple(node.outputs[0].shape[1:])), below)
    inner = [part for part in _parts(operation)[1:] if _own_weights(part)]
    return tuple(_weights_of(part.name, _kind(part), [part]) for part in inner), field


def _placed(layer: Layer, field: Field | None) -> Layer:
    if field is None:
        return layer
    return replace(layer, stride=field.stride, receptive_field=field.size, sees_all=field.sees_all)


def _layer(node: Node, name: str) -> Layer:
    operation = node.operation
    parts = _parts(operation) if name == operation.name else []
    shapes = [tensor.shape[1:] for tensor in node.input_tensors]
    return replace(
        _weights_of(name, _kind(operation), parts),
        output_shape=tuple(node.outputs[0].shape[1:]),
        flops=_flops(operation, shapes, node.outputs[0].shape[1:]),
        outputs=len(node.outputs),
    )


def _kind(operation: keras.Operation) -> str:
    """The class of a layer; of one that is nothing but a function, the function too."""
    kind = type(operation).__name__
    if kind != "Activation":
        return kind
    return f"{kind} {getattr(operation.activation, '__name__', type(operation.activation).__name__)}"


def _weights_of(name: str, kind: str, parts: Sequence[keras.Layer]) -> Layer:
    return Layer(
        name=name,
        kind=kind,
        parameters=sum(_size(weight) for part in parts for weight in _own_weights(part)),
        trainable_parameters=sum(_size(weight) for part in parts for weight in part._trainable_variables),
        batch_norms=sum(isinstance(part, keras.layers.BatchNormalization) for part in parts),
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
    """Multiply-adds of one use of a layer; shapes without the batch."""
    if not inputs or None in output or any(None in shape for shape in inputs):
        return 0
    elements = math.prod(size or 0 for size in output)
    match operation:
        case keras.Model():
            return _flops_inside(operation, inputs[0])
        case keras.layers.Dense():
            return operation.kernel.shape[0] * elements
        case _ if isinstance(operation, _SEPARABLE):
            positions = elements // operation.filters
            return positions * (_size(operation.depthwise_kernel) + _size(operation.pointwise_kernel))
        case _ if isinstance(operation, _DEPTHWISE):
            return math.prod(operation.kernel_size) * elements
        case _ if isinstance(operation, _TRANSPOSED):
            positions = math.prod(size or 0 for size in inputs[0]) // operation.kernel.shape[-1]
            return positions * _size(operation.kernel)
        case _ if isinstance(operation, _CONVOLUTIONS):
            return math.prod(operation.kernel.shape[:-1]) * elements
        case _:
            return 0


def _flops_inside(model: keras.Model, shape: Shape) -> int:
    """Multiply-adds of a nested model for one input of the given shape."""
    if not isinstance(model, keras.Sequential):
        return sum(layer.flops for layer in measure(model).layers) if getattr(model, "outputs", None) else 0
    total = 0
    for layer in model.layers:
        output = tuple(layer.compute_output_shape((None, *shape)))[1:]
        total += _flops(layer, [shape], output)
        shape = output
    return total


def measure_groups(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int]) -> LayerGroups:
    """The groups from the bundled or cached measurement; measured and stored if there is none.

    Raises:
        ModelError: If the network cannot be built so.
    """
    known = structure.find(card, dict(arguments), size, cache=cache_dir())
    if known is not None:
        return known
    measured = groups_of(build_unweighted(card, arguments, size), card, size)
    structure.store(measured, card, dict(arguments), cache=cache_dir())
    return measured


def build_unweighted(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int]) -> keras.Model:
    """The network of a card without its top, and without values where its architecture is known to Keras."""
    if card.source.startswith("file:"):
        return keras_file.without_top(keras_file.load(Path(card.source.removeprefix("file:"))))
    with weightless():
        return applications.architecture(card, size=size, arguments=dict(arguments))


def groups_of(model: keras.Model, card: ModelCard, size: tuple[int, int]) -> LayerGroups:
    """The groups of a built network."""
    return grouping.assign(measure(model), card.groups, name=card.name, input_size=size)


if __name__ == "__main__":
    task = json.load(sys.stdin)
    try:
        measure_groups(ModelCard.model_validate(task["card"]), task["arguments"], tuple(task["size"]))
    except ModelError as error:
        json.dump({"message": error.message, "where": error.where, "hint": error.hint}, sys.stdout)
        raise SystemExit(error.exit_code) from error
