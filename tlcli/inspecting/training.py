"""What a selection would train, after the BatchNorm policy, and what each further group would cost."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tlcli.inspecting.target import Target
from tlcli.model.groups import Layer, LayerGroup, LayerGroups
from tlcli.model.selection import Selection, select
from tlcli.recipe.schema import AugmentSpec, Recipe
from tlcli.recipe.spec import BatchNormPolicy
from tlcli.train import cost, footing, plan


@dataclass(frozen=True)
class Trained:
    """A selection as it would take effect.

    Attributes:
        selection: The layers that were chosen.
        batch_norm: What BatchNorm of chosen layers does.
        recipe: What else decides about memory and storing: batch, cache, head.
    """

    groups: LayerGroups
    selection: Selection
    batch_norm: BatchNormPolicy
    recipe: Recipe

    def parameters(self, layers: Collection[Layer]) -> int:
        """Parameters of these layers that would change."""
        has_norms = self.batch_norm != "frozen"
        return sum(layer.trained_parameters(norms=has_norms) for layer in layers if layer.name in self.selection.layers)

    def state(self, group: LayerGroup) -> str:
        """`trained`, `partly` or `frozen`, by the parameters that would change."""
        changing = self.parameters(group.layers)
        if not changing:
            return "frozen"
        has_norms = self.batch_norm != "frozen"
        could = sum(layer.trained_parameters(norms=has_norms) for layer in group.layers)
        return "trained" if changing == could else "partly"

    def norm_mode(self, layers: Collection[Layer]) -> str | None:
        """What BatchNorm among these layers would do: a policy's name, `mixed`, or None where there is none."""
        modes = {self._mode(layer) for layer in layers if layer.batch_norms}
        return None if not modes else modes.pop() if len(modes) == 1 else "mixed"

    def _mode(self, layer: Layer) -> str:
        return self.batch_norm if layer.name in self.selection.layers else "frozen"

    @property
    def batch(self) -> int:
        """Images a step; where the recipe leaves that to their number, what it takes with many."""
        return 32 if self.recipe.performance.batch == "auto" else self.recipe.performance.batch

    @cached_property
    def head_parameters(self) -> int:
        """Of a head for one class."""
        return plan.head_parameters_of(self.recipe.head, self.groups, 1)

    def to_json(self) -> dict[str, Any]:
        """The `training` part of `tlcli inspect --format json`."""
        chosen = self._costs(self.selection.layers)
        return {
            "selection": self.selection.text,
            "batch_norm": self.batch_norm,
            "batch": self.batch,
            "head": self.selection.head,
            "head_parameters_per_class": self.head_parameters,
            **chosen,
            "depths": [self._depth(count) for count in range(len(self.groups) + 1)],
        }

    def _depth(self, count: int) -> dict[str, Any]:
        """The costs of training so many groups from the top."""
        groups = self.groups.groups[len(self.groups) - count :]
        layers = frozenset(layer.name for group in groups for layer in group.layers)
        return {
            "train": f"top:{count}" if count else "head",
            "from": groups[0].name if groups else "head",
            "is_selection": layers == self.selection.layers,
            **self._costs(layers),
        }

    def _costs(self, layers: frozenset[str]) -> dict[str, Any]:
        place = footing.of_step(self._plain, self._plain.phases[0], layers, self.groups, footing.Counts(1, 1))
        below = self.groups.names.index(place.group.name) + 1 if place.group else 0
        frozen, above = (
            sum(group.flops for group in part) for part in (self.groups.groups[:below], self.groups.groups[below:])
        )
        # An epoch of training everything, from the pixels.
        whole = max(cost.epoch_flops(0, frozen + above, train=1, val=0, stored=False), 1)
        memory = cost.memory_bytes(
            self.groups, layers, batch=self.batch, stored=place.is_stored, batch_norm=self.batch_norm
        )
        return {
            "trained_parameters": plan.trained_parameters(self.groups, layers, batch_norm=self.batch_norm),
            "frontier": place.name,
            "stored_bytes": place.bytes,
            "memory_bytes": memory,
            "epoch_cached": cost.epoch_flops(frozen, above, train=1, val=0, stored=place.is_stored) / whole,
            "epoch_uncached": cost.epoch_flops(frozen, above, train=1, val=0, stored=False) / whole,
        }

    @cached_property
    def _plain(self) -> Recipe:
        """One rendering of each image: what is stored of it."""
        return self.recipe.model_copy(update={"augment": AugmentSpec(preset="none")})


def of(target: Target, selection: str, batch_norm: BatchNormPolicy | None) -> Trained:
    """A selection on what is looked at. `batch_norm`: None for what the network's card asks for.

    Raises:
        ModelError: If the selection matches nothing.
    """
    chosen = select(selection, target.groups, where="--train")
    return Trained(target.groups, chosen, batch_norm or target.card.fine_tuning.batch_norm, target.recipe)
