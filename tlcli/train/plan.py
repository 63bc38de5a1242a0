"""The plan of a run: everything that is decided before Keras is loaded."""

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Any, Literal

from tlcli.data.split import Splits
from tlcli.errors import DataError, ModelError, Problem, RecipeError
from tlcli.features import placement
from tlcli.model.layer_groups import LayerGroup, LayerGroups
from tlcli.model.selection import Selection
from tlcli.recipe import expectation
from tlcli.recipe.fields import BatchNormPolicy
from tlcli.recipe.phase import PhaseSpec
from tlcli.recipe.schema import QUALITIES, HeadSpec, Quality, Recipe
from tlcli.train import ladder
from tlcli.train.estimate import Estimates, estimate
from tlcli.train.policy import rounds, selection_of, steps_of
from tlcli.train.rounds import resolve_rounds
from tlcli.zoo.card import ModelCard
from tlcli.zoo.resolve import input_size, weights_licence


@dataclass(frozen=True)
class PhasePlan:
    """One phase as it will run.

    Attributes:
        name: Name of the phase.
        policy: Its policy.
        train: What it trains: its selection, or a description if the policy selects the groups.
        groups: Names of the trained groups, bottom to top; in a gradual phase, those of its last round.
        trainable_parameters: Number of trained parameters, head included; in a gradual phase, those of its last round.
        epochs: Maximum number of epochs of a step.
        steps: Maximum number of steps.
        lr: Learning rate; `find` for that of a range test.
        batch_norm: Policy of BatchNorm in trained groups.
        cut_point: The cut point of the first step: the name of the group below it, `pooled` or `pixels`.
        views: Number of stored views of each training image in the first step; 0 if nothing is stored.
        cache_bytes: Size of the stored features of all steps.
        uncached_reason: Why the features of a step are not stored although the recipe allows it; empty if they are.
    """

    name: str
    policy: str
    train: str
    groups: tuple[str, ...]
    trainable_parameters: int
    epochs: int
    steps: int
    lr: float | Literal["find"]
    batch_norm: str
    cut_point: str
    views: int
    cache_bytes: int
    uncached_reason: str

    def to_json(self) -> dict[str, Any]:
        """An element of `phases` in `tlcli plan --json`."""
        return vars(self) | {"groups": list(self.groups)}


@dataclass(frozen=True)
class QualityPlan:
    """What a quality makes of the phases with rounds.

    Attributes:
        quality: Its name.
        trains: What its rounds train, in a few words.
        epochs: Maximum number of epochs of a round.
        seconds: Rough estimate of the whole run.
    """

    quality: str
    trains: str
    epochs: int
    seconds: float


@dataclass(frozen=True)
class TrainPlan:
    """The plan of a run.

    Attributes:
        recipe: The recipe with numbers in place of `auto`.
        card: The card of the network.
        size: Input height and width, pixels.
        classes: Class names, in the order of the outputs.
        splits: The images of each split.
        groups: The layer groups of the backbone, without dropped ones.
        head_parameters: Number of parameters of the head.
        phases: The phases as they will run.
        estimates: Memory, disk space and time.
        qualities: What each quality would do; empty if the recipe leaves nothing to it.
    """

    recipe: Recipe
    card: ModelCard
    size: tuple[int, int]
    classes: tuple[str, ...]
    splits: Splits
    groups: LayerGroups
    head_parameters: int
    phases: tuple[PhasePlan, ...]
    estimates: Estimates
    qualities: tuple[QualityPlan, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON shape of `tlcli plan --json`."""
        return {
            "data": {
                "path": None if self.recipe.data.path is None else str(self.recipe.data.path),
                "classes": list(self.classes),
                "counts": totals(self.splits),
                "per_class": per_class(self.splits),
                "warnings": list(self.splits.warnings),
            },
            "model": {
                "name": self.card.name,
                "source": self.card.source,
                "arguments": self.recipe.model.arguments,
                "weights": self.recipe.model.weights,
                "licence": weights_licence(self.recipe, self.card),
                "size": list(self.size),
                "parameters": self.groups.parameters,
                "head_parameters": self.head_parameters,
            },
            "groups": [group_json(group) for group in self.groups.groups],
            "phases": [phase.to_json() for phase in self.phases],
            "estimates": vars(self.estimates),
            "qualities": [vars(quality) for quality in self.qualities],
            "recipe": self.recipe.model_dump(mode="json"),
        }


def make_plan(
    recipe: Recipe,
    card: ModelCard,
    *,
    groups: LayerGroups,
    splits: Splits,
    classes: tuple[str, ...],
) -> TrainPlan:
    """Make the plan of a run.

    Raises:
        RecipeError: If the phases do not fit the images.
        ModelError: If a selection, a number of groups or `model.drop_top` does not fit the network.
        DataError: If there are no training images.
    """
    size = input_size(recipe, card)
    if not splits.train:
        raise DataError(
            "there are no training images", where="data", hint="Add images, or lower data.val or data.test."
        )
    kept, images = dropped_top(recipe, groups), len(splits.train)
    recipe = recipe.for_images(images)
    by_quality = {
        name: resolve_rounds(
            recipe.model_copy(update={"quality": name}), kept, images=images, epochs=card.fine_tuning.epochs
        )
        for name in QUALITIES
    }
    qualities = _compare_qualities(by_quality, size, kept, splits)
    recipe = by_quality[recipe.quality]
    if problems := _problems(recipe, splits):
        raise RecipeError(problems)
    head_parameters = head_parameters_of(recipe.head, kept, len(classes))
    counts = placement.count_images(splits)
    phases = tuple(
        _plan_phase(recipe, index, kept, head_parameters, counts=counts) for index in range(len(recipe.phases))
    )
    estimates = estimate(recipe, size, kept, splits, stored_bytes=sum(phase.cache_bytes for phase in phases))
    return TrainPlan(recipe, card, size, classes, splits, kept, head_parameters, phases, estimates, qualities)


def _compare_qualities(
    recipes: dict[Quality, Recipe], size: tuple[int, int], groups: LayerGroups, splits: Splits
) -> tuple[QualityPlan, ...]:
    """What each quality makes of a recipe; empty if all make the same of it."""
    if all(recipe.phases == next(iter(recipes.values())).phases for recipe in recipes.values()):
        return ()
    plans = []
    for name, recipe in recipes.items():
        phase = next(phase for phase in recipe.phases if phase.is_gradual)
        seconds, trains = (
            estimate(recipe, size, groups, splits, stored_bytes=0).seconds,
            _describe_training(phase, groups),
        )
        if name == "best":
            seconds, trains = (
                round(seconds * ladder.relative_cost(recipe, size), 1),
                "several runs; the mean of the best",
            )
        plans.append(QualityPlan(name, trains, phase.max_epochs, seconds))
    return tuple(plans)


def check_selections(recipe: Recipe, groups: LayerGroups) -> None:
    """Check the selection of every phase, before any image is read, and that there is a BatchNorm to be set.

    Raises:
        ModelError: If a selection matches nothing, more groups are asked for than there are, or there is no BatchNorm.
    """
    kept = dropped_top(recipe, groups)
    if recipe.model.batch_norm_epsilon is not None and not any(group.batch_norms for group in kept.groups):
        hint = "Leave model.batch_norm_epsilon out."
        raise ModelError(f"{groups.name} has no BatchNorm", where="model.batch_norm_epsilon", hint=hint)
    for index, phase in enumerate(recipe.phases):
        _select(phase, index, kept)


def dropped_top(recipe: Recipe, groups: LayerGroups) -> LayerGroups:
    """The layer groups without the `model.drop_top` groups at the top.

    Raises:
        ModelError: If no group would be left, or the network cannot be cut there.
    """
    drop = recipe.model.drop_top
    if drop == 0:
        return groups
    where = "model.drop_top"
    if drop >= len(groups.groups):
        raise ModelError(
            f"{groups.name} has only {len(groups.groups)} layer groups (got {drop})",
            where=where,
            hint=f"At most {len(groups.groups) - 1} can be dropped.",
        )
    left = groups.groups[:-drop]
    if not left[-1].is_cut_point:
        raise ModelError(
            f"{groups.name} cannot be cut above {left[-1].name}, because some paths bypass it (got {drop})",
            where=where,
            hint="Drop a different number of groups. `tlcli inspect` shows where the network can be cut.",
        )
    # Only the dropped groups read its second output.
    left = (*left[:-1], replace(left[-1], second_output=None))
    return LayerGroups(groups.name, groups.input_size, left)


def head_parameters_of(head: HeadSpec, groups: LayerGroups, classes: int) -> int:
    """Number of trainable parameters of the head on these layer groups."""
    width = head.pooled_channels(groups.groups[-1].output_shape)
    total = 0
    for hidden in head.hidden:
        norms, slopes = 2 if hidden.batch_norm else 0, 1 if hidden.activation == "prelu" else 0
        total += (width + 1 + norms + slopes) * hidden.units
        width = hidden.units
    return total + (width + 1) * classes


def trained_parameters(groups: LayerGroups, layers: Set[str], *, batch_norm: BatchNormPolicy) -> int:
    """Number of parameters that a phase trains in these backbone layers."""
    has_norms = batch_norm != "frozen"
    return sum(layer.trained_parameters(norms=has_norms) for layer in groups.layers if layer.name in layers)


def totals(splits: Splits) -> dict[str, int]:
    """Number of images per split."""
    return {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)}


def per_class(splits: Splits) -> dict[str, dict[str, int]]:
    """Number of images per class and split."""
    counts = splits.counts()
    return {name: {split: counts[split][index] for split in counts} for index, name in enumerate(splits.classes)}


def group_json(group: LayerGroup) -> dict[str, Any]:
    """A layer group in `tlcli plan --json`. `tlcli inspect --json` adds to it what depends on other groups."""
    return {
        "name": group.name,
        "layers": len(group.layers),
        "parameters": group.parameters,
        "trainable_parameters": group.trainable_parameters,
        "flops": group.flops,
        "output_shape": list(group.output_shape),
        "activation_bytes": group.activation_bytes,
        "stored_bytes": group.stored_bytes,
        "batch_norm": group.batch_norms,
        "frontier": group.is_cut_point,
        "second_output": None if group.second_output is None else group.second_output.name,
    }


def _problems(recipe: Recipe, splits: Splits) -> list[Problem]:
    """Phases that do not fit the images, or train nothing; and expectations of classes that there are not."""
    problems = [
        Problem(f"expect[{index}]", f"there is no class {name!r} (got {text!r})", hint)
        for index, text in enumerate(recipe.expect)
        for name, hint in expectation.unknown_classes(text, splits.classes)
    ]
    left_out = max(Counter(splits.folds).values(), default=0)
    batches = -(-(len(splits.train) - left_out) // recipe.performance.batch_size)
    if recipe.optimizer.accumulate > batches:
        problems.append(
            Problem(
                "optimizer.accumulate",
                f"an epoch has fewer batches than one step (got {recipe.optimizer.accumulate})",
                f"At most {batches}; with a smaller performance.batch there are more.",
            )
        )
    for index, phase in enumerate(recipe.phases):
        if phase.is_gradual and not splits.val and not splits.folds:
            problems.append(
                Problem(
                    f"phases[{index}].policy",
                    f"policy {phase.policy} needs validation images, and there are none",
                    "Set data.val above 0, or use policy fixed.",
                )
            )
        if phase.soup > 1 and not splits.val:
            problems.append(
                Problem(
                    f"phases[{index}].soup",
                    "the best epochs are chosen by validation images, and there are none",
                    "Set data.val above 0, or soup to 1.",
                )
            )
        if phase.train and phase.train.strip() == "none":
            problems.append(
                Problem(f"phases[{index}].train", "'none' trains nothing", "Use head, or leave the phase out.")
            )
    return problems


def _plan_phase(
    recipe: Recipe, index: int, groups: LayerGroups, head_parameters: int, *, counts: placement.ImageCounts
) -> PhasePlan:
    phase = recipe.phases[index]
    layers = _select(phase, index, groups).layers
    steps = steps_of(phase, index, groups)
    placements = [placement.placement_of(recipe, step.epochs, step.layers, groups, counts) for step in steps]
    return PhasePlan(
        name=phase.name,
        policy=phase.policy,
        train=phase.train or _describe_training(phase, groups),
        groups=tuple(group.name for group in groups if any(layer.name in layers for layer in group.layers)),
        trainable_parameters=trained_parameters(groups, layers, batch_norm=phase.batch_norm_policy) + head_parameters,
        epochs=phase.max_epochs,
        steps=len(steps),
        lr=phase.learning_rate(recipe.optimizer.lr),
        batch_norm=phase.batch_norm_policy,
        cut_point=placements[0].name,
        views=placements[0].views,
        cache_bytes=sum(placed.bytes for placed in placements),
        uncached_reason=next((placed.reason for placed in placements if not placed.is_stored), ""),
    )


def _describe_training(phase: PhaseSpec, groups: LayerGroups) -> str:
    """What a phase without a selection trains, in a few words."""
    if phase.policy == "surgical":
        return "all at rates by gradient" if phase.group_count is None else f"{phase.group_count} groups by gradient"
    if not phase.is_gradual:
        return "all"
    counts = list(dict.fromkeys(rounds(phase, groups)))
    if len(counts) == 1:
        return "all at once"
    if phase.groups_per_round == 1:
        return "top group by group"
    shown = [str(count) for count in counts]
    return f"top {', '.join(shown if len(shown) <= 5 else [*shown[:3], '…', shown[-1]])} groups"


def _select(phase: PhaseSpec, index: int, groups: LayerGroups) -> Selection:
    """All layers that the phase at `index` may train. Errors name the phase."""
    if (phase.group_count or 0) > len(groups):
        raise ModelError(
            f"{groups.name} has only {len(groups)} layer groups (got {phase.group_count})",
            where=f"phases[{index}].group_count",
            hint=f"Take 1 to {len(groups)}, or null for all.",
        )
    try:
        return selection_of(phase, groups)
    except ModelError as error:
        raise ModelError(error.message, where=f"phases[{index}].train", hint=error.hint) from error
