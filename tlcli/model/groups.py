"""Layers and layer groups: plain measurements, without Keras."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tlcli.errors import ModelError, did_you_mean

Pair = tuple[float, float]
"""Along the height and the width."""


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
class LayerGroup:
    """Layers frozen or trained together.

    Attributes:
        layers: Its weighted layers in topological order, without their inputs.
        boundary: The layer whose output ends the group.
        is_cut_point: Whether training can be cut there: every path from input to output passes that output, or one
            other, which is then `beside`.
        output_shape: Of the boundary, without the batch.
        flops: Multiply-adds of all its layers for one image.
        members: All its layers in topological order, those without weights too; empty where they are not known.
        second_output: The layer below the boundary whose output is read above it, too, as NASNet's cells read two; None where
            the boundary's is enough.
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
    def cut(self) -> str:
        """The layers at whose outputs training is cut above the group, as `tlcli.model.cut` takes them."""
        return self.boundary if self.second_output is None else f"{self.boundary}/{self.second_output.name}"

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
        if self.second_output is None:
            return self.activation_bytes
        sizes = (self.activation_bytes, self.second_output.activation_bytes)
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
            cut = group if group.is_cut_point else cut
        return cut


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
