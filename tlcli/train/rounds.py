"""What `auto` means for the unfreezing rounds of a phase: by the quality asked, the network's card and the images."""

from collections.abc import Mapping
from typing import Any

from tlcli.model.layer_groups import LayerGroups
from tlcli.recipe.phase import PhaseSpec
from tlcli.recipe.schema import Recipe
from tlcli.train import budget

# Training steps that a round has at least: it has more epochs with few images.
MIN_STEPS = 96
# Share of the layer groups that a round of `fast` adds, and that the rounds of `balanced` add, one by one.
FAST_STEP, BALANCED_STEPS = "30%", ["30%", "30%", "20%"]
# Fewest epochs of the second round of `balanced` and all later ones.
LONG_ROUND = 6
# More groups are expensive, and follow only if the round before lowered the loss by this share.
HALVED = 0.5


def resolve_rounds(recipe: Recipe, groups: LayerGroups, *, images: int, epochs: int) -> Recipe:
    """The recipe with values in place of `auto` in the rounds of its phases; docs/adr/018 has the measurements.

    `fast` trains the top for a few epochs. `balanced` then trains deeper layers for longer, if the first round showed a
    gain or the errors look learnable. Both train everything at once, round after round, where that takes seconds.

    Args:
        recipe: A recipe with a number in place of `batch: auto`.
        groups: The layer groups of the backbone.
        images: Number of training images.
        epochs: Fewest epochs of a round, from the network's card.
    """
    epochs = max(epochs, -(-MIN_STEPS // -(-images // recipe.performance.batch_size)))
    phases = [_resolve(phase, recipe.quality, groups, images=images, epochs=epochs) for phase in recipe.phases]
    return recipe.model_copy(update={"phases": phases})


def _resolve(phase: PhaseSpec, quality: str, groups: LayerGroups, *, images: int, epochs: int) -> PhaseSpec:
    is_cheap = budget.is_cheap(groups, images * (epochs if phase.epochs == "auto" else phase.max_epochs))
    values: Mapping[str, Any] = {
        "step": "all" if is_cheap else FAST_STEP,
        "epochs": epochs,
        "min_relative_gain": 0.0 if is_cheap else HALVED,
        "patience": 1,
        "after_rollback": "always",
    }
    if quality != "fast" and phase.is_gradual:
        values = {
            "step": "all" if is_cheap else BALANCED_STEPS,
            "epochs": [epochs, max(epochs, LONG_ROUND)],
            "min_relative_gain": 0.0 if is_cheap else [0.0, HALVED],
            "patience": [2, 1],
            "after_rollback": "if_learnable",
        }
    resolved = phase.fill_auto(values)
    return resolved.model_copy(update={"until": resolved.until.fill_auto(values)})
