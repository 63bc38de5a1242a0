"""From a network's graph to its layer groups: ordered, total, disjoint, cut where training can be cut.

Nothing here knows Keras: a graph is a list of named layers with their inputs, made by `graph.measure`.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tlcli.errors import ModelError, did_you_mean
from tlcli.model import blocks
from tlcli.model.patterns import last_matches
from tlcli.model.receptive import Pair
from tlcli.zoo.card import GroupPattern

FEWEST, MOST = 4, 30
"""How many groups a network without patterns of its own should get, where it allows."""

Boundary = tuple[str, str]
"""Group name and the layer whose output ends the group."""


@dataclass(frozen=True)
class Layer:
    """One layer, or operation without weights, of a network.

    Attributes:
        inputs: Names of the layers whose output this one reads.
        parameters: Numbers in its weights, moving statistics included.
        trainable_parameters: Those of them that training could change, frozen at the moment or not.
        output_shape: Of its first output, without the batch; None where the network leaves a size open.
        batch_norms: BatchNormalization layers in it: 0 or 1, more for a nested model.
        flops: Multiplications, each with its addition, for one image; see `graph.measure` for what is counted.
        outputs: How many tensors it gives.
        stride: Pixels of the picture from one place of its output to the next, along height and width; None where
            that has no places, or it is not known.
        receptive_field: Height and width of what one place sees of the picture, pixels; None likewise.
        sees_all: Whether its output depends on the whole picture, perhaps only by way of a gate.
        parts: The layers inside it, of a nested model in order.
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    parameters: int = 0
    trainable_parameters: int = 0
    output_shape: tuple[int | None, ...] = ()
    batch_norms: int = 0
    flops: int = 0
    outputs: int = 1
    stride: Pair | None = None
    receptive_field: tuple[int, int] | None = None
    sees_all: bool = False
    parts: tuple["Layer", ...] = ()

    @property
    def is_weighted(self) -> bool:
        """Whether it has weights, trainable or not."""
        return self.parameters > 0

    def trained_parameters(self, *, norms: bool) -> int:
        """Parameters that training the layer changes; without `norms` those of BatchNorm in it stay as they are."""
        if norms or not self.batch_norms:
            return self.trainable_parameters
        return sum(part.trained_parameters(norms=False) for part in self.parts)

    @property
    def activation_bytes(self) -> int:
        """Bytes of its output for one image in float32; 0 where the network leaves a size open."""
        return 0 if None in self.output_shape else 4 * math.prod(size or 0 for size in self.output_shape)


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


@dataclass(frozen=True)
class LayerGroup:
    """Layers frozen or trained together.

    Attributes:
        layers: Its weighted layers in topological order, without their inputs.
        boundary: The layer whose output ends the group.
        is_frontier: Whether training can be cut there: every path from input to output passes that output, or one
            other, which is then `beside`.
        output_shape: Of the boundary, without the batch.
        flops: Multiply-adds of all its layers for one image.
        members: All its layers in topological order, those without weights too; empty where they are not known.
        beside: The layer below the boundary whose output is read above it, too, as NASNet's cells read two; None where
            the boundary's is enough.
    """

    name: str
    layers: tuple[Layer, ...]
    boundary: str
    is_frontier: bool
    output_shape: tuple[int | None, ...]
    flops: int
    members: tuple[Layer, ...] = ()
    beside: Layer | None = None

    @property
    def cut(self) -> str:
        """The layers at whose outputs training is cut above the group, as `tlcli.model.cut` takes them."""
        return self.boundary if self.beside is None else f"{self.boundary}/{self.beside.name}"

    @property
    def end(self) -> Layer | None:
        """The layer at its boundary, where it is known."""
        return next((layer for layer in self.members if layer.name == self.boundary), None)

    @property
    def parameters(self) -> int:
        """Numbers in its weights, moving statistics included."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def trainable_parameters(self) -> int:
        """Those of its parameters that training could change."""
        return sum(layer.trainable_parameters for layer in self.layers)

    @property
    def batch_norms(self) -> int:
        """BatchNormalization layers in it."""
        return sum(layer.batch_norms for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes of its output for one image in float32; 0 where the network leaves a size open."""
        return 0 if None in self.output_shape else 4 * math.prod(size or 0 for size in self.output_shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all that is read above it, for one image in float32; 0 where the network leaves a size open."""
        if self.beside is None:
            return self.activation_bytes
        sizes = (self.activation_bytes, self.beside.activation_bytes)
        return sum(sizes) if all(sizes) else 0


@dataclass(frozen=True)
class LayerGroups:
    """The groups of a backbone from bottom to top. Every weighted layer is in exactly one.

    Attributes:
        name: Of the model.
        input_size: Height and width the shapes, FLOPs and bytes hold for, pixels.
    """

    name: str
    input_size: tuple[int, int]
    groups: tuple[LayerGroup, ...]

    def __post_init__(self) -> None:
        for what, names in (("group", self.names), ("layer", [layer.name for layer in self.layers])):
            if doubled := [name for name, count in Counter(names).items() if count > 1]:
                raise ModelError(f"{what} '{doubled[0]}' comes twice in the groups", where=self.name)

    def __iter__(self) -> Iterator[LayerGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> LayerGroup:
        for group in self.groups:
            if group.name == name:
                return group
        raise ModelError(
            f"no layer group '{name}' in {self.name}",
            where="groups",
            hint=f"Groups: {listing(self.names)}. {did_you_mean(name, self.names)}".strip(),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Group names from bottom to top."""
        return tuple(group.name for group in self.groups)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All weighted layers from bottom to top."""
        return tuple(layer for group in self.groups for layer in group.layers)

    @property
    def parameters(self) -> int:
        """Parameters of the whole backbone."""
        return sum(group.parameters for group in self.groups)

    @property
    def trainable_parameters(self) -> int:
        """Parameters of the whole backbone that training could change."""
        return sum(group.trainable_parameters for group in self.groups)

    def group_of(self, layer: str) -> LayerGroup:
        """The group a weighted layer is in.

        Raises:
            ModelError: There is no such weighted layer.
        """
        for group in self.groups:
            if any(member.name == layer for member in group.layers):
                return group
        hint = did_you_mean(layer, [member.name for member in self.layers])
        raise ModelError(f"no layer with weights '{layer}' in {self.name}", where="groups", hint=hint)

    def cut_below(self, trainable: Collection[str]) -> LayerGroup | None:
        """The highest group that ends at a frontier and has, down to the input, none of the layers `trainable`."""
        cut = None
        for group in self.groups:
            if any(layer.name in trainable for layer in group.layers):
                break
            cut = group if group.is_frontier else cut
        return cut


def frontiers(graph: LayerGraph) -> tuple[str, ...]:
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


def assign(
    graph: LayerGraph, patterns: Sequence[GroupPattern], *, name: str, input_size: tuple[int, int]
) -> LayerGroups:
    """Cut a network into layer groups.

    A layer belongs to the first pattern it matches; the last layer of a group name in topological order ends the
    group. Where that is no frontier the boundary moves up to the next one, if there is one before the next group
    ends; else training is cut there if only one other output is read above. Every weighted layer is in the first group
    whose boundary depends on it. The last group ends at the output;
    weighted layers that no pattern covers up there become a group `top`. Without patterns, groups come from the
    frontiers alone.

    Raises:
        ModelError: A pattern matches nothing or is no regular expression, or a group would have no weights.
    """
    cuts = frontiers(graph)
    boundaries = _from_patterns(graph, patterns, cuts) if patterns else _from_frontiers(graph, cuts)
    groups, taken = [], set[str]()
    for group, boundary in boundaries:
        members = graph.upstream(boundary, stop=taken)
        taken |= members
        found = _group(graph, (group, boundary), members, is_frontier=boundary in cuts)
        beside = None if found.is_frontier else _beside(graph, boundary, taken)
        groups.append(replace(found, is_frontier=True, beside=beside) if beside else found)
    return LayerGroups(name, input_size, tuple(groups))


def _beside(graph: LayerGraph, boundary: str, below: Collection[str]) -> Layer | None:
    """The one layer besides the boundary whose output is read above all that is `below`; None if there are more."""
    above = [layer for layer in graph.layers if layer.name not in below]
    crossing = {name for layer in above for name in layer.inputs if name in below}
    others = [graph[name] for name in crossing - {boundary}]
    is_whole = len(crossing) == 2 and len(others) == 1 and all(layer.inputs for layer in above)
    if not is_whole or max(layer.outputs for layer in (graph[boundary], *others)) > 1:
        return None
    return replace(others[0], inputs=(), parts=())


def listing(names: Sequence[str]) -> str:
    """Group names in short: runs of numbers are drawn together, long lists lose their middle.

    >>> listing(["stem", "block1", "block2", "block3", "top"])
    'stem, block1 … block3, top'
    """
    parts: list[str] = []
    for run in _runs(names):
        parts += [f"{run[0]} … {run[-1]}"] if len(run) > 2 else run
    return ", ".join(parts if len(parts) <= 12 else [*parts[:6], "…", *parts[-5:]])


def _runs(names: Iterable[str]) -> list[list[str]]:
    runs: list[list[str]] = []
    expected = ""
    for name in names:
        runs[-1].append(name) if name == expected else runs.append([name])
        number = re.search(r"\d+$", name)
        expected = f"{name[: number.start()]}{int(number[0]) + 1}" if number else ""
    return runs


def _group(graph: LayerGraph, boundary: Boundary, members: Collection[str], *, is_frontier: bool) -> LayerGroup:
    inside = tuple(replace(layer, inputs=()) for layer in graph.layers if layer.name in members)
    return LayerGroup(
        name=boundary[0],
        layers=tuple(layer for layer in inside if layer.is_weighted),
        boundary=boundary[1],
        is_frontier=is_frontier,
        output_shape=graph[boundary[1]].output_shape,
        flops=sum(layer.flops for layer in inside),
        members=inside,
    )


def _from_patterns(graph: LayerGraph, patterns: Sequence[GroupPattern], cuts: Sequence[str]) -> list[Boundary]:
    names = [layer.name for layer in graph.layers]
    found = sorted(last_matches(names, patterns).items(), key=lambda item: item[1])
    limits = [position for _, position in found[1:]] + [len(graph.layers)]
    positions = sorted(graph.index[cut] for cut in cuts)
    boundaries = []
    for (group, position), limit in zip(found, limits, strict=True):
        onward = next((cut for cut in positions if position <= cut < limit), position)
        boundaries.append((group, graph.layers[onward].name))
    *below, (last, boundary) = boundaries
    above = {layer.name for layer in graph.layers if layer.is_weighted} - graph.upstream(boundary)
    if above and last != "top":
        return [*boundaries, ("top", graph.output)]
    return [*below, (last, graph.output)]


def _from_frontiers(graph: LayerGraph, cuts: Sequence[str]) -> list[Boundary]:
    ends = [*cuts, graph.output] if graph.output not in cuts else cuts
    taken: set[str] = set()
    stretches = []
    for below, end in zip([None, *ends], ends, strict=False):
        members = graph.upstream(end, stop=taken)
        taken |= members
        stretches.append(
            blocks.Stretch(
                parameters=sum(graph[member].parameters for member in members),
                merges=below is not None and graph[end].inputs != (below,),
                shrinks=below is not None and _area(graph[end]) < _area(graph[below]),
            )
        )
    chosen = [ends[position] for position in blocks.choose(stretches, fewest=FEWEST, most=MOST)]
    names = ["stem", *(f"block{number}" for number in range(1, len(chosen) - 1)), "top"]
    return list(zip(names[-len(chosen) :], chosen, strict=True))


def _area(layer: Layer) -> float:
    """Positions of its output; infinite where it is no map or the network leaves its size open."""
    sizes = layer.output_shape[:-1]
    return math.prod(size or math.inf for size in sizes) if len(sizes) > 1 else math.inf
