"""The unfreezing policies: from the outcomes so far to the next step. Pure functions, without Keras."""

import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from tlcli.model.layer_groups import LayerGroups
from tlcli.model.selection import Selection, select
from tlcli.recipe.phase import PhaseSpec
from tlcli.text import whole_percent

# Rounds that may follow the one that unfreezes everything.
REPEATED_ROUNDS = 2
# Confidence from which errors count as learnable.
LEARNABLE_CONFIDENCE = 0.95
# Share of wrong answers below which there is too little to correct for a round that must pay.
WORTH_CORRECTING = 0.02


@dataclass(frozen=True, slots=True)
class Step:
    """Training of one fixed set of layers.

    A fixed phase is one step. A gradual phase is one step per unfreezing round.

    Attributes:
        phase: Index of the phase in the recipe.
        number: Index of the step within its phase.
        name: Name of the phase; in a gradual phase with the number of the round, such as `unfreeze 2`.
        groups: Names of the layer groups with a trained layer, bottom to top.
        layers: Names of the trained layers of the backbone.
        epochs: Maximum number of epochs.
        rates: Factor (0-1) of the learning rate by group, if the policy sets it; empty if `layer_decay` does.
    """

    phase: int
    number: int
    name: str
    groups: tuple[str, ...]
    layers: frozenset[str]
    epochs: int
    rates: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class GradientSurvey:
    """A request to measure the relative gradient norm of every layer group, with `layers` trainable.

    The phase cannot choose its step without it.
    """

    phase: int
    layers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a step. Losses are cross-entropies, accuracies 0-1; None if not measured.

    Attributes:
        step: The step.
        trainable_parameters: Number of trained parameters, head included.
        epochs: Epochs that were trained.
        best_epoch: The best of them, counted from 1; 0 if none improved the metric.
        loss_before: Validation loss before the step; likewise `accuracy_before`.
        val_loss: Validation loss of the best weights; likewise `val_accuracy`.
        confidence: Confidence (0-1) that the step is a gain.
        kept: True if the weights were kept, False if they were rolled back.
        reason: Why, for users.
        seconds: Duration of the step.
        interpolation: Position of the weights from 0 (before the step) to 1 (the best epoch).
        learnable: Confidence (0-1) that the errors before the step are learnable, see `decision.learnable`; None if
            nothing asks for it.
        out_of_time: True if the step was stopped early or skipped because of the time budget.
        from_cache: True if this is a cached result.
    """

    step: Step
    trainable_parameters: int
    epochs: int
    best_epoch: int
    loss_before: float | None
    accuracy_before: float | None
    val_loss: float | None
    val_accuracy: float | None
    confidence: float | None
    kept: bool
    reason: str
    seconds: float
    interpolation: float = 1.0
    learnable: float | None = None
    out_of_time: bool = False
    from_cache: bool = False


def record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as one line of phases.jsonl, ready for JSON."""
    line: dict[str, Any] = {"step": outcome.step.name, "trained_groups": list(outcome.step.groups)}
    return line | {name: getattr(outcome, name) for name in Outcome.__slots__ if name != "step"}


def outcome_from(step: Step, line: dict[str, Any]) -> Outcome:
    """The outcome of a step from its line of phases.jsonl; the inverse of `record`."""
    return Outcome(step=step, **{name: line[name] for name in Outcome.__slots__ if name in line and name != "step"})


def next_step(
    phases: Sequence[PhaseSpec],
    groups: LayerGroups,
    outcomes: Sequence[Outcome],
    norms: Mapping[int, Mapping[str, float]] | None = None,
) -> Step | GradientSurvey | None:
    """The step or gradient survey that follows the outcomes so far; None after the last phase.

    Args:
        phases: The phases of the recipe.
        groups: The layer groups of the backbone.
        outcomes: The outcomes so far, in order.
        norms: The gradient surveys so far: by phase, the relative gradient norm of each group.

    Raises:
        ModelError: If the selection of a phase matches no group.
    """
    for index, phase in enumerate(phases):
        own = [outcome for outcome in outcomes if outcome.step.phase == index]
        if phase.policy == "surgical" and not own and index not in (norms or {}):
            return GradientSurvey(index, select("all", groups).layers)
        step = _next_in_phase(phase, index, groups, own, (norms or {}).get(index))
        if step is not None:
            return step
    return None


def steps_of(phase: PhaseSpec, index: int, groups: LayerGroups, norms: Mapping[str, float] | None = None) -> list[Step]:
    """All steps of the phase at `index`, if each is kept.

    Without `norms`, the step of a `surgical` phase trains all groups.
    """
    match phase.policy:
        case "gradual" | "depth_search":
            chosen = [(f"{phase.name} {i}", f"top:{count}") for i, count in enumerate(rounds(phase, groups), start=1)]
        case "lp_ft":
            chosen = [(f"{phase.name} head", "head"), (phase.name, "all")]
        case "surgical" if norms and phase.group_count:
            chosen = [(phase.name, ", ".join(_largest(norms, phase.group_count)))]
        case _:
            chosen = [(phase.name, phase.train or "all")]
    steps = []
    for number, (name, selection) in enumerate(chosen):
        layers = select(selection, groups).layers
        epochs = 0 if phase.policy == "lp_ft" and number == 0 else phase.epochs_of(number)
        rates = _relative_rates(norms) if norms and phase.policy == "surgical" and not phase.group_count else ()
        steps.append(Step(index, number, name, _groups_with(layers, groups), layers, epochs, rates))
    return steps


def _largest(norms: Mapping[str, float], count: int) -> list[str]:
    """The groups with the largest norms, in the order of the network."""
    chosen = set(sorted(norms, key=lambda name: norms[name], reverse=True)[:count])
    return [name for name in norms if name in chosen]


def _relative_rates(norms: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Norms relative to the largest, 0-1: the learning rates of Auto-RGN. Ref: Lee et al. 2022, arXiv 2210.11466."""
    largest = max(norms.values(), default=0.0)
    return tuple((name, norm / largest if largest > 0 else 1.0) for name, norm in norms.items())


def rounds(phase: PhaseSpec, groups: LayerGroups) -> list[int]:
    """The number of trained groups, from the top, of each unfreezing round. It grows up to all groups.

    If the phase interpolates weights, up to `REPEATED_ROUNDS` rounds of all groups follow.
    """
    counts: list[int] = []
    for count in _round_counts(phase.groups_per_round, groups):
        if count >= len(groups):
            break
        if count > (counts[-1] if counts else 0) or isinstance(phase.groups_per_round, list):
            counts.append(count)
    return [*counts, len(groups), *[len(groups)] * (REPEATED_ROUNDS if phase.interpolate else 0)]


def _round_counts(step: int | str | list[int | str], groups: LayerGroups) -> Iterator[int]:
    """The number of groups from the top after each round, without end."""
    total = len(groups)
    if isinstance(step, list):
        yield from itertools.accumulate(
            _increment(size, total) for size in itertools.chain(step, itertools.repeat(step[-1]))
        )
    elif step == "double":
        yield from (2**number for number in itertools.count())
    elif isinstance(step, str) and step.endswith("of parameters"):
        share = float(step.split("%")[0])
        for number in itertools.count(1):
            reached = share * number
            top = select(f"top:{reached:g}%", groups).layers if reached < 100 else None
            yield total if top is None else len(_groups_with(top, groups))
    else:
        increment = _increment(step, total)
        yield from itertools.count(increment, increment)


def _increment(step: int | str, total: int) -> int:
    """The number of groups that a round adds: a number, a share of `total` such as `30%`, or `all`."""
    if isinstance(step, int):
        return step
    return total if step == "all" else min(max(round(float(step.rstrip("%")) / 100 * total), 1), total)


def upcoming_steps(phases: Sequence[PhaseSpec], groups: LayerGroups, step: Step | None) -> list[Step]:
    """The steps after a step (None: from the start), if each is kept."""
    steps = [later for index, phase in enumerate(phases) for later in steps_of(phase, index, groups)]
    position = (step.phase, step.number) if step else (-1, 0)
    return [later for later in steps if (later.phase, later.number) > position]


def likely_steps(phases: Sequence[PhaseSpec], groups: LayerGroups, step: Step | None) -> list[Step]:
    """The upcoming steps worth storing features for: without rounds that need a minimum gain in the round before."""
    return [later for later in upcoming_steps(phases, groups, step) if _is_likely(later, phases[later.phase], step)]


def _is_likely(later: Step, phase: PhaseSpec, step: Step | None) -> bool:
    next_number = step.number + 1 if step and step.phase == later.phase else 0
    return later.number <= next_number or not phase.is_gradual or phase.until.relative_gain_after(next_number) == 0


def _next_in_phase(
    phase: PhaseSpec, index: int, groups: LayerGroups, outcomes: Sequence[Outcome], norms: Mapping[str, float] | None
) -> Step | None:
    """The next step of a phase, given the outcomes of that phase; None at its end.

    A gradual phase ends after `until.patience` rollbacks in a row, after one if the errors that are left do not look
    learnable and `until.after_rollback` asks for that, or after a kept round with too small a gain.
    """
    if phase.is_gradual and outcomes:
        rollbacks = list(itertools.takewhile(lambda outcome: not outcome.kept, reversed(outcomes)))
        if len(rollbacks) >= phase.until.max_rollbacks_after(outcomes[-1].step.number):
            return None
        if rollbacks and not _may_follow(outcomes[-1], phase):
            return None
        if outcomes[-1].kept and (_is_small_gain(outcomes[-1], phase) or _is_nearly_right(outcomes[-1], phase)):
            return None
    steps = steps_of(phase, index, groups, norms)
    return steps[len(outcomes)] if len(outcomes) < len(steps) else None


def _may_follow(rolled_back: Outcome, phase: PhaseSpec) -> bool:
    """True if `until.after_rollback` allows another round after one that was rolled back."""
    if phase.until.resolved("after_rollback") == "always" or rolled_back.learnable is None:
        return True
    return rolled_back.learnable >= LEARNABLE_CONFIDENCE


def with_end_reason(outcome: Outcome, phase: PhaseSpec) -> Outcome:
    """The outcome; if no round may follow because of its gain or what is left to correct, its reason says so."""
    is_last = phase.until.max_rollbacks_after(outcome.step.number) == 1 if phase.is_gradual else True
    if not is_last and not outcome.kept and not _may_follow(outcome, phase):
        end = "no further round: the errors that are left do not look learnable"
        return replace(outcome, reason=f"{outcome.reason}; {end}")
    if not phase.is_gradual or not outcome.kept:
        return outcome
    if not _is_small_gain(outcome, phase):
        if not _is_nearly_right(outcome, phase):
            return outcome
        end = f"no further round: {whole_percent(outcome.val_accuracy or 0.0)} of the validation answers are right"
        return replace(outcome, reason=f"{outcome.reason}; {end}")
    metric = "loss" if phase.until.metric == "val_loss" else "error rate"
    gain, required = _relative_gain(outcome, phase), phase.until.relative_gain_after(outcome.step.number)
    end = f"no further round: {metric} reduced by {100 * gain:.0f} % (until.min_relative_gain: {100 * required:.0f} %)"
    return replace(outcome, reason=f"{outcome.reason}; {end}")


def _is_small_gain(outcome: Outcome, phase: PhaseSpec) -> bool:
    """True if the gain of a kept step is below `until.min_relative_gain`, so that a gradual phase ends."""
    return _relative_gain(outcome, phase) < phase.until.relative_gain_after(outcome.step.number)


def _is_nearly_right(outcome: Outcome, phase: PhaseSpec) -> bool:
    """True if a kept step that needs a gain for another round leaves too few wrong answers for one."""
    is_asked = phase.until.relative_gain_after(outcome.step.number) > 0
    return is_asked and outcome.val_accuracy is not None and outcome.val_accuracy > 1 - WORTH_CORRECTING


def _relative_gain(outcome: Outcome, phase: PhaseSpec) -> float:
    """The share (at most 1) by which a step reduced the loss, or the error rate if the metric is accuracy.

    It is 1 if there is nothing to compare.
    """
    before, after = outcome.loss_before, outcome.val_loss
    if phase.until.metric == "val_accuracy":
        before, after = (
            None if value is None else 1 - value for value in (outcome.accuracy_before, outcome.val_accuracy)
        )
    if before is None or after is None:
        return 1.0
    return (before - after) / before if before > 0 else 0.0


def selection_of(phase: PhaseSpec, groups: LayerGroups) -> Selection:
    """The layers that a phase trains; if its policy chooses them, all that it may train.

    Raises:
        ModelError: If the selection matches nothing.
    """
    return select(phase.train or "all", groups)


def _groups_with(layers: Set[str], groups: LayerGroups) -> tuple[str, ...]:
    """Names of the groups with at least one of the layers, bottom to top."""
    return tuple(group.name for group in groups.groups if any(layer.name in layers for layer in group.layers))
