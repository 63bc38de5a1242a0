"""What `auto` means for the unfreezing rounds of a phase: by the quality asked, the network's card and the images."""

from collections.abc import Mapping
from typing import Any

from tlcli.model.layer_groups import LayerGroups
from tlcli.recipe.phase import PhaseSpec
from tlcli.recipe.schema import Recipe
from tlcli.train import budget

# Share of the layer groups that the first round adds, and likewise the second one of `balanced`.
ROUND = "30%"
# Training steps that a round has at least: it has more epochs with few images.
MIN_STEPS = 96
# Fewest epochs of the deep rounds of `balanced`.
LONG_ROUND = 8
# The gain that another round needs after an expensive one, as a share of the loss.
HALVED = 0.5


def resolve_rounds(recipe: Recipe, groups: LayerGroups, *, images: int, epochs: int) -> Recipe:
    """The recipe with values in place of `auto` in the rounds of its phases; docs/adr/016 has the measurements.

    Args:
        recipe: A recipe with a number in place of `batch: auto`.
        groups: The layer groups of the backbone.
        images: Number of training images.
        epochs: Fewest epochs of a round, from the network's card.
    """
    epochs = max(epochs, -(-MIN_STEPS // -(-images // recipe.performance.batch_size)))
    phases = [_resolve(phase, recipe, groups, images=images, epochs=epochs) for phase in recipe.phases]
    return recipe.model_copy(update={"phases": phases})


def _resolve(phase: PhaseSpec, recipe: Recipe, groups: LayerGroups, *, images: int, epochs: int) -> PhaseSpec:
    shortest = max(epochs, phase.max_epochs) if phase.epochs != "auto" else epochs
    is_cheap = budget.is_cheap(groups, images * shortest)
    if recipe.quality == "balanced" and phase.is_gradual and phase.step == "auto":
        values = _balanced(epochs, is_cheap=is_cheap)
    else:
        values = _fast(epochs, is_cheap=is_cheap)
    resolved = phase.fill_auto(values)
    return resolved.model_copy(update={"until": resolved.until.fill_auto(values)})


def _fast(epochs: int, *, is_cheap: bool) -> Mapping[str, Any]:
    """Short rounds: of everything if that takes seconds, else of the top, and a deeper one only after a halved loss."""
    return {
        "step": "all" if is_cheap else ROUND,
        "epochs": epochs,
        "min_relative_gain": 0.0 if is_cheap else HALVED,
        "patience": 1,
        "since": "round",
        "cut_short": False,
    }


def _balanced(epochs: int, *, is_cheap: bool) -> Mapping[str, Any]:
    """A short round of the top, whose validation loss decides whether a long and deeper one follows, and so on."""
    return {
        "step": [ROUND, ROUND, "all"],
        "epochs": [epochs, max(epochs, LONG_ROUND)],
        "min_relative_gain": [0.0, 0.0 if is_cheap else HALVED],
        "patience": 2,
        "since": "phase",
        "cut_short": True,
    }
