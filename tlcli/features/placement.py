"""Placement: at which cut point the features of a step are stored, and in how many views. Pure, without Keras."""

from collections.abc import Collection
from dataclasses import dataclass

from tlcli.data.split import Splits
from tlcli.model.layer_groups import LayerGroup, LayerGroups
from tlcli.recipe.augment import AugmentSpec
from tlcli.recipe.fields import bytes_of
from tlcli.recipe.schema import Recipe

# `augment.views: auto` stores this many views of each image, in steps of at least this many epochs; see docs/adr/010.
AUTO_VIEWS, MIN_EPOCHS = 2, 5


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """Number of images.

    Attributes:
        images: In all splits together.
        train: In the training split.
    """

    images: int
    train: int


@dataclass(frozen=True, slots=True)
class Placement:
    """The cut point at which training of a step starts, and what is stored there.

    Attributes:
        group: The group below the cut point; None if training starts at the pixels.
        is_pooled: True if the cut point is the pooled features, above all groups.
        views: Number of stored views of each training image, the plain one first; 0 if nothing is stored and every
            batch is computed from the pixels.
        bytes: Disk space of all stored views.
        reason: Why fewer views are stored than the recipe asks for; empty if there is nothing to explain.
    """

    group: LayerGroup | None
    is_pooled: bool
    views: int
    bytes: int
    reason: str = ""

    @property
    def name(self) -> str:
        """The cut point in tables: the name of the group below it, `pooled` or `pixels`."""
        return "pooled" if self.is_pooled else self.group.name if self.group else "pixels"

    @property
    def is_stored(self) -> bool:
        """True if the features at the cut point are computed once and stored."""
        return self.views > 0


def count_images(splits: Splits) -> ImageCounts:
    """The image counts of a split."""
    return ImageCounts(len(splits.train) + len(splits.val) + len(splits.test), len(splits.train))


def placement_of(
    recipe: Recipe, epochs: int, trained: Collection[str], groups: LayerGroups, counts: ImageCounts
) -> Placement:
    """The placement of a step of some epochs that trains the backbone layers `trained` and the head.

    Features are stored as high in the network as possible: at the pooled features if only the head is trained, else at
    the highest cut point below the lowest trained layer. If these exceed the cache budget, a lower cut point with
    smaller outputs is chosen, then fewer views, then none.
    """
    highest = groups.cut_below(trained)
    is_head = not trained
    if recipe.performance.cache == "off":
        return _not_stored(highest)
    if highest is None:
        is_frozen = not any(layer.name in trained for layer in groups.groups[0].layers)
        return _not_stored(None, "the network has no cut point below the trained layers" if is_frozen else "")
    if recipe.augment.mixes:
        name = "CutMix" if recipe.augment.cutmix else "mixup"
        return _not_stored(highest, f"{name} mixes pixels, so features cannot be stored")
    views = stored_views(recipe.augment, epochs, is_head=is_head)
    if views == 0:
        return _not_stored(highest)
    budget = bytes_of(recipe.performance.cache_budget)
    if (
        is_head
        and (size := _stored_bytes(4 * recipe.head.pooled_channels(highest.output_shape), views, counts)) <= budget
    ):
        return Placement(highest, True, views, size)
    placement = _within_budget(groups, highest, views, counts, budget)
    return placement or _not_stored(
        highest, f"the features exceed the cache budget of {recipe.performance.cache_budget}"
    )


def _not_stored(group: LayerGroup | None, reason: str = "") -> Placement:
    return Placement(group, False, 0, 0, reason)


def _within_budget(
    groups: LayerGroups, highest: LayerGroup, views: int, counts: ImageCounts, budget: int
) -> Placement | None:
    """The placement with the most views, and then the highest cut point, within `budget` bytes.

    At least two views are stored, or one if `views` is one; None if these do not fit.
    """
    candidates = [group for group in groups if group.is_cut_point and group.stored_bytes]
    candidates = list(reversed(candidates[: candidates.index(highest) + 1])) if highest in candidates else []
    for count in range(views, min(views, 2) - 1, -1):
        for group in candidates:
            size = _stored_bytes(group.stored_bytes, count, counts)
            if size <= budget:
                reason = f"{views} views exceed the cache budget" if count < views else ""
                return Placement(group, False, count, size, reason)
    return None


def stored_views(augment: AugmentSpec, epochs: int, *, is_head: bool) -> int:
    """Number of views of each training image to store; 0 if every epoch renders its own.

    Without augmentation, one view is stored. With `views: auto`, a step that trains only the head stores one, because a
    linear head gains nothing from more, and so does a step of fewer than `MIN_EPOCHS` epochs. There are never more
    views than epochs.
    """
    if augment.preset == "none":
        return 1
    if augment.views == "live":
        return 0
    if augment.views == "auto":
        return 1 if is_head or epochs < MIN_EPOCHS else AUTO_VIEWS
    return max(1, min(augment.views, epochs))


def _stored_bytes(image_bytes: int, views: int, counts: ImageCounts) -> int:
    """Bytes on disk: the plain view of every image, because scoring needs it, and the others of training images."""
    return image_bytes * (counts.images + (views - 1) * counts.train)
