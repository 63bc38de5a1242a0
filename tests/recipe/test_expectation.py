"""Expectations: their form, and their comparison with a record."""

import pytest

from tlcli.recipe import expectation

RECORD = {
    "scores": {"val": {"accuracy": 0.91}, "test": {"accuracy": 0.5}},
    "seconds": {"total": 12.5},
    "status": "complete",
}


@pytest.mark.parametrize(
    ("text", "measured", "passed"),
    [
        ("val.accuracy >= 0.90", 0.91, True),
        ("val.accuracy>0.91", 0.91, False),
        ("scores.test.accuracy == 5e-1", 0.5, True),
        ("seconds.total <= 12", 12.5, False),
        ("seconds.total < 13", 12.5, True),
        ("test.loss <= 9", None, False),
        ("test.top_k.3 >= 0.1", None, False),
        ("status >= 1", None, False),
    ],
)
def test_expectations_compare_the_measured_value(text, measured, passed):
    [verdict] = expectation.check([text], RECORD)
    assert (verdict.measured, verdict.passed) == (measured, passed)


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("val.acuracy > 0.9", "val.accuracy"),
        ("seconds.totl < 3", "seconds.total"),
        ("scores.tset.loss < 1", "scores.test.loss"),
    ],
)
def test_an_unknown_number_gets_a_suggestion(text, suggestion):
    with pytest.raises(ValueError, match=rf"unknown number \(got .* Did you mean '{suggestion}'"):
        expectation.parse(text)


@pytest.mark.parametrize("text", ["", "val.accuracy", "val.accuracy >= high", ">= 3", "a ~ 3", "import os"])
def test_other_forms_are_refused(text):
    with pytest.raises(ValueError, match="an expectation must have the form"):
        expectation.parse(text)
