"""Expectations: their language, their errors, and their comparison with a record."""

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.errors import RecipeError
from tlcli.recipe import expectation, expression, load

RECORD = {
    "scores": {
        "val": {"accuracy": 0.91, "top_k": {"3": 0.99}, "confusion": [[3, 1], [0, 4]]},
        "test": {
            "accuracy": 0.5,
            "per_class": [
                {"name": "a b", "recall": 0.25},
                {"name": 'say "no"', "recall": 0.75},
                {"name": "0", "recall": 1.0},
            ],
        },
    },
    "seconds": {"total": 12.5, "phases": [5.0, 7.5]},
    "phases": [{"name": "head", "val_loss": 0.4}],
    "status": "complete",
    "baseline": {"scores": {"val": {"accuracy": 0.92}}, "seconds": {"total": 10}},
}


@pytest.mark.parametrize(
    ("text", "numbers", "passed"),
    [
        ("val.accuracy >= 0.90", [0.91], True),
        ("val.accuracy>0.91", [0.91], False),
        ("scores.test.accuracy == 5e-1", [0.5], True),
        ("seconds.total <= 12", [12.5], False),
        ("seconds.total < 13", [12.5], True),
        ("test.loss <= 9", [None], False),
        ("test.top_k.3 >= 0.1", [None], False),
        ("val.top_k.3 > .98", [0.99], True),
        ("val.accuracy >= baseline.val.accuracy - 0.01", [0.91, 0.92], True),
        ("val.accuracy >= baseline.val.accuracy", [0.91, 0.92], False),
        ("seconds.total <= 1.2 * baseline.seconds.total", [12.5, 10], False),
        ("baseline.test.loss > 0", [None], False),
        ("seconds.total > 1 or test.loss < 1", [12.5, None], False),
        ("not val.accuracy < 0.9 and (seconds.total > 60 or seconds.phases[1] == 7.5)", [0.91, 12.5, 7.5], True),
        ("seconds.total < 2 or seconds.total > 1 and seconds.total < 3", [12.5], False),
        ('test.per_class["a b"].recall >= 0.3', [0.25], False),
        (r"test.per_class['say \"no\"'].recall > test.per_class.0.recall / 2", [0.75, 1.0], True),
        ("val.confusion[0][1] <= 1", [1], True),
        ("phases.head.val_loss == phases[0].val_loss", [0.4, 0.4], True),
        ("phases[7].val_loss < 1", [None], False),
        ("val.accuracy / (test.accuracy - 0.5) > 1", [0.91, 0.5], False),
    ],
)
def test_expectations_compare_the_measured_numbers(text: str, numbers: list[float | None], passed: bool) -> None:
    [verdict] = expectation.check([text], RECORD)
    assert (list(verdict.numbers.values()), verdict.passed) == (numbers, passed)
    assert verdict.to_json()["measured"] == (numbers[0] if len(numbers) == 1 else None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("val.accuracy > 1", "measured 0.91"),
        ("val.accuracy > 1 or seconds.total < 1", "val.accuracy is 0.91, seconds.total is 12.5"),
        ("val.accuracy > 1 or test.loss < 1", "the record has no such number: test.loss"),
        ("1 / (val.accuracy - val.accuracy) > 1", "it divides by zero; val.accuracy is 0.91"),
    ],
)
def test_an_unmet_expectation_says_what_was_measured(text: str, reason: str) -> None:
    [verdict] = expectation.check([text], RECORD)
    assert str(verdict) == f"{text}: not met, {reason}"


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("val.acuracy > 0.9", "val.accuracy"),
        ("seconds.totl < 3", "seconds.total"),
        ("scores.tset.loss < 1", "scores.test.loss"),
        ("baseline.val.acuracy < 1", "baseline.val.accuracy"),
        ("0.9 <= vall.accuracy", "val.accuracy"),
        ("agreement.same_lable > 0.9", "agreement.same_label"),
        ("phases[0].val_los < 1", r"phases\[0\].val_loss"),
    ],
)
def test_an_unknown_number_gets_a_suggestion(text: str, suggestion: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown number .* Did you mean '{suggestion}'"):
        expectation.parse(text)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, "found 'the end'"),
        ("  val.accuracy", 3, "number without a limit"),
        ("val.accuracy >= high", 17, "unknown number high"),
        (">= 3", 1, "found '>='"),
        ("val.loss ~ 3", 10, "unexpected '~'"),
        ("import os", 8, "unexpected 'os'"),
        ("val.accuracy >= 90%", 19, "unexpected '%'"),
        ("0 < val.accuracy < 1", 3, "join two with and"),
        ("val.accuracy and 1 < 2", 1, "without a limit"),
        ("(val.loss < 1", 14, r"expected '\)'"),
        ("1e999 > val.loss", 1, "too large"),
        ('test.per_class["a"].recal > 1', 1, "unknown number"),
        ('test.per_class["a"] > 1', 1, "unknown number"),
        ("data.classes > 2", 1, "unknown number data.classes. Did you mean"),
        ("status > 1", 1, "no number"),
        ("val.accuracy >= baseline - 0.01", 17, "needs a key after it, such as baseline.val.accuracy"),
        ("val.loss < 1 and 1 < 2", 20, "compares no number of the run"),
        ("val.accuracy >= 90", 17, "from 0 to 1, such as 0.90 for 90 %"),
        ("1.5 < val.top_k.3", 1, "from 0 to 1"),
        ("val.loss != 1", 10, "write not … == …; signs are >= <= =="),
        ("val.loss < 1 && val.loss > 0", 14, "write and;"),
        ("val.loss ≥ 1", 10, "write >=;"),
        ("val.loss => 1", 10, "write >=;"),
        ("__import__('os').system('x') > 1", 11, r"unexpected '\('"),
        ("(" * 40 + "1", 32, "nested"),
        ("-" * 400 + "1 < 2", 32, "nested"),
        ("1 < " + "9" * 500, 501, "at most 500"),
    ],
)
def test_other_forms_are_refused_at_their_column(text: str, column: int, message: str) -> None:
    with pytest.raises(expression.ExpressionError, match=message) as caught:
        expectation.parse(text)
    assert caught.value.column == column


@given(st.text(alphabet='valoss.tect0123456789 ()<>=+-*/[]"andorn\\é\x00', max_size=60))
def test_any_text_is_an_expectation_or_one_clear_error(text: str) -> None:
    try:
        verdicts = expectation.check([text], RECORD)
    except expression.ExpressionError as error:
        problem: object = error.column
    else:
        problem = verdicts[0].passed
    assert isinstance(problem, int)


NUMBERS = st.integers(min_value=1, max_value=9).map(str)
SUMS = st.recursive(
    NUMBERS, lambda part: st.tuples(part, st.sampled_from("+-*/"), part).map(lambda parts: f"({' '.join(parts)})")
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 > 2 or 1 < 2 and 2 > 3", 0.0),
        ("1 - 2 - 3 == -4 and 8 / 4 / 2 == 1 and 1 + 2 * 3 == 7 and -2 * -(1 + 1) == 4", 1.0),
    ],
)
def test_operators_have_their_usual_ranks(text: str, value: float) -> None:
    assert expression.evaluate(expression.parse(text), {}) == value


@given(SUMS)
def test_arithmetic_is_that_of_python(text: str) -> None:
    node = expression.parse(f"{text} < 1").operands[0]
    try:
        expected = float(eval(text))
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            expression.evaluate(node, {})
    else:
        assert math.isclose(expression.evaluate(node, {}), expected)


def test_a_number_that_is_none_meets_nothing() -> None:
    [verdict] = expectation.check(["not val.loss > 1"], {"scores": {"val": {"loss": math.nan}}})
    assert (verdict.passed, verdict.reason) == (False, "not a number: val.loss")


def test_classes_that_are_not_there_are_found() -> None:
    text = 'test.per_class["Rok"].recall > 0.5 and data.per_class.Pawn.train > baseline.test.per_class.King.recall'
    assert list(expectation.unknown_classes(text, ["Pawn", "Rook"])) == [("Rok", "Did you mean 'Rook'?")]
    assert not list(expectation.unknown_classes("val.per_class[1].f1 > 0", ["Pawn", "Rook"]))


def test_known_numbers_are_documented_keys_of_the_record() -> None:
    from reference_pages import NESTED

    for pattern in expectation._NUMBERS:
        free = pattern.removesuffix(".**").removesuffix(".*")
        key = re.sub(r"^phases\.\*", "phases[]", pattern)
        key = re.sub(r"^data\.(\w+)\..*", r"data.\1.*", key)
        assert {key, free} & {*NESTED, *expectation.SECTIONS}, pattern
    for name in (*expectation._SCORES, "confusion", "top_k", "per_class[]"):
        assert f"scores.*.{name}" in NESTED


def test_the_sections_are_the_keys_of_the_record() -> None:
    from tlcli.report.record import RunRecord

    keys = {field.name for field in dataclasses.fields(RunRecord)}
    assert keys == set(expectation.SECTIONS) | {expectation.BASELINE}


def test_a_wrong_expectation_is_a_problem_of_the_recipe_with_its_line() -> None:
    text = "name: x\nphases: [{name: a, train: head}]\nexpect:\n  - val.accuracy > 0.5\n  - val.accuracy >= 90%\n"
    with pytest.raises(RecipeError) as caught:
        load.parse(text, origin="r.yaml")
    (problem,) = caught.value.problems
    assert str(problem) == (
        "r.yaml:5:5 expect[1]: column 19 of the expectation: unexpected '%': write a share, such as 0.90; "
        "signs are >= <= == > < + - * / and or not ( ) (got 'val.accuracy >= 90%')."
    )
