"""Recipe, card, images and layer groups to a TrainPlan: everything decided before Keras wakes up."""

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Any

from tlcli.data.split import Splits
from tlcli.errors import DataError, ModelError, Problem, RecipeError
from tlcli.features import placement
from tlcli.model.groups import LayerGroups
from tlcli.model.selection import Selection
from tlcli.recipe import fields
from tlcli.recipe.fields import BatchNormPolicy
from tlcli.recipe.phase import PhaseSpec
from tlcli.recipe.schema import HeadSpec, Recipe
from tlcli.train import budget
from tlcli.train.budget import DEFAULT_FLOPS_PER_SECOND
from tlcli.train.policy import rounds, selection_of, steps_of
from tlcli.zoo.card import ModelCard
from tlcli.zoo.resolve import input_size

# A round that is not cheap follows only where the last one lowered the loss by this share.
GAIN_IF_EXPENSIVE = 0.5


@dataclass(frozen=True)
class PhasePlan:
    """One phase as it will run. For gradual phases groups, parameters, epochs and bytes are the most it may come to.

    Attributes:
        frontier: Where training begins, in the first step: a group's name, `pooled` or `pixels`.
        views: Stored renderings of each training image there; 0: nothing is stored.
        cache_bytes: Stored outputs of frozen layers, over all steps.
        why_live: Why a step stores nothing although the recipe lets it; empty otherwise.
    """

    name: str
    policy: str
    train: str
    groups: tuple[str, ...]
    trainable_parameters: int
    epochs: int
    steps: int
    lr: float
    batch_norm: str
    frontier: str
    views: int
    cache_bytes: int
    why_live: str


@dataclass(frozen=True)
class Estimates:
    """What a run will roughly take: peak memory, bytes written to the cache, seconds at most."""

    memory_bytes: int
    cache_bytes: int
    seconds: float


@dataclass(frozen=True)
class TrainPlan:
    """Everything that is decided before training."""

    recipe: Recipe
    card: ModelCard
    size: tuple[int, int]
    classes: tuple[str, ...]
    splits: Splits
    groups: LayerGroups
    head_parameters: int
    phases: tuple[PhasePlan, ...]
    estimates: Estimates

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
                "size": list(self.size),
                "parameters": self.groups.parameters,
                "head_parameters": self.head_parameters,
            },
            "groups": [group_json(group) for group in self.groups.groups],
            "phases": [vars(phase) | {"groups": list(phase.groups)} for phase in self.phases],
            "estimates": vars(self.estimates),
            "recipe": self.recipe.model_dump(mode="json"),
        }


def make_plan(
    recipe: Recipe,
    card: ModelCard,
    *,
    groups: LayerGroups,
    splits: Splits,
    classes: tuple[str, ...],
    speed: float | None,
) -> TrainPlan:
    """Decide everything. `speed` is this machine's measured arithmetic per second, if known.

    Raises:
        RecipeError: If phases ask for what the images or the network cannot give.
        DataError: If there is nothing to train on.
    """
    size = input_size(recipe, card)
    if not splits.train:
        raise DataError("no image is left to train on", where="data")
    recipe = recipe.for_images(len(splits.train), epochs=card.fine_tuning.epochs)
    kept = dropped_top(recipe, groups)
    recipe = _with_rounds(recipe, kept, len(splits.train))
    if problems := _misfits(recipe, splits):
        raise RecipeError(problems)
    head = head_parameters_of(recipe.head, kept, len(classes))
    counts = placement.counts_of(splits)
    phases = tuple(_planned(recipe, index, kept, head, counts=counts) for index in range(len(recipe.phases)))
    estimates = _estimates(recipe, size, kept, phases, splits, speed or DEFAULT_FLOPS_PER_SECOND)
    return TrainPlan(recipe, card, size, classes, splits, kept, head, phases, estimates)


def _with_rounds(recipe: Recipe, groups: LayerGroups, images: int) -> Recipe:
    """The recipe with numbers in the place of `step: auto` and `min_relative_gain: auto`; `images` are those to train on."""
    phases = []
    for phase in recipe.phases:
        trained = phase.max_epochs * images
        min_relative_gain = 0.0 if budget.is_cheap(groups, trained) else GAIN_IF_EXPENSIVE
        settled = phase.fill_auto({"step": budget.groups_per_round(groups, trained)})
        phases.append(settled.model_copy(update={"until": settled.until.with_min_relative_gain(min_relative_gain)}))
    return recipe.model_copy(update={"phases": phases})


def check_selections(recipe: Recipe, groups: LayerGroups) -> None:
    """Resolve every phase's selection, so that a wrong one is told before any image is read.

    Raises:
        ModelError: If one matches nothing.
    """
    kept = dropped_top(recipe, groups)
    for index, phase in enumerate(recipe.phases):
        _chosen(phase, index, kept)


def dropped_top(recipe: Recipe, groups: LayerGroups) -> LayerGroups:
    """The groups that stay when `model.drop_top` takes some off the top.

    Raises:
        ModelError: If too many are dropped, or the cut would tear a block apart.
    """
    drop = recipe.model.drop_top
    if drop == 0:
        return groups
    where = "model.drop_top"
    if drop >= len(groups.groups):
        raise ModelError(
            f"{groups.name} has {len(groups.groups)} layer groups (got {drop})",
            where=where,
            hint=f"At most {len(groups.groups) - 1} can be dropped.",
        )
    left = groups.groups[:-drop]
    if not left[-1].is_cut_point:
        raise ModelError(
            f"{groups.name} cannot be cut above {left[-1].name}: some paths pass it by",
            where=where,
            hint="Drop another number of groups; `tlcli inspect` shows where it can be cut.",
        )
    # What else was read above its output is read no more.
    left = (*left[:-1], replace(left[-1], second_output=None))
    return LayerGroups(groups.name, groups.input_size, left)


def head_parameters_of(head: HeadSpec, groups: LayerGroups, classes: int) -> int:
    """Trainable parameters of the head on the given groups."""
    width = int(groups.groups[-1].output_shape[-1] or 0) * (2 if head.pooling == "avg_max" else 1)
    total = 0
    for hidden in head.hidden:
        total += (width + 1 + (2 if hidden.batch_norm else 0)) * hidden.units
        width = hidden.units
    return total + (width + 1) * classes


def trained_parameters(groups: LayerGroups, layers: Set[str], *, batch_norm: BatchNormPolicy) -> int:
    """Parameters of the named backbone layers that a phase trains."""
    has_norms = batch_norm != "frozen"
    return sum(layer.trained_parameters(norms=has_norms) for layer in groups.layers if layer.name in layers)


def totals(splits: Splits) -> dict[str, int]:
    """Images per split."""
    return {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)}


def per_class(splits: Splits) -> dict[str, dict[str, int]]:
    """Images per class and split."""
    counts = splits.counts()
    return {name: {split: counts[split][index] for split in counts} for index, name in enumerate(splits.classes)}


def group_json(group: Any) -> dict[str, Any]:
    """One layer group as the contract's JSON shows it, less what depends on its neighbours."""
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


def _misfits(recipe: Recipe, splits: Splits) -> list[Problem]:
    problems = []
    for index, phase in enumerate(recipe.phases):
        if phase.is_gradual and not splits.val:
            problems.append(
                Problem(
                    f"phases[{index}].policy",
                    f"{phase.policy} judges by validation images, and there are none",
                    "Set data.val above 0 or use policy fixed.",
                )
            )
        if phase.train and phase.train.strip() == "none":
            problems.append(
                Problem(f"phases[{index}].train", "'none' trains nothing", "Use head, or leave the phase out.")
            )
    return problems


def _planned(recipe: Recipe, index: int, groups: LayerGroups, head: int, *, counts: placement.ImageCounts) -> PhasePlan:
    phase = recipe.phases[index]
    chosen = _chosen(phase, index, groups)
    trained = tuple(group.name for group in groups.groups if any(layer.name in chosen.layers for layer in group.layers))
    parameters = trained_parameters(groups, chosen.layers, batch_norm=phase.batch_norm_policy)
    steps = steps_of(phase, index, groups)
    places = [placement.placement_of(recipe, phase, step.layers, groups, counts) for step in steps]
    return PhasePlan(
        name=phase.name,
        policy=phase.policy,
        train=phase.train or _described(phase, groups),
        groups=trained,
        trainable_parameters=parameters + head,
        epochs=phase.max_epochs,
        steps=len(steps),
        lr=phase.learning_rate(recipe.optimizer.lr),
        batch_norm=phase.batch_norm_policy,
        frontier=places[0].name,
        views=places[0].views,
        cache_bytes=sum(place.bytes for place in places),
        why_live=next((place.why for place in places if not place.is_stored), ""),
    )


def _described(phase: PhaseSpec, groups: LayerGroups) -> str:
    """What a phase trains that chooses its groups itself."""
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


def _chosen(phase: PhaseSpec, index: int, groups: LayerGroups) -> Selection:
    try:
        return selection_of(phase, groups)
    except ModelError as error:
        raise ModelError(error.message, where=f"phases[{index}].train", hint=error.hint) from error


def _estimates(
    recipe: Recipe,
    size: tuple[int, int],
    groups: LayerGroups,
    phases: tuple[PhasePlan, ...],
    splits: Splits,
    speed: float,
) -> Estimates:
    """Rough: a pass over the images, then in each epoch what lies above the frontier, three times for gradients."""
    total = totals(splits)
    images = sum(total.values())
    seconds = 8.0 + images * sum(group.flops for group in groups.groups) / speed
    for index in range(len(recipe.phases)):
        seconds += _phase_flops(recipe, index, groups, placement.counts_of(splits), total["val"]) / speed
    memory = max(_phase_memory(recipe, index, groups) for index in range(len(phases)))
    stored = min(sum(phase.cache_bytes for phase in phases), fields.bytes_of(recipe.performance.cache_budget))
    return Estimates(
        memory_bytes=memory,
        cache_bytes=images * size[0] * size[1] * 3 + stored,
        seconds=round(seconds, 1),
    )


def _phase_memory(recipe: Recipe, index: int, groups: LayerGroups) -> int:
    """Bytes that a phase takes at its peak; a gradual one when it has thawed all it may."""
    phase = recipe.phases[index]
    return budget.memory_bytes(
        groups,
        _chosen(phase, index, groups).layers,
        batch=recipe.performance.batch_size,
        stored=recipe.performance.cache != "off",
        batch_norm=phase.batch_norm_policy,
    )


def _phase_flops(recipe: Recipe, index: int, groups: LayerGroups, counts: placement.ImageCounts, val: int) -> float:
    """Multiply-adds of a phase. A gradual one rarely thaws everything; half of its steps is the guess."""
    phase, total = recipe.phases[index], 0.0
    steps = steps_of(phase, index, groups)
    for step in steps[: max(1, len(steps) // 2)]:
        place = placement.placement_of(recipe, phase, step.layers, groups, counts)
        below = groups.names.index(place.group.name) + 1 if place.group else 0
        frozen, above = (sum(group.flops for group in part) for part in (groups.groups[:below], groups.groups[below:]))
        if place.is_stored:
            total += (place.views - 1) * counts.train * frozen
        total += phase.max_epochs * budget.epoch_flops(
            frozen, above, train=counts.train, val=val, stored=place.is_stored
        )
    return total
