"""Cut points: the layers whose output is all that the network above needs.

A layer is a cut point if every path from an input to the output of the network passes its output. The network can then
be split there into two parts: a frozen lower part, whose outputs are computed once and stored, and a trained upper part
that reads nothing but these outputs. In a residual network the outputs of whole blocks are cut points, and the layers
inside a block are not, because the shortcut bypasses them.

In some networks two outputs are needed above every block: each cell of NASNet reads the outputs of the two cells below
it. `find_second_output` finds the other output, and both are stored together.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

from tlcli.errors import ModelError
from tlcli.model.layer_groups import Layer


@dataclass(frozen=True)
class LayerGraph:
    """The layers of a network in topological order.

    Attributes:
        layers: Every layer after all layers it reads.
        output: Name of the layer that computes the output of the network.
    """

    layers: tuple[Layer, ...]
    output: str

    def __post_init__(self) -> None:
        names: set[str] = set()
        for layer in self.layers:
            if layer.name in names or not names.issuperset(layer.inputs):
                raise ModelError(f"the graph is not in topological order at layer '{layer.name}'", where="graph")
            names.add(layer.name)
        if self.output not in names:
            raise ModelError(f"the output '{self.output}' is not a layer of the graph", where="graph")

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of every layer by name."""
        return {layer.name: position for position, layer in enumerate(self.layers)}

    def __getitem__(self, name: str) -> Layer:
        return self.layers[self.index[name]]

    def upstream(self, name: str, stop: Collection[str] = ()) -> set[str]:
        """Names of the layer and of all layers it depends on; the search ends at the layers in `stop`."""
        names: set[str] = set()
        pending = [name]
        while pending:
            layer = pending.pop()
            if layer not in names and layer not in stop:
                names.add(layer)
                pending.extend(self[layer].inputs)
        return names


def find_cut_points(graph: LayerGraph) -> tuple[str, ...]:
    """Names of the cut points, bottom to top: every path from an input to the output passes their output.

    A single input and the output layer are cut points themselves. A layer with several output tensors is not, because
    there is no single tensor to cut.
    """
    last_use = {graph.output: len(graph.layers)}
    for position, layer in enumerate(graph.layers):
        last_use.update(dict.fromkeys(layer.inputs, position))
    last_source = max(position for position, layer in enumerate(graph.layers) if not layer.inputs)
    names, needed_until = [], 0
    for position, layer in enumerate(graph.layers):
        # No earlier output is read above this layer, and no input enters above it.
        is_passed = needed_until <= position and last_source <= position and layer.name in last_use
        if is_passed and layer.output_count == 1:
            names.append(layer.name)
        needed_until = max(needed_until, last_use.get(layer.name, 0))
    return tuple(names)


def find_second_output(graph: LayerGraph, boundary: str, below: Collection[str]) -> Layer | None:
    """The only other layer whose output is read above, if the boundary is not a cut point.

    Args:
        graph: The network.
        boundary: The layer at whose output the network is cut.
        below: Names of all layers below the cut, the boundary included.

    Returns:
        The layer in `below` that is read above besides the boundary; None if the network above reads more than these
        two outputs, has an input of its own, or one of the two layers has several output tensors.
    """
    above = [layer for layer in graph.layers if layer.name not in below]
    crossing = {name for layer in above for name in layer.inputs if name in below}
    others = [graph[name] for name in crossing - {boundary}]
    is_complete = len(crossing) == 2 and len(others) == 1 and all(layer.inputs for layer in above)
    if not is_complete or max(layer.output_count for layer in (graph[boundary], *others)) > 1:
        return None
    return replace(others[0], inputs=(), parts=())
