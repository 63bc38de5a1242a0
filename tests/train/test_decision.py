"""The decision to keep or roll back a step, and how often a step without effect is kept."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tlcli.recipe.phase import UntilSpec
from tlcli.train.decision import (
    Decision,
    confidence,
    confident_gain,
    decide,
    decide_by_gain,
    learnable,
    require_correction,
)
from tlcli.train.policy import LEARNABLE_CONFIDENCE

NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)


@pytest.mark.parametrize(
    ("before", "after", "until", "kept", "reason"),
    [
        ([1.0, 1.0], None, {}, True, "kept: no validation images to decide by"),
        (None, [1.0, 1.0], {}, True, "kept: first step, nothing to compare with"),
        ([1.0, 1.0], [1.1, 1.2], {}, False, "rolled back: no epoch improved val_loss"),
        ([1.0, 1.0], [1.0, 1.0], {}, False, "rolled back: no epoch improved val_loss"),
        ([1.0, 1.0], [0.8, 0.9], {}, True, "kept: val_loss improved by 0.15 at 90 % confidence"),
        (
            [1.0, 1.0],
            [0.8, 0.9],
            {"min_delta": 0.2},
            False,
            "rolled back: val_loss improved by 0.15 (more than 0.2 required)",
        ),
        ([1.0, 1.0], [0.75, 0.75], {"min_delta": 0.25}, False, "(more than 0.25 required)"),
        ([1.0, 1.0], [0.8, 0.9], {"min_delta": 0.1}, True, "kept"),
        # A mean gain of 0.1 with a standard deviation of 1: hardly better than chance.
        ([1.0, 1.0, 1.0], [0.9, -0.1, 1.9], {"confidence": 0.9}, False, "at 56 % confidence (90 % required)"),
        ([1.0, 1.0, 1.0], [0.9, -0.1, 1.9], {"confidence": 0.5}, True, "at 56 % confidence"),
        (
            [0.0, 1.0, 0.0],
            [1.0, 1.0, 1.0],
            {"metric": "val_accuracy"},
            True,
            "kept: val_accuracy improved by 0.667 at 91 % confidence",
        ),
        (
            [1.0, 1.0, 0.0],
            [0.0, 1.0, 0.0],
            {"metric": "val_accuracy"},
            False,
            "rolled back: no epoch improved val_accuracy",
        ),
    ],
)
def test_decision_by_gain(before, after, until, kept, reason):
    decision = decide_by_gain(before, after, UntilSpec(**until))
    assert decision.kept is kept
    assert reason in decision.reason
    assert decision.reason.startswith("kept" if kept else "rolled back")
    assert (decision.confidence is None) == (before is None or after is None or "no epoch improved" in reason)


def test_images_are_compared_pair_by_pair():
    """The same small gain on every image has full confidence, even if the images differ much."""
    before = [0.1, 5.0, 0.2, 3.0]
    assert decide_by_gain(before, [loss - 0.01 for loss in before], UntilSpec(confidence=0.99)).kept
    with pytest.raises(ValueError, match="zip"):
        decide_by_gain(before, before[:-1], UntilSpec())


@pytest.mark.parametrize(
    ("gains", "expected"),
    [([0.0, 0.0], 0.5), ([0.3, 0.3], 1.0), ([-0.3, -0.3], 0.0), ([0.2], 0.5), ([-0.2], 0.5), ([0.0], 0.5)],
)
def test_confidence_without_spread(gains, expected):
    assert confidence(gains) == expected


@given(st.lists(NUMBERS, min_size=3, max_size=40).filter(lambda gains: max(gains) - min(gains) > 1e-3))
def test_confidence_is_that_of_the_paired_t_test(gains):
    expected = 1 - stats.ttest_1samp(gains, 0.0, alternative="greater").pvalue
    assert confidence(gains) == pytest.approx(expected, abs=1e-9)


@given(st.lists(NUMBERS, min_size=1, max_size=40))
def test_confidence_is_symmetric(gains):
    assert confidence([-gain for gain in gains]) == pytest.approx(1 - confidence(gains), abs=1e-12)
    assert 0 <= confidence(gains) <= 1


def test_confidence_grows_with_the_number_of_images():
    # Mean 1, standard deviation 2: t = sqrt(n) / 2.
    small, large = [3.0, -1.0] * 8, [3.0, -1.0] * 200
    spread = math.sqrt(4 * 16 / 15)
    assert confidence(small) == pytest.approx(stats.t.cdf(math.sqrt(16) / spread, 15))
    assert confidence(large) > 0.999 > confidence(small)


def kept_by_chance(images: int, epochs: int, *, required: float, trials: int = 4000) -> float:
    """The share of changes without effect that reach the required confidence.

    Each is the best of some epochs whose gains are correlated at 0.9. The gains resemble those of cross-entropies: most
    images change little, a few much.
    """
    random = np.random.default_rng(images * 100 + epochs)
    shared = random.standard_t(4, (trials, 1, images))
    gains = 0.9 * shared + math.sqrt(1 - 0.9**2) * random.standard_t(4, (trials, epochs, images))
    best = gains[np.arange(trials), gains.mean(axis=2).argmax(axis=1)]
    return float(np.mean([confidence(row.tolist()) >= required for row in best]))


@pytest.mark.parametrize(
    ("before", "after", "required", "kept"),
    [
        # Eight misclassified images, of which none or one becomes correct.
        ("0000000011", "0000000011", 0.85, False),
        ("0000000011", "0000000010", 0.85, False),
        ("0000000011", "1000000001", 0.85, True),
        ("0000000011", "1000000011", 0.85, True),
        # Too few are misclassified, any gain is enough, or nothing was scored before.
        ("0000111111", "0000111111", 0.85, True),
        ("1111111111", "1111111111", 0.85, True),
        ("0000000011", "0000000011", 0.5, True),
        (None, "0000000011", 0.85, True),
    ],
)
def test_a_step_that_corrects_no_image_is_rolled_back(before, after, required, kept):
    by_gain = Decision(kept=True, confidence=0.96, reason="kept: val_loss improved by 0.038 at 96 % confidence")
    before, after = (None if hits is None else [float(hit) for hit in hits] for hits in (before, after))
    decision = require_correction(by_gain, before, after, UntilSpec(confidence=required))
    assert decision.kept == kept
    assert decision.confidence == 0.96
    if not kept:
        improved = "rolled back: val_loss improved by 0.038 at 96 % confidence"
        assert decision.reason == f"{improved}, but none of 8 misclassified images became correct"
    rollback = replace(by_gain, kept=False)
    assert require_correction(rollback, before, after, UntilSpec(confidence=required)) == rollback


def test_a_decision_needs_a_gain_and_a_correction():
    losses, until = ([1.0] * 8, [0.9] * 8), UntilSpec(confidence=0.85)
    misclassified, corrected = [0.0] * 8, [1.0, *[0.0] * 7]
    assert decide(losses, (misclassified, corrected), until).kept
    assert not decide(losses, (misclassified, misclassified), until).kept
    assert not decide(losses[::-1], (misclassified, corrected), until).kept


@pytest.mark.parametrize("images", [12, 60, 368])
@pytest.mark.parametrize("required", [0.8, 0.95])
def test_one_epoch_without_effect_is_kept_as_rarely_as_required(images, required):
    assert kept_by_chance(images, 1, required=required) == pytest.approx(1 - required, abs=0.015)


@pytest.mark.parametrize(
    ("epochs", "required", "rate"), [(3, 0.5, 0.64), (3, 0.8, 0.31), (3, 0.95, 0.09), (12, 0.8, 0.46)]
)
def test_the_best_of_several_epochs_passes_more_often(epochs, required, rate):
    """The cost of choosing the epoch by the same images."""
    assert kept_by_chance(60, epochs, required=required) == pytest.approx(rate, abs=0.02)


def test_a_real_gain_is_detected():
    """A gain of a third of a standard deviation: nearly always with 60 images, more than half of the time with 12."""
    random = np.random.default_rng(0)
    detected = {
        images: np.mean([confidence((row + 1 / 3).tolist()) >= 0.8 for row in random.normal(size=(2000, images))])
        for images in (12, 60)
    }
    assert detected[60] > 0.93
    assert 0.5 < detected[12] < 0.75


@given(
    st.lists(st.floats(-3, 3), min_size=3, max_size=50).filter(lambda gains: np.std(gains) > 1e-3),
    st.sampled_from([0.6, 0.8, 0.95]),
)
def test_the_confident_gain_is_the_lower_end_of_the_confidence_interval(gains, required):
    """It agrees with SciPy, and is above 0 exactly if the step is kept."""
    until = UntilSpec(confidence=required)
    before = [0.0] * len(gains)
    after = [-gain for gain in gains]
    gain = confident_gain(before, after, until)
    interval = stats.ttest_1samp(gains, 0, alternative="greater").confidence_interval(required)
    assert gain == pytest.approx(interval.low, abs=1e-9)
    if abs(gain) > 1e-9:
        assert (gain > 0) == decide_by_gain(before, after, until).kept


def test_the_confident_gain_is_the_mean_if_any_gain_counts():
    until = UntilSpec(confidence=0.5)
    assert confident_gain([1.0, 2.0], [0.5, 1.9], until) == pytest.approx(0.3)
    assert confident_gain([1.0], [0.4], UntilSpec(confidence=0.9)) == pytest.approx(0.6), "one image has no spread"
    assert confident_gain([0, 1, 0], [1, 1, 1], UntilSpec(metric="val_accuracy", confidence=0.5)) == pytest.approx(
        2 / 3
    )


def test_a_smaller_gain_of_higher_confidence_is_preferred():
    """Twice the distance doubles the gain that all images share, and quadruples the noise."""
    noise = np.random.default_rng(0).normal(size=40)
    near, far = ([-(0.1 * distance + 0.2 * distance**2 * noise[i]) for i in range(40)] for distance in (1, 2))
    before = [0.0] * 40
    strict, lenient = UntilSpec(confidence=0.9), UntilSpec(confidence=0.5)
    assert confident_gain(before, near, strict) > confident_gain(before, far, strict)
    assert confident_gain(before, near, lenient) < confident_gain(before, far, lenient)


@pytest.mark.parametrize(("power", "low", "high"), [(0.0, 0.02, 0.08), (3.0, 0.95, 1.0)])
def test_errors_look_learnable_if_uncertain_answers_are_wrong_more_often(power, low, high):
    """Errors that do not depend on the certainty, as those of wrong labels, pass as learnable in 5 % of all cases."""
    random = np.random.default_rng(7)
    passed = 0
    for _ in range(500):
        certainties = random.uniform(0.3, 1.0, 200)
        hits = random.random(200) < 0.8 * certainties**power
        passed += learnable(hits, certainties) >= LEARNABLE_CONFIDENCE
    assert low <= passed / 500 <= high
