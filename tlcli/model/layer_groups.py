"""Layers and layer groups: names, sizes and costs as plain data, without Keras."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tlcli.errors import ModelError, did_you_mean

Pair = tuple[float, float]
"""Values along height and width."""


@dataclass(frozen=True)
class Layer:
    """A layer of a network, or an operation without weights.

    Attributes:
        name: Unique in its network.
        kind: Class name in Keras.
        inputs: Names of the layers whose outputs it reads.
        parameters: Number of values in its weights, moving statistics included.
        trainable_parameters: Number of values that training can change, whether the layer is frozen now or not.
        output_shape: Shape of its first output without the batch; None for an open size.
        batch_norms: Number of BatchNormalization layers in it: 0 or 1, or more for a nested model.
        flops: Multiply-adds for one image; see `graph.measure` for what is counted.
        output_count: Number of output tensors.
        stride: Distance of neighbouring output positions, pixels of the image along height and width; None if the
            output has no positions, or the distance is unknown.
        receptive_field: Height and width of the part of the image that one output position depends on, pixels; None as
            for `stride`.
        sees_all: True if the output depends on the whole image, possibly only through a gate.
        parts: The layers inside it; those of a nested model in their order.
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    parameters: int = 0
    trainable_parameters: int = 0
    output_shape: tuple[int | None, ...] = ()
    batch_norms: int = 0
    flops: int = 0
    output_count: int = 1
    stride: Pair | None = None
    receptive_field: tuple[int, int] | None = None
    sees_all: bool = False
    parts: tuple["Layer", ...] = ()

    @property
    def is_weighted(self) -> bool:
        """True if the layer has weights, trainable or not."""
        return self.parameters > 0

    def trained_parameters(self, *, norms: bool) -> int:
        """Number of values that training the layer changes; `norms=False` leaves out those of BatchNorm layers."""
        if norms or not self.batch_norms:
            return self.trainable_parameters
        return sum(part.trained_parameters(norms=False) for part in self.parts)

    @property
    def activation_bytes(self) -> int:
        """Bytes of the output for one image in float32; 0 for an open size."""
        return 0 if None in self.output_shape else 4 * math.prod(size or 0 for size in self.output_shape)


@dataclass(frozen=True)
class LayerGroup:
    """Layers that are frozen or trained together.

    Attributes:
        name: Unique in its network.
        layers: Its weighted layers in topological order, without their `inputs`.
        boundary: Name of the layer whose output ends the group.
        is_cut_point: True if the network can be cut above the group: every path from input to output passes the output
            of the boundary, or that of `second_output`.
        output_shape: Output shape of the boundary, without the batch.
        flops: Multiply-adds of all its layers for one image.
        members: All its layers in topological order, with and without weights; empty if unknown.
        second_output: A layer below the boundary whose output is also read above the group, as in NASNet, whose cells
            read the outputs of two cells; None if only the output of the boundary is read.
    """

    name: str
    layers: tuple[Layer, ...]
    boundary: str
    is_cut_point: bool
    output_shape: tuple[int | None, ...]
    flops: int
    members: tuple[Layer, ...] = ()
    second_output: Layer | None = None

    @property
    def cut_point(self) -> str:
        """The cut above the group, as `classifier.cut_at` accepts it: `BOUNDARY` or `BOUNDARY/SECOND_OUTPUT`."""
        return self.boundary if self.second_output is None else f"{self.boundary}/{self.second_output.name}"

    @property
    def end(self) -> Layer | None:
        """The layer at the boundary; None if the members are unknown."""
        return next((layer for layer in self.members if layer.name == self.boundary), None)

    @property
    def parameters(self) -> int:
        """Number of values in the weights, moving statistics included."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def trainable_parameters(self) -> int:
        """Number of values that training can change."""
        return sum(layer.trainable_parameters for layer in self.layers)

    @property
    def batch_norms(self) -> int:
        """Number of BatchNormalization layers."""
        return sum(layer.batch_norms for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes of the output for one image in float32; 0 for an open size."""
        return 0 if None in self.output_shape else 4 * math.prod(size or 0 for size in self.output_shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the outputs read above the group, for one image in float32; 0 for an open size."""
        if self.second_output is None:
            return self.activation_bytes
        sizes = (self.activation_bytes, self.second_output.activation_bytes)
        return sum(sizes) if all(sizes) else 0


@dataclass(frozen=True)
class LayerGroups:
    """The groups of a backbone from bottom to top. Every weighted layer belongs to exactly one group.

    Attributes:
        name: Name of the network.
        input_size: Height and width, pixels, for which shapes, FLOPs and bytes are given.
        groups: The groups from bottom to top.
    """

    name: str
    input_size: tuple[int, int]
    groups: tuple[LayerGroup, ...]

    def __post_init__(self) -> None:
        for kind, names in (("group", self.names), ("layer", [layer.name for layer in self.layers])):
            if repeated := [name for name, count in Counter(names).items() if count > 1]:
                raise ModelError(f"{kind} '{repeated[0]}' appears twice in the layer groups", where=self.name)

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
            hint=f"Groups: {shorten_names(self.names)}. {did_you_mean(name, self.names)}".strip(),
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
        """Number of parameters of the whole backbone."""
        return sum(group.parameters for group in self.groups)

    @property
    def trainable_parameters(self) -> int:
        """Number of parameters of the whole backbone that training can change."""
        return sum(group.trainable_parameters for group in self.groups)

    def group_of(self, layer: str) -> LayerGroup:
        """The group that contains a weighted layer.

        Raises:
            ModelError: No weighted layer has this name.
        """
        for group in self.groups:
            if any(member.name == layer for member in group.layers):
                return group
        hint = did_you_mean(layer, [member.name for member in self.layers])
        raise ModelError(f"no layer with weights '{layer}' in {self.name}", where="groups", hint=hint)

    def cut_below(self, trainable: Collection[str]) -> LayerGroup | None:
        """The highest group at a cut point that has no layer of `trainable` in it or below; None if there is none."""
        cut = None
        for group in self.groups:
            if any(layer.name in trainable for layer in group.layers):
                break
            cut = group if group.is_cut_point else cut
        return cut


def shorten_names(names: Sequence[str]) -> str:
    """Join group names: numbered runs become ranges, and the middle of a long list is left out.

    >>> shorten_names(["stem", "block1", "block2", "block3", "top"])
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
