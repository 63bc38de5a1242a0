"""Measuring a Keras network: names, inputs, weights, shapes, FLOPs and receptive fields of its layers."""

import heapq
import json
import math
import re
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
from tlcli.model.layer_groups import Layer, LayerGroups
from tlcli.model.receptive_field import Field, window
from tlcli.paths import cache_dir
from tlcli.zoo.card import ModelCard
from tlcli.zoo.sources import applications, keras_file
from tlcli.zoo.sources.saved_model_layer import SavedModelLayer
from tlcli.zoo.sources.source import module_of

Shape = tuple[int | None, ...]

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)


@contextmanager
def fresh_names() -> Iterator[None]:
    """A context in which Keras numbers unnamed layers as in a new process.

    InceptionV3 and other networks leave names such as `conv2d_7` to Keras, which continues to count from everything
    the process has built. With fresh names, the same layer has the same name in every process. Afterwards the counters
    are the larger of both, so later layers do not repeat names of the network built inside.
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
    """A context in which networks are built without memory for weights, with fresh names, in a fraction of a second.

    Such a network can be measured but not called.
    """
    uninitialized = list(global_state.get_global_attribute("uninitialized_variables") or [])
    try:
        with fresh_names(), keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Otherwise Keras allocates all these weights with the next layer built outside.
        global_state.set_global_attribute("uninitialized_variables", uninitialized)


def measure(model: keras.Model) -> LayerGraph:
    """Measure the layers of a functional or sequential network, in the order of `model.layers` where possible.

    FLOPs are multiply-adds for one image, as in papers on networks: a multiplication and its addition count once.
    Convolutions (plain, grouped, transposed, depthwise, separable) and dense layers are counted, also inside nested
    models and SavedModels, and approximately inside layers of other libraries. Elementwise operations, pooling,
    normalisation, resizing and all other layers count as zero, and so do layers with an open output size.

    A nested model is one layer whose parts are the layers inside. If the model calls a layer several times, the first
    call has the weights, and later calls are entries `name@2`, `name@3` without weights. Calls in other models are
    ignored.

    Raises:
        ModelError: The model is not a graph of layers, or does not have exactly one output.
    """
    outputs = getattr(model, "outputs", None)
    if not outputs or len(outputs) != 1:
        count = len(outputs) if outputs else "no"
        hint = "Layer groups need a functional or sequential network with one output."
        raise ModelError(f"the network has {count} symbolic outputs", where=str(model.name), hint=hint)
    layers, names, _ = _walk(model, receptive_field.IMAGE)
    return LayerGraph(tuple(layers), names[id(_node_of(outputs[0]))])


def tensors_at(model: keras.Model, names: Sequence[str]) -> list[keras.KerasTensor]:
    """The symbolic outputs of layers of this model, in the order of `names`, which are names as in `measure`.

    `model.get_layer(name).output` may belong to another model: a layer has one output for each call, and Keras returns
    the first. The layers of a backbone inside a classifier, for example, were called twice.

    Raises:
        ModelError: The model has no such layer.
    """
    tensors = {name: node.outputs[0] for name, node in _named_calls(model)}
    for name in names:
        if name not in tensors:
            raise ModelError(f"no layer '{name}'", where=str(model.name), hint=did_you_mean(name, tensors))
    return [tensors[name] for name in names]


def call_layers(model: keras.Model, x: Any) -> Any:
    """Call the layers of a functional model one by one on a symbolic tensor, in inference mode; returns the output.

    The layers become part of the caller's graph. Every call is recorded with `training=False`: without it, Resizing and
    other layers for images record `training=True`, and Keras hands the value of one layer on to all layers after it, so
    that BatchNorm would normalise by the batch whenever the finished model is called without a value.
    """
    return keras.tree.flatten(model._run_through_graph([x], operation_fn=in_inference_mode))[0]


def in_inference_mode(operation: Any) -> Callable[..., Any]:
    """The operation, called with `training=False` if it has this argument."""
    if isinstance(operation, keras.layers.Layer) and operation._call_has_training_arg:
        return lambda *args, **kwargs: operation(*args, **{**kwargs, "training": False})
    return operation


def layer_calls(model: keras.Model) -> list[Node]:
    """The layer calls of this model in topological order, as close to the order of `model.layers` as possible."""
    nodes: dict[int, Node] = {}
    pending = [_node_of(tensor) for tensor in model.outputs]
    while pending:
        node = pending.pop()
        if id(node) not in nodes:
            nodes[id(node)] = node
            pending.extend(node.parent_nodes)
    position = {id(operation): index for index, operation in enumerate(getattr(model, "operations", model.layers))}
    return _sort_topologically(nodes, lambda node: position.get(id(node.operation), -1))


def _named_calls(model: keras.Model) -> Iterator[tuple[str, Node]]:
    """Names and nodes of the layer calls of this model in topological order: `a`, then `a@2` for the second of `a`."""
    counts: dict[int, int] = {}
    for node in layer_calls(model):
        count = counts[id(node.operation)] = counts.get(id(node.operation), 0) + 1
        yield (node.operation.name if count == 1 else f"{node.operation.name}@{count}"), node


def _walk(model: keras.Model, input_field: Field | None) -> tuple[list[Layer], dict[int, str], Field | None]:
    """The layers of a model, their names by the `id` of their nodes, and the receptive field of its output.

    `input_field` is the receptive field of the inputs of the model.
    """
    names: dict[int, str] = {}
    receptive_fields: dict[str, Field | None] = {}
    layers = []
    for name, node in _named_calls(model):
        names[id(node)] = name
        inputs = tuple(dict.fromkeys(names[id(parent)] for parent in node.parent_nodes))
        below = receptive_field.merge([receptive_fields[source] for source in inputs]) if inputs else input_field
        inner, receptive_fields[name] = _inner_layers(node, below)
        # Only the first call of a layer lists its parts.
        parts = inner if name == node.operation.name else ()
        layer = replace(_layer(node, name), inputs=inputs, parts=parts)
        layers.append(_with_field(layer, receptive_fields[name]))
    return layers, names, receptive_fields[names[id(_node_of(model.outputs[0]))]]


def _inner_layers(node: Node, below: Field | None) -> tuple[tuple[Layer, ...], Field | None]:
    """The layers inside the called layer, and the receptive field of its output."""
    operation = node.operation
    if isinstance(operation, keras.Model) and len(getattr(operation, "outputs", None) or ()) == 1:
        layers, _, field = _walk(operation, below)
        return tuple(replace(layer, inputs=()) for layer in layers if layer.kind != "InputLayer"), field
    shapes = [tuple(tensor.shape[1:]) for tensor in node.input_tensors]
    field = receptive_field.propagate(window(operation, shapes, tuple(node.outputs[0].shape[1:])), below)
    inner = [part for part in _flatten(operation)[1:] if _own_weights(part)]
    return tuple(_count_weights(part.name, _kind(part), [part]) for part in inner), field


def _with_field(layer: Layer, field: Field | None) -> Layer:
    if field is None:
        return layer
    return replace(layer, stride=field.stride, receptive_field=field.size, sees_all=field.sees_all)


def _layer(node: Node, name: str) -> Layer:
    operation = node.operation
    parts = _flatten(operation) if name == operation.name else []
    shapes = [tensor.shape[1:] for tensor in node.input_tensors]
    return replace(
        _count_weights(name, _kind(operation), parts),
        output_shape=tuple(node.outputs[0].shape[1:]),
        flops=_flops(operation, shapes, node.outputs[0].shape[1:]),
        output_count=len(node.outputs),
    )


def _kind(operation: keras.Operation) -> str:
    """Class name of a layer; for an `Activation` also the name of its function."""
    kind = type(operation).__name__
    if kind != "Activation":
        return kind
    return f"{kind} {getattr(operation.activation, '__name__', type(operation.activation).__name__)}"


def _count_weights(name: str, kind: str, parts: Sequence[keras.Layer]) -> Layer:
    return Layer(
        name=name,
        kind=kind,
        parameters=sum(_size(weight) for part in parts for weight in _own_weights(part)),
        trainable_parameters=sum(_size(weight) for part in parts for weight in part._trainable_variables),
        batch_norms=sum(isinstance(part, keras.layers.BatchNormalization) for part in parts),
    )


def _flatten(operation: keras.Operation) -> list[keras.Layer]:
    """The layer and all layers inside it; empty for an operation that is not a layer."""
    return list(operation._flatten_layers()) if isinstance(operation, keras.Layer) else []


def _own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """The weights of the layer without those of layers inside it and without the states of random generators."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _size(weight: keras.Variable) -> int:
    return math.prod(weight.shape)


def _node_of(tensor: keras.KerasTensor) -> Node:
    """The layer call that created a symbolic tensor."""
    return tensor._keras_history.operation._inbound_nodes[tensor._keras_history.node_index]


def _sort_topologically(nodes: dict[int, Node], rank: Callable[[Node], int]) -> list[Node]:
    """The nodes, each after those it reads; of several candidates the one with the lowest rank comes next."""
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
    """Multiply-adds of one call of a layer; shapes are without the batch."""
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
        case SavedModelLayer():
            return operation.multiply_adds((inputs[0][0] or 0, inputs[0][1] or 0))
        case keras.Layer() if not type(operation).__module__.startswith("keras."):
            return _flops_of_parts(operation, elements // (output[-1] or 1))
        case _:
            return 0


def _flops_of_parts(layer: keras.Layer, positions: int) -> int:
    """Multiply-adds of a layer of another library: every kernel inside is applied at each position of the output."""
    return positions * sum(_size(part.kernel) for part in _flatten(layer) if hasattr(part, "kernel"))


def _flops_inside(model: keras.Model, shape: Shape) -> int:
    """Multiply-adds of a nested model for one input; `shape` is without the batch."""
    if not isinstance(model, keras.Sequential):
        return sum(layer.flops for layer in measure(model).layers) if getattr(model, "outputs", None) else 0
    total = 0
    for layer in model.layers:
        output = tuple(layer.compute_output_shape((None, *shape)))[1:]
        total += _flops(layer, [shape], output)
        shape = output
    return total


def measure_groups(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int]) -> LayerGroups:
    """The layer groups of a network, from the bundled or cached structures; else measured and stored.

    Raises:
        ModelError: The network cannot be built from this card, size and arguments.
    """
    stored = structure.find(card, dict(arguments), size, cache=cache_dir())
    if stored is not None:
        return stored
    measured = groups_of(build_unweighted(card, arguments, size), card, size)
    structure.store(measured, card, dict(arguments), cache=cache_dir())
    return measured


def build_unweighted(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int]) -> keras.Model:
    """The network of a card without its top, to be measured; all but model files are built without weight values."""
    kind, _, handle = card.source.partition(":")
    if kind == "file":
        return keras_file.without_top(keras_file.load(Path(handle)), card.cut)
    with weightless():
        if kind == "keras":
            network = applications.architecture(card, size=size, arguments=dict(arguments))
        else:
            network = module_of(kind).network(card, size=size, arguments=arguments, weights=False)
        return network if card.cut is None else keras_file.cut_at(network, card.cut)


def groups_of(model: keras.Model, card: ModelCard, size: tuple[int, int]) -> LayerGroups:
    """The layer groups of a network that has been built. Patterns for layers above the cut of the card are left out."""
    patterns = card.groups
    if card.cut is not None:
        names = [layer.name for layer in model.layers]
        patterns = tuple(rule for rule in patterns if any(re.fullmatch(rule.pattern, name) for name in names))
    return grouping.assign(measure(model), patterns, name=card.name, input_size=size)


def main() -> None:
    """Measure the network that stdin describes; an error goes to stdout as JSON. See `measure_in_subprocess`."""
    task = json.load(sys.stdin)
    try:
        measure_groups(ModelCard.model_validate(task["card"]), task["arguments"], tuple(task["size"]))
    except ModelError as error:
        json.dump({"message": error.message, "where": error.where, "hint": error.hint}, sys.stdout)
        raise SystemExit(error.exit_code) from error
