"""Intervals are those of SciPy, and the calibration error is the one of the paper."""

import numpy as np
import pytest
from scipy.stats import binomtest

from tlcli.evaluate.reliability import f1_interval, reliability, wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (3, 7), (215, 227), (227, 227), (0, 40)])
def test_the_interval_of_a_fraction_is_wilsons(hits: int, count: int) -> None:
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_without_images_there_is_no_interval() -> None:
    assert wilson(0, 0) is None
    assert f1_interval(0, 0) is None


def test_the_interval_of_f1_covers_the_true_value_in_about_95_of_100_samples() -> None:
    """900 samples of 60 images; the true F1 follows from the probabilities."""
    random = np.random.default_rng(0)
    p_hit, p_other = 0.4, 0.15
    true = 2 * p_hit / (2 * p_hit + p_other)
    covered = 0
    for _ in range(900):
        hits, others, _rest = random.multinomial(60, [p_hit, p_other, 1 - p_hit - p_other])
        low, high = f1_interval(int(hits), int(others))
        covered += low <= true <= high
    assert 0.93 <= covered / 900 <= 0.975


def test_the_calibration_error_weights_each_bin_by_its_images() -> None:
    result = reliability(np.array([0.95, 0.95, 0.95, 0.95, 0.55]), np.array([1, 1, 1, 0, 1]))
    assert [part.count for part in result.bins] == [1, 4]
    assert result.error == pytest.approx((4 * abs(0.95 - 0.75) + abs(0.55 - 1)) / 5)


def test_a_certain_prediction_and_the_edge_of_a_bin_are_counted() -> None:
    result = reliability(np.array([1.0, 0.5, 0.50001]), np.array([1, 1, 0]))
    assert sum(part.count for part in result.bins) == 3
    assert [part.count for part in result.bins] == [1, 1, 1]
