"""Rough estimates of a run before it begins: memory, disk space and time."""

from dataclasses import dataclass

from tlcli.data.split import Splits
from tlcli.features import placement
from tlcli.model.layer_groups import LayerGroups
from tlcli.recipe import fields
from tlcli.recipe.schema import Recipe
from tlcli.train import budget
from tlcli.train.budget import DEFAULT_FLOPS_PER_SECOND
from tlcli.train.policy import selection_of, steps_of

# Estimated seconds of a run besides its multiply-adds.
BASE_S = 8.0
# Multiply-adds per second of training on two cores: 4e10 with MobileNetV2 0.35, 5e10 with EfficientNet-Lite0, at 224.
TRAINED_FLOPS_PER_SECOND = 5e10


@dataclass(frozen=True)
class Estimates:
    """Rough estimates of a run: peak memory, bytes written to the caches, and seconds."""

    memory_bytes: int
    cache_bytes: int
    seconds: float


def estimate(
    recipe: Recipe, size: tuple[int, int], groups: LayerGroups, splits: Splits, *, stored_bytes: int
) -> Estimates:
    """Estimate a run on a small CPU: one pass over all images, then the epochs of every phase.

    Args:
        recipe: A recipe without `auto` in its phases.
        size: Input height and width, pixels.
        groups: The layer groups of the backbone.
        splits: The images.
        stored_bytes: Size of the stored features of all steps.
    """
    counts = placement.count_images(splits)
    seconds = BASE_S + counts.images * sum(group.flops for group in groups) / DEFAULT_FLOPS_PER_SECOND
    seconds += trained_flops(recipe, groups, counts, len(splits.val)) / TRAINED_FLOPS_PER_SECOND
    features = min(stored_bytes, fields.bytes_of(recipe.performance.cache_budget))
    return Estimates(
        memory_bytes=max(_phase_memory(recipe, index, groups) for index in range(len(recipe.phases))),
        cache_bytes=counts.images * size[0] * size[1] * 3 + features,
        seconds=round(seconds, 1),
    )


def trained_flops(recipe: Recipe, groups: LayerGroups, counts: placement.ImageCounts, val: int) -> float:
    """Multiply-adds of all phases, without the first pass over the images."""
    return sum(_phase_flops(recipe, index, groups, counts, val) for index in range(len(recipe.phases)))


def stored_bytes(recipe: Recipe, groups: LayerGroups, counts: placement.ImageCounts) -> int:
    """Bytes of the pooled features of all images, and of the stored features of all steps."""
    stored = {0: 4 * recipe.head.pooled_channels(groups.groups[-1].output_shape) * counts.images}
    for index, phase in enumerate(recipe.phases):
        for step in steps_of(phase, index, groups):
            placed = placement.placement_of(recipe, step.epochs, step.layers, groups, counts)
            if placed.is_stored and not placed.is_pooled and placed.group:
                stored[groups.names.index(placed.group.name) + 1] = placed.bytes
    return sum(stored.values())


def _phase_memory(recipe: Recipe, index: int, groups: LayerGroups) -> int:
    """Peak memory of a phase, bytes; of a gradual one, that of its last round."""
    phase = recipe.phases[index]
    return budget.memory_bytes(
        groups,
        selection_of(phase, groups).layers,
        batch=recipe.performance.batch_size,
        stored=recipe.performance.cache != "off",
        batch_norm=phase.batch_norm_policy,
    )


def _phase_flops(recipe: Recipe, index: int, groups: LayerGroups, counts: placement.ImageCounts, val: int) -> float:
    """Multiply-adds of a phase.

    A gradual phase is assumed to stop after half of its rounds, or where another one needs a minimum gain.
    """
    phase, total = recipe.phases[index], 0.0
    steps = steps_of(phase, index, groups)
    likely = next((step.number + 1 for step in steps if phase.until.relative_gain_after(step.number) > 0), None)
    for step in steps[: likely if phase.is_gradual and likely else max(1, len(steps) // 2)]:
        placed = placement.placement_of(recipe, step.epochs, step.layers, groups, counts)
        cut = groups.names.index(placed.group.name) + 1 if placed.group else 0
        below, above = (sum(group.flops for group in part) for part in (groups.groups[:cut], groups.groups[cut:]))
        if placed.is_stored:
            total += (placed.views - 1) * counts.train * below
        # The classifiers of k folds train on k - 1 folds each, and the final one on all of them.
        repeated = recipe.data.folds or 1
        total += (
            repeated
            * step.epochs
            * budget.epoch_flops(below, above, train=counts.train, val=val, stored=placed.is_stored)
        )
    return total
