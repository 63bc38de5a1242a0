"""Scores against scikit-learn and against counting by hand."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from tlcli.evaluate.scores import score


def random_answers(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(classes), count)
    return random.integers(0, classes, count), probabilities.astype(np.float32)


def names(classes: int) -> list[str]:
    return [f"class {index}" for index in range(classes)]


@given(st.integers(1, 40), st.integers(2, 8), st.integers(0, 10**6))
def test_scores_are_those_of_scikit_learn(count, classes, seed):
    labels, probabilities = random_answers(count, classes, seed)
    found, guesses, numbers = score(labels, probabilities, names(classes)), probabilities.argmax(axis=1), range(classes)
    with warnings.catch_warnings():
        # It warns of classes that were guessed and do not occur.
        warnings.simplefilter("ignore", UserWarning)
        balanced = reference.balanced_accuracy_score(labels, guesses)
    assert found.count == count
    assert found.accuracy == pytest.approx(reference.accuracy_score(labels, guesses))
    assert found.balanced_accuracy == pytest.approx(balanced)
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    assert found.loss == pytest.approx(reference.log_loss(labels, exact, labels=numbers), rel=1e-4)
    assert np.array_equal(found.confusion, reference.confusion_matrix(labels, guesses, labels=numbers))
    expected = reference.precision_recall_fscore_support(
        labels, guesses, labels=numbers, average=None, zero_division=0.0
    )
    for value, name in zip(expected, ("precision", "recall", "f1", "support"), strict=True):
        assert [getattr(each, name) for each in found.per_class] == pytest.approx(value), name
    for k in (3, 5):
        if k < classes:
            top = reference.top_k_accuracy_score(labels, exact, k=k, labels=numbers)
            assert found.top_k[str(k)] == pytest.approx(top)
        else:
            assert str(k) not in found.top_k


def test_a_case_counted_by_hand():
    """Two of a, three of b, none of c; one b is taken for c."""
    labels = np.array([0, 0, 1, 1, 1])
    probabilities = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]])
    found = score(labels, probabilities, ["a", "b", "c"])
    assert found.accuracy == pytest.approx(3 / 5)
    # The class without images does not count as failed.
    assert found.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.loss == pytest.approx(-np.log([0.7, 0.4, 0.8, 0.6, 0.3]).mean())
    assert found.confusion == ((1, 1, 0), (0, 2, 1), (0, 0, 0))
    a, b, c = found.per_class
    assert (a.name, a.support, a.precision, a.recall) == ("a", 2, 1.0, 0.5)
    assert (b.support, b.precision, b.recall) == (3, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert b.f1 == pytest.approx(2 / 3)
    assert (c.support, c.precision, c.recall, c.f1) == (0, 0.0, 0.0, 0.0)
    assert found.top_k == {}


def test_rows_are_truth_and_columns_are_guesses():
    found = score(np.array([0, 0, 0]), np.array([[0.1, 0.9]] * 3), ["a", "b"])
    assert found.confusion == ((0, 3), (0, 0))


def test_a_certain_mistake_has_a_finite_loss():
    assert score(np.array([0]), np.array([[0.0, 1.0]], np.float32), ["a", "b"]).loss == pytest.approx(-np.log(1e-7))
    assert score(np.array([1]), np.array([[0.0, 1.0]], np.float32), ["a", "b"]).loss == 0


def test_top_k_counts_ranks():
    probabilities = np.array([[0.3, 0.25, 0.2, 0.15, 0.07, 0.03]] * 6)
    found = score(np.arange(6), probabilities, names(6))
    assert found.top_k == {"3": pytest.approx(3 / 6), "5": pytest.approx(5 / 6)}


def test_the_json_is_the_contract():
    labels, probabilities = random_answers(20, 4, 0)
    found = score(labels, probabilities, names(4))
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert {"count", "accuracy", "loss", "top_k", "per_class", "confusion", "classes"} <= set(document)
    assert document["classes"] == names(4)
    assert document["confusion"] == [list(row) for row in found.confusion]
    assert document["per_class"][2] == {
        "name": "class 2",
        "support": found.per_class[2].support,
        "precision": found.per_class[2].precision,
        "recall": found.per_class[2].recall,
        "f1": found.per_class[2].f1,
    }
