"""The unfreezing policies: from what was tried so far to what is trained next. Pure; knows no Keras."""

import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from tlcli.model.groups import LayerGroups
from tlcli.model.selection import Selection, select
from tlcli.recipe.phase import PhaseSpec

# Rounds that may follow the one that thaws everything.
REPEATED_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Step:
    """One stretch of training with one trainable set.

    A fixed phase is one step; a gradual phase is one step per round of thawing.

    Attributes:
        phase: Index of the phase in the recipe.
        number: Index of the step within its phase.
        name: The phase's name, with the number for gradual phases: `unfreeze 2`.
        groups: Names of the layer groups with a trained layer, bottom to top.
        layers: Names of the trained layers of the backbone.
        epochs: The most it lasts.
        rates: Share of the learning rate, 0-1, by group, where the policy sets it; else `layer_decay` does.
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
    """Wanted before a phase can go on: the relative gradient norm of every layer group, with everything trainable."""

    phase: int
    layers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step brought. Losses are cross-entropies, accuracies 0-1; None where nothing was measured.

    `interpolation` is how far the weights went from those before the step, 0, to those of its best epoch, 1; `out_of_time`
    whether the time budget ended the step early or left it out; `from_cache` whether its result was found again.
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
    out_of_time: bool = False
    from_cache: bool = False


def record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as one line of phases.jsonl."""
    line: dict[str, Any] = {"step": outcome.step.name, "trained_groups": list(outcome.step.groups)}
    return line | {name: getattr(outcome, name) for name in Outcome.__slots__ if name != "step"}


def outcome_from(step: Step, line: dict[str, Any]) -> Outcome:
    """The inverse of `record`, given the step that the line is about."""
    return Outcome(step=step, **{name: line[name] for name in Outcome.__slots__ if name != "step"})


def next_step(
    phases: Sequence[PhaseSpec],
    groups: LayerGroups,
    outcomes: Sequence[Outcome],
    norms: Mapping[int, Mapping[str, float]] | None = None,
) -> Step | GradientSurvey | None:
    """What follows the finished steps, or None when all phases are through.

    Args:
        phases: Of the recipe.
        groups: Of the backbone.
        outcomes: What was tried so far, in order.
        norms: Surveys made so far, by phase: the relative gradient norm of each group.

    Raises:
        ModelError: If a phase's selection matches no group.
    """
    for index, phase in enumerate(phases):
        done = [outcome for outcome in outcomes if outcome.step.phase == index]
        if phase.policy == "surgical" and not done and index not in (norms or {}):
            return GradientSurvey(index, select("all", groups).layers)
        step = _next_of(phase, index, groups, done, (norms or {}).get(index))
        if step is not None:
            return step
    return None


def steps_of(phase: PhaseSpec, index: int, groups: LayerGroups, norms: Mapping[str, float] | None = None) -> list[Step]:
    """All steps that a phase, the `index`-th, comes to if each is kept; of a `surgical` one before its survey, all."""
    match phase.policy:
        case "gradual" | "depth_search":
            chosen = [(f"{phase.name} {at + 1}", f"top:{count}") for at, count in enumerate(rounds(phase, groups))]
        case "lp_ft":
            chosen = [(f"{phase.name} head", "head"), (phase.name, "all")]
        case "surgical" if norms and phase.group_count:
            chosen = [(phase.name, ", ".join(_picked(norms, phase.group_count)))]
        case _:
            chosen = [(phase.name, phase.train or "all")]
    steps = []
    for number, (name, text) in enumerate(chosen):
        layers = select(text, groups).layers
        epochs = 0 if phase.policy == "lp_ft" and number == 0 else phase.max_epochs
        rates = _shares(norms) if norms and phase.policy == "surgical" and not phase.group_count else ()
        steps.append(Step(index, number, name, _touched(groups, layers), layers, epochs, rates))
    return steps


def _picked(norms: Mapping[str, float], count: int) -> list[str]:
    """The groups of the largest norms, in the order of the network."""
    chosen = set(sorted(norms, key=lambda name: norms[name], reverse=True)[:count])
    return [name for name in norms if name in chosen]


def _shares(norms: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Norms as shares of the largest, 0-1: the rates of Auto-RGN."""
    largest = max(norms.values(), default=0.0)
    return tuple((name, norm / largest if largest > 0 else 1.0) for name, norm in norms.items())


def rounds(phase: PhaseSpec, groups: LayerGroups) -> list[int]:
    """How many groups, from the top, each round of thawing trains: more from round to round, in the last all.

    Where rounds may go part of the way, others may go on from there when all is thawed.
    """
    counts: list[int] = []
    for count in _counts(phase.groups_per_round, groups):
        if count >= len(groups):
            break
        if count > (counts[-1] if counts else 0):
            counts.append(count)
    return [*counts, len(groups), *[len(groups)] * (REPEATED_ROUNDS if phase.interpolate else 0)]


def _counts(step: int | str, groups: LayerGroups) -> Iterator[int]:
    """Groups from the top after each round, without end."""
    everything = len(groups)
    if step == "double":
        yield from (2**number for number in itertools.count())
    elif isinstance(step, str) and step.endswith("of parameters"):
        share = float(step.split("%")[0])
        for number in itertools.count(1):
            reached = share * number
            yield everything if reached >= 100 else len(_touched(groups, select(f"top:{reached:g}%", groups).layers))
    else:
        more = step if isinstance(step, int) else everything
        if isinstance(step, str) and step != "all":
            more = min(max(round(float(step.rstrip("%")) / 100 * everything), 1), everything)
        yield from itertools.count(more, more)


def upcoming_steps(phases: Sequence[PhaseSpec], groups: LayerGroups, step: Step | None) -> list[Step]:
    """The steps that may follow a step (None: none yet) while everything is kept."""
    steps = [later for index, phase in enumerate(phases) for later in steps_of(phase, index, groups)]
    place = (step.phase, step.number) if step else (-1, 0)
    return [later for later in steps if (later.phase, later.number) > place]


def likely_steps(phases: Sequence[PhaseSpec], groups: LayerGroups, step: Step | None) -> list[Step]:
    """Those of the steps that may follow for which it pays to store ahead: not rounds that only a large gain brings."""
    return [later for later in upcoming_steps(phases, groups, step) if _is_likely(later, phases[later.phase], step)]


def _is_likely(later: Step, phase: PhaseSpec, step: Step | None) -> bool:
    following = step.number + 1 if step and step.phase == later.phase else 0
    return later.number <= following or not phase.is_gradual or phase.until.required_relative_gain == 0


def _next_of(
    phase: PhaseSpec, index: int, groups: LayerGroups, done: Sequence[Outcome], norms: Mapping[str, float] | None
) -> Step | None:
    """The next step of a phase; a gradual one ends when rounds are not kept, or the last one brought too little."""
    if phase.is_gradual and done:
        fruitless = list(itertools.takewhile(lambda outcome: not outcome.kept, reversed(done)))
        if len(fruitless) >= phase.until.patience or (done[-1].kept and _is_too_little(done[-1], phase)):
            return None
    steps = steps_of(phase, index, groups, norms)
    return steps[len(done)] if len(done) < len(steps) else None


def with_end_reason(outcome: Outcome, phase: PhaseSpec) -> Outcome:
    """The outcome with the reason why no step follows it, where it was kept and brought too little for another."""
    if not phase.is_gradual or not outcome.kept or not _is_too_little(outcome, phase):
        return outcome
    what = "loss" if phase.until.metric == "val_loss" else "share of wrong answers"
    gained, asked = _share_gained(outcome, phase), phase.until.required_relative_gain
    return replace(
        outcome,
        reason=f"{outcome.reason}; the last, as it lowered the {what} by {gained:.0%} (until.min_relative_gain: {asked:.0%})",
    )


def _is_too_little(outcome: Outcome, phase: PhaseSpec) -> bool:
    """Whether a kept step is to be the last of a gradual phase."""
    return _share_gained(outcome, phase) < phase.until.required_relative_gain


def _share_gained(outcome: Outcome, phase: PhaseSpec) -> float:
    """By which share a step lowered what its phase wants low: the loss, or the share of wrong answers, 0-1."""
    before, after = outcome.loss_before, outcome.val_loss
    if phase.until.metric == "val_accuracy":
        before, after = (
            None if value is None else 1 - value for value in (outcome.accuracy_before, outcome.val_accuracy)
        )
    if before is None or after is None:
        return 1.0
    return (before - after) / before if before > 0 else 0.0


def selection_of(phase: PhaseSpec, groups: LayerGroups) -> Selection:
    """What a phase trains; for one that chooses by itself, the most it may come to train.

    Raises:
        ModelError: If the selection matches nothing.
    """
    return select(phase.train or "all", groups)


def _touched(groups: LayerGroups, layers: Set[str]) -> tuple[str, ...]:
    return tuple(group.name for group in groups.groups if any(layer.name in layers for layer in group.layers))
