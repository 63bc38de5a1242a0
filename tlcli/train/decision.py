"""The decision to keep or roll back a step. No other module makes it.

A step is kept if all of these hold on the validation images, compared image by image before and after the step:

1. The metric improves on average by more than `until.min_delta`.
2. The confidence that this is a real gain, from a one-sided paired t-test, is at least `until.confidence`.
3. At least one misclassified image becomes correct. This counts only if `until.confidence` is above 0.5 and at least
   `MIN_MISCLASSIFIED` images were misclassified before.

A step is also kept if there are no validation images, or no scores from before it. It is rolled back if a loss is not
finite.

`step.py` scores the images, proposes interpolated weights with a larger `confident_gain`, and carries the decision out.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

from tlcli.recipe.phase import UntilSpec
from tlcli.text import whole_percent

# At this required confidence every gain counts.
ANY_GAIN_CONFIDENCE = 0.5
# From this many misclassified validation images on, a useful step is expected to correct at least one.
MIN_MISCLASSIFIED = 5


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision: `kept`, the confidence (0-1) that the gain of the step is real, and the reason, which users see.

    The confidence is None if there was no gain or nothing to compare.
    """

    kept: bool
    confidence: float | None
    reason: str


def diverged(reason: str) -> Decision:
    """The decision on a step with a loss that is not finite: none of its epochs is kept.

    >>> diverged("the training loss is nan in epoch 1").reason
    'rolled back: the training loss is nan in epoch 1'
    """
    return Decision(kept=False, confidence=None, reason=f"rolled back: {reason}")


# For a step without epochs, whose head is solved by the linear probe.
PROBE_DECISION = Decision(kept=True, confidence=None, reason="kept: the optimum of the linear probe")


def decide(
    scores: tuple[Sequence[float] | None, Sequence[float] | None],
    hits: tuple[Sequence[float] | None, Sequence[float] | None],
    until: UntilSpec,
) -> Decision:
    """The decision on one step.

    Args:
        scores: Before and after the step, one number per validation image, see `decide_by_gain`.
        hits: Before and after the step, one number per validation image, see `require_correction`.
        until: The requirements of the phase.
    """
    return require_correction(decide_by_gain(*scores, until), *hits, until)


def decide_by_gain(before: Sequence[float] | None, after: Sequence[float] | None, until: UntilSpec) -> Decision:
    """The decision by the gain in the metric and its confidence.

    Args:
        before: One number per validation image: its cross-entropy if `until.metric` is `val_loss`, else 1 for a
            correct answer and 0 for a wrong one. None if the state before the step was not scored.
        after: The same after the step, in the same order. None if there are no validation images.
        until: The requirements of the phase.
    """
    if after is None:
        return Decision(kept=True, confidence=None, reason="kept: no validation images to decide by")
    if before is None:
        return Decision(kept=True, confidence=None, reason="kept: first step, nothing to compare with")
    gains = _gains(before, after, until)
    gain = statistics.fmean(gains)
    if gain <= 0:
        # Without a gain there is nothing to be confident of.
        return Decision(kept=False, confidence=None, reason=f"rolled back: no epoch improved {until.metric}")
    level = confidence(gains)
    improved = f"{until.metric} improved by {gain:.3g}"
    if gain <= until.min_delta:
        reason = f"rolled back: {improved} (more than {until.min_delta:g} required)"
        return Decision(kept=False, confidence=level, reason=reason)
    improved += f" at {whole_percent(level)} confidence"
    if level < until.confidence:
        reason = f"rolled back: {improved} ({whole_percent(until.confidence)} required)"
        return Decision(kept=False, confidence=level, reason=reason)
    return Decision(kept=True, confidence=level, reason=f"kept: {improved}")


def require_correction(
    decision: Decision, before: Sequence[float] | None, after: Sequence[float] | None, until: UntilSpec
) -> Decision:
    """The decision, reversed to a rollback if the step corrects none of enough misclassified images.

    Such a step changes probabilities only. It either overfits the validation images, which can look like a confident
    gain, or rescales the logits, which the temperature fitted at the end of the run does anyway.

    Args:
        decision: The decision by the gain.
        before: 1 for each validation image that was classified correctly, 0 for the others; None if not scored.
        after: The same after the step.
        until: The requirements of the phase. At a confidence of 0.5 the decision stays.
    """
    if not decision.kept or before is None or after is None or until.confidence <= ANY_GAIN_CONFIDENCE:
        return decision
    misclassified = len(before) - int(sum(before))
    if misclassified < MIN_MISCLASSIFIED or any(new > old for old, new in zip(before, after, strict=True)):
        return decision
    improved = decision.reason.removeprefix("kept: ")
    reason = f"rolled back: {improved}, but none of {misclassified} misclassified images became correct"
    return Decision(kept=False, confidence=decision.confidence, reason=reason)


def confident_gain(before: Sequence[float], after: Sequence[float], until: UntilSpec) -> float:
    """The smallest mean gain compatible with the required confidence; below 0 if there may be no gain.

    This is the lower end of the one-sided confidence interval of the mean gain (paired t-test). At a required
    confidence of 0.5, and for a single image, it is the mean gain itself.
    """
    gains = _gains(before, after, until)
    if len(gains) < 2 or until.confidence == ANY_GAIN_CONFIDENCE:
        return statistics.fmean(gains)
    standard_error = statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.fmean(gains) - float(special.stdtrit(len(gains) - 1, until.confidence)) * standard_error


def learnable(hits: Sequence[float], certainties: Sequence[float]) -> float:
    """Confidence (0-1) that wrong answers are less certain than right ones: then more training may correct them.

    Errors that have no cause in the images, such as wrong labels, hit certain and uncertain answers alike. It is one
    minus the p-value of the one-sided test of Mann and Whitney (1947), and 0 without wrong, or without right, answers.

    Args:
        hits: 1 for each image that is classified correctly, 0 for the others.
        certainties: Probability (0-1) of the predicted class of each image.

    >>> learnable([1, 1, 1, 0, 0, 0], [0.9, 0.8, 0.7, 0.4, 0.5, 0.6])
    0.95
    >>> learnable([1, 1], [0.9, 0.8])
    0.0
    """
    # Imported here because it takes half a second, and reading decisions must not.
    from scipy import stats

    right = [certainty for hit, certainty in zip(hits, certainties, strict=True) if hit]
    wrong = [certainty for hit, certainty in zip(hits, certainties, strict=True) if not hit]
    if not right or not wrong:
        return 0.0
    return 1 - float(stats.mannwhitneyu(right, wrong, alternative="greater").pvalue)


def mean_gain(before: Sequence[float], after: Sequence[float], until: UntilSpec) -> float:
    """The mean improvement of the metric per image."""
    return statistics.fmean(_gains(before, after, until))


def _gains(before: Sequence[float], after: Sequence[float], until: UntilSpec) -> list[float]:
    """The improvement of each image, above 0 if it got better."""
    sign = 1 if until.metric == "val_loss" else -1
    return [sign * (old - new) for old, new in zip(before, after, strict=True)]


def confidence(gains: Sequence[float]) -> float:
    """One minus the p-value (0-1) of a one-sided paired t-test of the hypothesis that the mean gain is at most 0.

    Of changes without effect, a share of 1 - c reaches a confidence of at least c. The best of several epochs reaches
    it more often, because the same images chose the epoch; tests/train/test_decision.py has the shares.

    >>> confidence([0.0, 0.0])
    0.5
    >>> confidence([1.0, 1.0])
    1.0
    """
    if len(gains) < 2:
        # A single image has no spread.
        return 0.5
    mean, deviation = statistics.fmean(gains), statistics.stdev(gains)
    if deviation == 0.0:
        return 0.5 if mean == 0 else float(mean > 0)
    return float(special.stdtr(len(gains) - 1, mean * math.sqrt(len(gains)) / deviation))
