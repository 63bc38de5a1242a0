"""Cut points: the layer outputs where a network may be cut into frozen and trained parts."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

from tlcli.errors import ModelError
from tlcli.model.groups import Layer


@dataclass(frozen=True)
class LayerGraph:
    """The layers of a network in topological order, and the one that gives its output."""

    layers: tuple[Layer, ...]
    output: str

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for layer in self.layers:
            if layer.name in seen or not seen.issuperset(layer.inputs):
                raise ModelError(f"the graph is not in topological order at layer '{layer.name}'", where="graph")
            seen.add(layer.name)
        if self.output not in seen:
            raise ModelError(f"the output '{self.output}' is not a layer of the graph", where="graph")

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of every layer by name."""
        return {layer.name: position for position, layer in enumerate(self.layers)}

    def __getitem__(self, name: str) -> Layer:
        return self.layers[self.index[name]]

    def upstream(self, name: str, stop: Collection[str] = ()) -> set[str]:
        """The layer and all it depends on, not going below the layers in `stop`."""
        found: set[str] = set()
        pending = [name]
        while pending:
            layer = pending.pop()
            if layer not in found and layer not in stop:
                found.add(layer)
                pending.extend(self[layer].inputs)
        return found


def cut_points(graph: LayerGraph) -> tuple[str, ...]:
    """Names of the layers whose output every path from an input to the output passes, bottom to top.

    A single input and the output itself count. Layers with several outputs do not: there is no one tensor to cut.
    """
    last_use = {graph.output: len(graph.layers)}
    for position, layer in enumerate(graph.layers):
        last_use.update(dict.fromkeys(layer.inputs, position))
    last_source = max(position for position, layer in enumerate(graph.layers) if not layer.inputs)
    found, needed_until = [], 0
    for position, layer in enumerate(graph.layers):
        # Only this layer's output is still needed above here, and no input comes in above it.
        if needed_until <= position and last_source <= position and layer.outputs == 1 and layer.name in last_use:
            found.append(layer.name)
        needed_until = max(needed_until, last_use.get(layer.name, 0))
    return tuple(found)


def find_second_output(graph: LayerGraph, boundary: str, below: Collection[str]) -> Layer | None:
    """The one layer besides the boundary whose output is read above all that is `below`; None if there are more."""
    above = [layer for layer in graph.layers if layer.name not in below]
    crossing = {name for layer in above for name in layer.inputs if name in below}
    others = [graph[name] for name in crossing - {boundary}]
    is_whole = len(crossing) == 2 and len(others) == 1 and all(layer.inputs for layer in above)
    if not is_whole or max(layer.outputs for layer in (graph[boundary], *others)) > 1:
        return None
    return replace(others[0], inputs=(), parts=())
