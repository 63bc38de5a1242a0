"""The graph of a Caffe network without its top: nodes, shapes, cut, and the weights that it needs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tlcli.errors import ModelError, WeightsError
from tlcli.zoo.formats.caffe import Array, CaffeFile, CaffeLayer
from tlcli.zoo.formats.caffe_shapes import Shape, infer, is_global, weight_shapes

MAX_LAYERS = 5000
_MAX_PARAMETERS = 250_000_000
_LOSSES = ("Accuracy", "ArgMax", "Silence", "HDF5Output")
# Layers without weights that a top may have above its classifying convolution.
_ACTIVATIONS = ("ReLU", "Dropout")
_RESERVED = ("head_", "preprocess_", "image")


@dataclass(frozen=True)
class Node:
    """A layer of the graph.

    Attributes:
        name: Unique name without slashes, for Keras.
        layer: The layer in the file.
        inputs: Positions of the nodes that it reads.
        affine: The Scale layer above a BatchNorm that is part of this node; None for other nodes.
    """

    name: str
    layer: CaffeLayer
    inputs: tuple[int, ...]
    affine: CaffeLayer | None = None


@dataclass(frozen=True)
class CaffeGraph:
    """A network without its top.

    Attributes:
        file: The file it comes from.
        nodes: Nodes in topological order; the first is the input, the last is the output.
        shape: Channels, height and width of the input.
        shapes: Shapes of the outputs of the nodes at this input.
    """

    file: CaffeFile
    nodes: tuple[Node, ...]
    shape: tuple[int, int, int]
    shapes: tuple[Shape, ...] = field(default=(), repr=False)

    def at(self, size: tuple[int, int]) -> tuple[Shape, ...]:
        """Shapes of the outputs of the nodes for images of `size`, height and width in pixels.

        Raises:
            ModelError: The network does not accept images of this size.
        """
        return _infer(self.file, self.nodes, (self.shape[0], *size))

    def min_size(self) -> int:
        """The smallest side of square images that the network accepts, pixels."""
        accepted, refused = max(self.shape[1:]), 0
        while accepted - refused > 1:
            middle = (accepted + refused) // 2
            try:
                self.at((middle, middle))
                accepted = middle
            except ModelError:
                refused = middle
        return accepted


def backbone(file: CaffeFile) -> CaffeGraph:
    """The network without its top, which is cut as follows.

    From the output downwards, all layers whose outputs have one position belong to the top: inner products, pooling to
    one position, softmax. If no weights are among them and the network ends in a softmax, the convolution below them
    computes the classes, and belongs to the top too. Dropout directly below the cut does nothing and is left out.

    Raises:
        ModelError: A layer is of an unknown type or has invalid settings, or the network cannot be cut.
    """
    connected, classifies = _connect(file)
    nodes = _reachable(connected, len(connected) - 1)
    shape = _input_shape(file)
    shapes = _infer(file, nodes, shape)
    cut = _cut(file, nodes, shapes, classifies)
    if cut == 0:
        hint = "Networks that begin with convolutions are supported."
        raise ModelError("has no layers below its first inner product", where=str(file.path), hint=hint)
    nodes = _fuse(_reachable(nodes, cut))
    graph = CaffeGraph(file, nodes, shape, _infer(file, nodes, shape))
    count = sum(_size(shape) for position in range(len(nodes)) for shape in expected_weights(graph, position))
    if count > _MAX_PARAMETERS:
        raise ModelError(f"has {count:,} parameters; at most {_MAX_PARAMETERS:,} are read", where=str(file.path))
    return graph


def expected_weights(graph: CaffeGraph, position: int) -> list[tuple[int, ...]]:
    """Shapes of the blobs of a node, those of a fused Scale layer last."""
    node = graph.nodes[position]
    below = [graph.shapes[source] for source in node.inputs]
    shapes = weight_shapes(node.layer, below, graph.shapes[position])
    return shapes + (weight_shapes(node.affine, below, graph.shapes[position]) if node.affine else [])


def match_weights(graph: CaffeGraph, weights: Mapping[str, Sequence[Array]], where: str) -> dict[str, list[Array]]:
    """The weights of each node in the shapes that Caffe uses today, by node name.

    Raises:
        WeightsError: Weights are missing or have other shapes.
    """
    matched: dict[str, list[Array]] = {}
    for position, node in enumerate(graph.nodes):
        blobs: list[Array] = []
        for layer in (node.layer, node.affine):
            if layer is not None:
                blobs.extend(weights.get(layer.name, ()))
        expected = expected_weights(graph, position)
        if not expected:
            continue
        if not blobs:
            _raise_missing(graph, weights, node, where)
        shapes = [_squeezed(blob.shape) for blob in blobs]
        if shapes != [_squeezed(shape) for shape in expected]:
            found = [list(blob.shape) for blob in blobs]
            message = f"has weights {found} in layer '{node.layer.name}', where {[list(s) for s in expected]} is needed"
            raise WeightsError(message, where=where, hint=f"It belongs to another network than {graph.file.path.name}.")
        matched[node.name] = [blob.reshape(shape) for blob, shape in zip(blobs, expected, strict=True)]
    return matched


def _raise_missing(graph: CaffeGraph, weights: Mapping[str, Any], node: Node, where: str) -> None:
    names = [other.layer.name for index, other in enumerate(graph.nodes) if expected_weights(graph, index)]
    missing = sum(name not in weights for name in names)
    message = f"has no weights for layer '{node.layer.name}' ({missing} of {len(names)} layers are missing)"
    raise WeightsError(message, where=where, hint=f"It belongs to another network than {graph.file.path.name}.")


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without leading ones: old files store vectors as 1 x 1 x 1 x n."""
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        del sizes[0]
    return tuple(sizes)


def _size(shape: Sequence[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _connect(file: CaffeFile) -> tuple[list[Node], bool]:
    """The layers that compute something as nodes, and whether the network ends in class probabilities."""
    if not file.input:
        hint = "Give its deploy.prototxt, which has `input:` or a layer of type Input."
        raise ModelError("has no input for images in the TEST phase", where=str(file.path), hint=hint)
    if len(file.layers) > MAX_LAYERS:
        raise ModelError(f"has {len(file.layers)} layers; at most {MAX_LAYERS} are read", where=str(file.path))
    names = _Names()
    nodes = [Node(names.unique(file.input), CaffeLayer(file.input, "Input", (), (file.input,), None), ())]
    writers, classifies = {file.input: 0}, False
    for layer in file.layers:
        if layer.type.endswith("Loss") or layer.type in ("Softmax", "SoftmaxWithLoss"):
            classifies = True
        if layer.is_data or layer.type == "Input" or layer.type.endswith("Loss") or layer.type in _LOSSES:
            continue
        if layer.type == "SoftmaxWithLoss":
            continue
        if unknown := [bottom for bottom in layer.bottoms if bottom not in writers]:
            message = f"layer '{layer.name}' reads the blob '{unknown[0]}', which no layer before it writes"
            raise ModelError(message, where=file.where(layer.name))
        sources = tuple(writers[bottom] for bottom in layer.bottoms)
        if layer.type == "Split" and sources:
            writers.update(dict.fromkeys(layer.tops, sources[0]))
            continue
        if len(layer.tops) != 1 or not sources:
            message = f"layer '{layer.name}' ({layer.type}) has {len(sources)} inputs and {len(layer.tops)} outputs"
            raise ModelError(message, where=file.where(layer.name), hint="Layers with one output are supported.")
        nodes.append(Node(names.unique(layer.name or layer.tops[0]), layer, sources))
        writers[layer.tops[0]] = len(nodes) - 1
    return nodes, classifies


class _Names:
    """Gives each layer a unique name that Keras accepts and that no layer of a classifier has."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, name: str) -> str:
        plain = re.sub(r"[^0-9A-Za-z_.\-]", "_", name)[:80] or "layer"
        if plain.startswith(_RESERVED):
            plain = f"net_{plain}"
        candidate, number = plain, 1
        while candidate.lower() in self._taken:
            number += 1
            candidate = f"{plain}_{number}"
        self._taken.add(candidate.lower())
        return candidate


def _reachable(nodes: Sequence[Node], output: int) -> tuple[Node, ...]:
    """The nodes that the output depends on, and the input, with new positions; the output becomes the last."""
    needed, pending = {0}, [output]
    while pending:
        position = pending.pop()
        if position not in needed:
            needed.add(position)
            pending.extend(nodes[position].inputs)
    order = sorted(needed)
    moved = {old: new for new, old in enumerate(order)}
    kept = [replace(nodes[old], inputs=tuple(moved[source] for source in nodes[old].inputs)) for old in order]
    return tuple(kept)


def _input_shape(file: CaffeFile) -> tuple[int, int, int]:
    channels, height, width = file.input_shape
    if channels is None or height is None or width is None:
        hint = "Give its deploy.prototxt, or add `input_shape { dim: 1 dim: 3 dim: HEIGHT dim: WIDTH }`."
        raise ModelError("does not say the size of its input", where=str(file.path), hint=hint)
    if channels not in (1, 3) or not 0 < height <= 4096 or not 0 < width <= 4096:
        hint = "Networks for grey or RGB images of at most 4096 x 4096 pixels are supported."
        found = f"{channels} x {height} x {width}"
        raise ModelError(f"has an input of {found} (channels, height, width)", where=str(file.path), hint=hint)
    return channels, height, width


def _infer(file: CaffeFile, nodes: Sequence[Node], shape: tuple[int, int, int]) -> tuple[Shape, ...]:
    shapes: list[Shape] = [shape]
    for node in nodes[1:]:
        try:
            shapes.append(infer(node.layer, [shapes[source] for source in node.inputs]))
        except ModelError as error:
            message = f"layer '{node.layer.name}' ({node.layer.type[:40]}) {error.message}"
            raise ModelError(message, where=file.where(node.layer.name), hint=error.hint) from error
    return tuple(shapes)


def _cut(file: CaffeFile, nodes: Sequence[Node], shapes: Sequence[Shape], classifies: bool) -> int:
    """Position of the node at whose output the top is cut off."""
    position, has_weights = len(nodes) - 1, False
    while not _is_spatial(shapes[position]) or nodes[position].layer.type == "Softmax":
        node = nodes[position]
        below = list(dict.fromkeys(node.inputs))
        if len(below) != 1:
            if position == 0:
                return 0
            hint = "Remove the layers above its last feature map from the prototxt."
            message = f"cannot be cut: layer '{node.layer.name}' joins several outputs of one position"
            raise ModelError(message, where=file.where(node.layer.name), hint=hint)
        if _is_feature(node.layer, shapes[below[0]]):
            break
        has_weights = has_weights or bool(weight_shapes(node.layer, [shapes[below[0]]], shapes[position]))
        position = below[0]
    if classifies and not has_weights:
        position = _below_classifier(nodes, position)
    while nodes[position].layer.type == "Dropout":
        position = nodes[position].inputs[0]
    return position


def _is_spatial(shape: Shape) -> bool:
    return len(shape) == 3 and shape[1:] != (1, 1)


def _is_feature(layer: CaffeLayer, below: Shape) -> bool:
    """True for a convolution or pooling that moves over a map and happens to leave one position of it."""
    return _is_spatial(below) and layer.type in ("Convolution", "Pooling") and not is_global(layer, below)


def _below_classifier(nodes: Sequence[Node], position: int) -> int:
    """Position below the convolution that computes the classes; `position` itself if there is none."""
    current = position
    while nodes[current].layer.type in _ACTIVATIONS:
        current = nodes[current].inputs[0]
    return nodes[current].inputs[0] if nodes[current].layer.type == "Convolution" else position


def _fuse(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Join each BatchNorm with the Scale layer that alone reads it."""
    readers: dict[int, list[int]] = {}
    for position, node in enumerate(nodes):
        for source in node.inputs:
            readers.setdefault(source, []).append(position)
    target = list(range(len(nodes)))
    fused = list(nodes)
    for position, node in enumerate(nodes):
        reading = readers.get(position, [])
        if node.layer.type == "BatchNorm" and len(reading) == 1 and _is_plain_scale(nodes[reading[0]]):
            fused[position] = replace(node, affine=nodes[reading[0]].layer)
            target[reading[0]] = position
    moved = [replace(node, inputs=tuple(target[source] for source in node.inputs)) for node in fused]
    return _reachable(moved, target[-1])


def _is_plain_scale(node: Node) -> bool:
    return node.layer.type == "Scale" and len(node.inputs) == 1
