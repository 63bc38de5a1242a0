"""Where the features of a step are stored: at which cut point, and how many views. Pure."""

from collections.abc import Collection
from dataclasses import dataclass

from tlcli.data.split import Splits
from tlcli.model.groups import LayerGroup, LayerGroups
from tlcli.recipe.fields import bytes_of
from tlcli.recipe.phase import PhaseSpec
from tlcli.recipe.schema import AugmentSpec, Recipe

# Renderings of each image where the recipe leaves it open, in steps of so many epochs; see docs/adr/010.
AUTO_VIEWS, EPOCHS_PER_VIEW = 2, 5


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """Images in all splits together, and those that are trained on."""

    images: int
    train: int


@dataclass(frozen=True, slots=True)
class Placement:
    """What a step is trained on.

    Attributes:
        group: The last group below the frontier; None where training begins at the pixels.
        pooled: Whether the frontier is the pooled features, above all groups.
        views: Stored renderings of each training image, the first of them plain; 0: nothing is stored, every batch
            is computed from the pixels.
        bytes: What all of them take on disk.
        why: In a few words, where it is not what was asked for.
    """

    group: LayerGroup | None
    pooled: bool
    views: int
    bytes: int
    why: str = ""

    @property
    def name(self) -> str:
        """The frontier for people: the group's name, `pooled` or `pixels`."""
        return "pooled" if self.pooled else self.group.name if self.group else "pixels"

    @property
    def is_stored(self) -> bool:
        """Whether outputs of the layers below the frontier are computed once and stored."""
        return self.views > 0


def counts_of(splits: Splits) -> ImageCounts:
    """The numbers that footings depend on."""
    return ImageCounts(len(splits.train) + len(splits.val) + len(splits.test), len(splits.train))


def placement_of(
    recipe: Recipe, phase: PhaseSpec, trained: Collection[str], groups: LayerGroups, counts: ImageCounts
) -> Placement:
    """Where a step begins that trains the layers `trained` of the backbone and the head.

    As high as it can: at the pooled features where only the head is trained, else below the lowest trained group. If
    that frontier takes more than the budget, at a lower one that takes less, then with fewer renderings, then live.
    """
    cut = groups.cut_below(trained)
    pooled = not trained
    if recipe.performance.cache == "off":
        return Placement(cut, False, 0, 0)
    if cut is None:
        is_frozen = not any(layer.name in trained for layer in groups.groups[0].layers)
        return Placement(None, False, 0, 0, "the network cannot be cut below what is trained" if is_frozen else "")
    if recipe.augment.mixup:
        return Placement(cut, False, 0, 0, "mixup mixes pixels, so that nothing can be stored")
    wanted = stored_views(recipe.augment, phase, is_head=pooled)
    if wanted == 0:
        return Placement(cut, False, 0, 0)
    budget = bytes_of(recipe.performance.cache_budget)
    if pooled and (size := _stored(4 * _channels(recipe, cut), wanted, counts)) <= budget:
        return Placement(cut, True, wanted, size)
    candidates = [group for group in groups if group.is_cut_point and group.stored_bytes]
    candidates = list(reversed(candidates[: candidates.index(cut) + 1])) if cut in candidates else []
    for fewer in range(wanted, min(wanted, 2) - 1, -1):
        for group in candidates:
            size = _stored(group.stored_bytes, fewer, counts)
            if size <= budget:
                why = f"{wanted} views take more than the budget" if fewer < wanted else ""
                return Placement(group, False, fewer, size, why)
    return Placement(cut, False, 0, 0, f"stored activations take more than {recipe.performance.cache_budget}")


def stored_views(augment: AugmentSpec, phase: PhaseSpec, *, is_head: bool) -> int:
    """How many renderings of each image are stored; 0 for none at all, when every epoch draws its own.

    Without augmentation one. A linear head gains nothing from a few renderings more, so it is given the plain one, and
    so are steps of a few epochs. More renderings than epochs would not be seen.
    """
    if augment.preset == "none":
        return 1
    if augment.views == "live":
        return 0
    if augment.views == "auto":
        return 1 if is_head or phase.max_epochs < EPOCHS_PER_VIEW else AUTO_VIEWS
    return max(1, min(augment.views, phase.max_epochs))


def _stored(row_bytes: int, views: int, counts: ImageCounts) -> int:
    """The plain rendering is stored of all images, since scoring needs it; the others of training images only."""
    return row_bytes * (counts.images + (views - 1) * counts.train)


def _channels(recipe: Recipe, top: LayerGroup) -> int:
    return int(top.output_shape[-1] or 0) * (2 if recipe.head.pooling == "avg_max" else 1)
