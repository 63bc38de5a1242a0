"""The decision to keep or roll back a step, image by image on the validation images."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

from tlcli.recipe.phase import UntilSpec

# The confidence that asks for no certainty: every gain counts.
INDIFFERENT = 0.5
# Wrong answers on validation images from which on a round that helps is expected to set one right.
ENOUGH_WRONG = 5


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a step is kept, how sure that is (0-1), and why in one sentence."""

    kept: bool
    confidence: float | None
    reason: str


def judge(before: Sequence[float] | None, after: Sequence[float] | None, until: UntilSpec) -> Decision:
    """Whether the change from `before` to `after` is a gain to keep.

    Both hold one number per validation image, in the same order: its cross-entropy, or 1 for a right answer and 0
    for a wrong one, as `until.metric` says.
    """
    if after is None:
        return Decision(kept=True, confidence=None, reason="kept: there are no validation images to judge by")
    if before is None:
        return Decision(kept=True, confidence=None, reason="kept: there was nothing trained before it")
    gains = _gains(before, after, until)
    gain, sure = statistics.fmean(gains), confidence(gains)
    if gain <= 0:
        return Decision(kept=False, confidence=sure, reason=f"rolled back: no epoch improved {until.metric}")
    what = f"{until.metric} better by {gain:.4f}"
    if gain <= until.min_delta:
        return Decision(kept=False, confidence=sure, reason=f"rolled back: {what}, above {until.min_delta:g} is asked")
    if sure < until.confidence:
        reason = f"rolled back: {what}, but only {sure:.0%} sure ({until.confidence:.0%} is asked)"
        return Decision(kept=False, confidence=sure, reason=reason)
    return Decision(kept=True, confidence=sure, reason=f"kept: {what}, {sure:.0%} sure")


def reject_if_idle(
    verdict: Decision, before: Sequence[float] | None, after: Sequence[float] | None, until: UntilSpec
) -> Decision:
    """The verdict, turned round where a step sets none of the wrong answers right although there are enough of them.

    Such a step has moved probabilities only: by a fit to these images, which may look sure, or as the temperature does
    that is fitted at the end in any case. It counts where certainty is asked for.

    Args:
        verdict: By the gains.
        before: 1 for each validation image whose answer was right, 0 for the others; None where nothing was scored.
        after: The same after the step.
        until: What is asked.
    """
    if not verdict.kept or before is None or after is None or until.confidence <= INDIFFERENT:
        return verdict
    wrong = len(before) - int(sum(before))
    if wrong < ENOUGH_WRONG or any(new > old for old, new in zip(before, after, strict=True)):
        return verdict
    what = verdict.reason.removeprefix("kept: ")
    reason = f"rolled back: {what}, but none of {wrong} wrong answers was set right"
    return Decision(kept=False, confidence=verdict.confidence, reason=reason)


def confident_gain(before: Sequence[float], after: Sequence[float], until: UntilSpec) -> float:
    """The gain that the change brings at least, as surely as is asked; below 0 where it may bring nothing.

    The lower end of a one-sided confidence interval of the mean gain (paired t); at a confidence of 0.5 the mean.
    """
    gains = _gains(before, after, until)
    if len(gains) < 2 or until.confidence == INDIFFERENT:
        return statistics.fmean(gains)
    spread = statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.fmean(gains) - float(special.stdtrit(len(gains) - 1, until.confidence)) * spread


def mean_gain(before: Sequence[float], after: Sequence[float], until: UntilSpec) -> float:
    """The gain that the change brings on these images in the mean."""
    return statistics.fmean(_gains(before, after, until))


def _gains(before: Sequence[float], after: Sequence[float], until: UntilSpec) -> list[float]:
    """By image, how much better it is."""
    sign = 1 if until.metric == "val_loss" else -1
    return [sign * (old - new) for old, new in zip(before, after, strict=True)]


def confidence(gains: Sequence[float]) -> float:
    """One minus the p-value (0-1) of the one-sided paired t-test that the mean of the gains is not above zero.

    Of changes that bring nothing, a share of 1 - c passes `confidence >= c`. The best of several epochs passes more
    often, since the same images chose it; tests/train/test_judgement.py has the shares.

    >>> confidence([0.0, 0.0])
    0.5
    >>> confidence([1.0, 1.0])
    1.0
    """
    if len(gains) < 2:
        # One image says nothing of how much images differ.
        return 0.5
    mean, spread = statistics.fmean(gains), statistics.stdev(gains)
    if spread == 0.0:
        return 0.5 if mean == 0 else float(mean > 0)
    return float(special.stdtr(len(gains) - 1, mean * math.sqrt(len(gains)) / spread))
