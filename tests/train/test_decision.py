"""Judging a step by the validation images, pair by pair: what is kept, and how often by mistake."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tlcli.recipe.phase import UntilSpec
from tlcli.train.decision import Decision, confidence, confident_gain, judge, reject_if_idle

NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)


@pytest.mark.parametrize(
    ("before", "after", "until", "kept", "reason"),
    [
        ([1.0, 1.0], None, {}, True, "no validation images"),
        (None, [1.0, 1.0], {}, True, "nothing trained before"),
        ([1.0, 1.0], [1.1, 1.2], {}, False, "no epoch improved val_loss"),
        ([1.0, 1.0], [1.0, 1.0], {}, False, "no epoch improved val_loss"),
        ([1.0, 1.0], [0.8, 0.9], {}, True, "kept: val_loss better by 0.1500"),
        ([1.0, 1.0], [0.8, 0.9], {"min_delta": 0.2}, False, "better by 0.1500, above 0.2 is asked"),
        ([1.0, 1.0], [0.75, 0.75], {"min_delta": 0.25}, False, "above 0.25 is asked"),
        ([1.0, 1.0], [0.8, 0.9], {"min_delta": 0.1}, True, "kept"),
        # A mean gain of 0.1 with a spread of 1: barely better than a coin.
        ([1.0, 1.0, 1.0], [0.9, -0.1, 1.9], {"confidence": 0.9}, False, "only 56% sure (90% is asked)"),
        ([1.0, 1.0, 1.0], [0.9, -0.1, 1.9], {"confidence": 0.5}, True, "56% sure"),
        ([0.0, 1.0, 0.0], [1.0, 1.0, 1.0], {"metric": "val_accuracy"}, True, "val_accuracy better by 0.6667"),
        ([1.0, 1.0, 0.0], [0.0, 1.0, 0.0], {"metric": "val_accuracy"}, False, "no epoch improved val_accuracy"),
    ],
)
def test_judging(before, after, until, kept, reason):
    verdict = judge(before, after, UntilSpec(**until))
    assert verdict.kept is kept
    assert reason in verdict.reason
    assert verdict.reason.startswith("kept" if kept else "rolled back")
    assert (verdict.confidence is None) == (before is None or after is None)


def test_images_are_compared_pair_by_pair():
    """The same small gain on every image is certain, however much the images differ."""
    before = [0.1, 5.0, 0.2, 3.0]
    assert judge(before, [loss - 0.01 for loss in before], UntilSpec(confidence=0.99)).kept
    with pytest.raises(ValueError, match="zip"):
        judge(before, before[:-1], UntilSpec())


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
    few, many = [3.0, -1.0] * 8, [3.0, -1.0] * 200
    spread = math.sqrt(4 * 16 / 15)
    assert confidence(few) == pytest.approx(stats.t.cdf(math.sqrt(16) / spread, 15))
    assert confidence(many) > 0.999 > confidence(few)


def kept_by_chance(images: int, epochs: int, *, asked: float, trials: int = 4000) -> float:
    """The share of changes without any worth that pass: the best of some epochs, whose gains go together at 0.9.

    Gains are like those of cross-entropies: most images change little, a few much.
    """
    draw = np.random.default_rng(images * 100 + epochs)
    shared = draw.standard_t(4, (trials, 1, images))
    gains = 0.9 * shared + math.sqrt(1 - 0.9**2) * draw.standard_t(4, (trials, epochs, images))
    best = gains[np.arange(trials), gains.mean(axis=2).argmax(axis=1)]
    return float(np.mean([confidence(each.tolist()) >= asked for each in best]))


@pytest.mark.parametrize(
    ("before", "after", "asked", "kept"),
    [
        # Eight wrong answers, and none, one other or one more set right.
        ("0000000011", "0000000011", 0.85, False),
        ("0000000011", "0000000010", 0.85, False),
        ("0000000011", "1000000001", 0.85, True),
        ("0000000011", "1000000011", 0.85, True),
        # Too few are wrong for that to say anything; nothing is asked for; nothing was scored.
        ("0000111111", "0000111111", 0.85, True),
        ("1111111111", "1111111111", 0.85, True),
        ("0000000011", "0000000011", 0.5, True),
        (None, "0000000011", 0.85, True),
    ],
)
def test_what_sets_no_wrong_answer_right_is_not_kept(before, after, asked, kept):
    found = Decision(kept=True, confidence=0.96, reason="kept: val_loss better by 0.0380, 96% sure")
    before, after = (None if each is None else [float(hit) for hit in each] for each in (before, after))
    verdict = reject_if_idle(found, before, after, UntilSpec(confidence=asked))
    assert verdict.kept == kept
    assert verdict.confidence == 0.96
    if not kept:
        told = "rolled back: val_loss better by 0.0380, 96% sure, but none of 8 wrong answers was set right"
        assert verdict.reason == told
    refused = replace(found, kept=False)
    assert reject_if_idle(refused, before, after, UntilSpec(confidence=asked)) == refused


@pytest.mark.parametrize("images", [12, 60, 368])
@pytest.mark.parametrize("asked", [0.8, 0.95])
def test_false_keeps_of_one_epoch_are_as_rare_as_asked(images, asked):
    assert kept_by_chance(images, 1, asked=asked) == pytest.approx(1 - asked, abs=0.015)


@pytest.mark.parametrize(
    ("epochs", "asked", "rate"), [(3, 0.5, 0.64), (3, 0.8, 0.31), (3, 0.95, 0.09), (12, 0.8, 0.46)]
)
def test_the_best_of_several_epochs_passes_more_often(epochs, asked, rate):
    """The price of choosing the epoch by the same images, for who sets `confidence`."""
    assert kept_by_chance(60, epochs, asked=asked) == pytest.approx(rate, abs=0.02)


def test_a_real_gain_is_found():
    """A third of a standard deviation on 60 images is found nearly always; on 12 half of the time."""
    draw = np.random.default_rng(0)
    found = {
        images: np.mean([confidence((each + 1 / 3).tolist()) >= 0.8 for each in draw.normal(size=(2000, images))])
        for images in (12, 60)
    }
    assert found[60] > 0.93
    assert 0.5 < found[12] < 0.75


@given(
    st.lists(st.floats(-3, 3), min_size=3, max_size=50).filter(lambda gains: np.std(gains) > 1e-3),
    st.sampled_from([0.6, 0.8, 0.95]),
)
def test_a_sure_gain_is_one_that_is_as_sure_as_asked(gains, asked):
    """It is the lower end of scipy's interval, and above nought just where the judge keeps."""
    until = UntilSpec(confidence=asked)
    before = [0.0] * len(gains)
    after = [-gain for gain in gains]
    found = confident_gain(before, after, until)
    interval = stats.ttest_1samp(gains, 0, alternative="greater").confidence_interval(asked)
    assert found == pytest.approx(interval.low, abs=1e-9)
    if abs(found) > 1e-9:
        assert (found > 0) == judge(before, after, until).kept


def test_where_any_gain_counts_the_sure_gain_is_the_mean():
    until = UntilSpec(confidence=0.5)
    assert confident_gain([1.0, 2.0], [0.5, 1.9], until) == pytest.approx(0.3)
    assert confident_gain([1.0], [0.4], UntilSpec(confidence=0.9)) == pytest.approx(0.6), "one image knows no spread"
    assert confident_gain([0, 1, 0], [1, 1, 1], UntilSpec(metric="val_accuracy", confidence=0.5)) == pytest.approx(
        2 / 3
    )


def test_a_surer_smaller_gain_is_worth_more():
    """Twice as far gains twice as much of what all images gain, and four times what some lose by it."""
    noise = np.random.default_rng(0).normal(size=40)
    near, far = ([-(0.1 * way + 0.2 * way**2 * noise[i]) for i in range(40)] for way in (1, 2))
    before = [0.0] * 40
    careful, eager = UntilSpec(confidence=0.9), UntilSpec(confidence=0.5)
    assert confident_gain(before, near, careful) > confident_gain(before, far, careful)
    assert confident_gain(before, near, eager) < confident_gain(before, far, eager)
