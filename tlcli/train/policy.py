"""The unfreezing policies: from what was tried so far to what is trained next. Pure; knows no Keras."""

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tlcli.model.groups import LayerGroups
from tlcli.model.selection import Selection, select
from tlcli.recipe.schema import PhaseSpec, UntilSpec


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
    """

    phase: int
    number: int
    name: str
    groups: tuple[str, ...]
    layers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step brought. Losses are cross-entropies, accuracies 0-1; None where nothing was measured."""

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


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a step is kept, how sure that is (0-1), and why in one sentence."""

    kept: bool
    confidence: float | None
    reason: str


def record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as one line of phases.jsonl."""
    line: dict[str, Any] = {"step": outcome.step.name, "trained_groups": list(outcome.step.groups)}
    return line | {name: getattr(outcome, name) for name in Outcome.__slots__ if name != "step"}


def outcome_from(step: Step, line: dict[str, Any]) -> Outcome:
    """The inverse of `record`, given the step that the line is about."""
    return Outcome(step=step, **{name: line[name] for name in Outcome.__slots__ if name != "step"})


def next_step(phases: Sequence[PhaseSpec], groups: LayerGroups, outcomes: Sequence[Outcome]) -> Step | None:
    """The step that follows the finished ones, or None when all phases are through.

    Raises:
        ModelError: If a phase's selection matches no group.
    """
    for index, phase in enumerate(phases):
        done = [outcome for outcome in outcomes if outcome.step.phase == index]
        step = _next_of(phase, index, groups, done)
        if step is not None:
            return step
    return None


def steps_of(phase: PhaseSpec, index: int, groups: LayerGroups) -> list[Step]:
    """All steps that a phase, the `index`-th, comes to if each is kept."""
    return list(_while_there(_step(phase, index, groups, number) for number in itertools.count()))


def _while_there(steps: Iterable[Step | None]) -> Iterator[Step]:
    for step in steps:
        if step is None:
            return
        yield step


def ahead(phases: Sequence[PhaseSpec], groups: LayerGroups, step: Step | None) -> list[Step]:
    """The steps that may follow a step (None: none yet) while everything is kept."""
    steps = [later for index, phase in enumerate(phases) for later in steps_of(phase, index, groups)]
    place = (step.phase, step.number) if step else (-1, 0)
    return [later for later in steps if (later.phase, later.number) > place]


def _next_of(phase: PhaseSpec, index: int, groups: LayerGroups, done: Sequence[Outcome]) -> Step | None:
    """The next step of a phase; a gradual one ends when rounds are not kept, or the last one brought too little."""
    fruitless = 0
    for outcome in reversed(done):
        if outcome.kept:
            break
        fruitless += 1
    if phase.policy == "gradual" and fruitless >= phase.until.patience:
        return None
    if phase.policy == "gradual" and done and done[-1].kept and _is_too_little(done[-1], phase):
        return None
    return _step(phase, index, groups, len(done))


def explained(outcome: Outcome, phase: PhaseSpec) -> Outcome:
    """The outcome with the reason why no step follows it, where it was kept and brought too little for another."""
    if phase.policy != "gradual" or not outcome.kept or not _is_too_little(outcome, phase):
        return outcome
    what = "loss" if phase.until.metric == "val_loss" else "share of wrong answers"
    gained, asked = _share_gained(outcome, phase), phase.until.go_on
    return replace(
        outcome,
        reason=f"{outcome.reason}; the last, as it lowered the {what} by {gained:.0%} (until.go_on: {asked:.0%})",
    )


def _is_too_little(outcome: Outcome, phase: PhaseSpec) -> bool:
    """Whether a kept step is to be the last of a gradual phase."""
    return _share_gained(outcome, phase) < phase.until.go_on


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


def _step(phase: PhaseSpec, index: int, groups: LayerGroups, number: int) -> Step | None:
    """Step `number` of a phase, from 0; None when it has no more. Each round of thawing takes `step` groups more."""
    if phase.policy != "gradual":
        chosen = selection_of(phase, groups)
        return None if number else Step(index, 0, phase.name, _touched(groups, chosen), chosen.layers)
    everything = len(groups.groups)
    more = phase.groups_a_round(everything)
    if number * more >= everything:
        return None
    chosen = select(f"top:{min((number + 1) * more, everything)}", groups)
    return Step(index, number, f"{phase.name} {number + 1}", _touched(groups, chosen), chosen.layers)


def selection_of(phase: PhaseSpec, groups: LayerGroups) -> Selection:
    """What a phase trains; for a gradual phase, the most it may come to train.

    Raises:
        ModelError: If the selection matches nothing.
    """
    return select(phase.train or "all", groups)


def _touched(groups: LayerGroups, chosen: Selection) -> tuple[str, ...]:
    return tuple(group.name for group in groups.groups if any(layer.name in chosen.layers for layer in group.layers))


def judge(before: Sequence[float] | None, after: Sequence[float] | None, until: UntilSpec) -> Verdict:
    """Whether the change from `before` to `after` is a gain to keep.

    Both hold one number per validation image, in the same order: its cross-entropy, or 1 for a right answer and 0
    for a wrong one, as `until.metric` says. The probability that the mean gain is above zero comes from the paired
    differences, by the normal approximation of the one-sided paired t-test.
    """
    if after is None:
        return Verdict(kept=True, confidence=None, reason="kept: there are no validation images to judge by")
    if before is None:
        return Verdict(kept=True, confidence=None, reason="kept: there was nothing trained before it")
    sign = 1 if until.metric == "val_loss" else -1
    gains = [sign * (old - new) for old, new in zip(before, after, strict=True)]
    gain, sure = statistics.fmean(gains), confidence(gains)
    if gain <= 0:
        return Verdict(kept=False, confidence=sure, reason=f"rolled back: no epoch improved {until.metric}")
    what = f"{until.metric} better by {gain:.4f}"
    if gain <= until.min_delta:
        return Verdict(kept=False, confidence=sure, reason=f"rolled back: {what}, above {until.min_delta:g} is asked")
    if sure < until.confidence:
        reason = f"rolled back: {what}, but only {sure:.0%} sure ({until.confidence:.0%} is asked)"
        return Verdict(kept=False, confidence=sure, reason=reason)
    return Verdict(kept=True, confidence=sure, reason=f"kept: {what}, {sure:.0%} sure")


def confidence(gains: Sequence[float]) -> float:
    """Probability (0-1) that the mean of paired gains is above zero.

    >>> confidence([0.0, 0.0])
    0.5
    >>> confidence([1.0, 1.0])
    1.0
    """
    mean = statistics.fmean(gains)
    spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
    if spread == 0.0:
        return 0.5 if mean == 0 else float(mean > 0)
    return statistics.NormalDist().cdf(mean * math.sqrt(len(gains)) / spread)
