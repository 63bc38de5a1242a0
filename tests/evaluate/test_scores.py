"""Scores compared with scikit-learn, and with an example counted by hand."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from tlcli.evaluate.scores import score


def random_predictions(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(classes), count)
    return random.integers(0, classes, count), probabilities.astype(np.float32)


def class_names(classes: int) -> list[str]:
    return [f"class {index}" for index in range(classes)]


@given(st.integers(1, 40), st.integers(2, 8), st.integers(0, 10**6))
def test_scores_are_those_of_scikit_learn(count, classes, seed):
    labels, probabilities = random_predictions(count, classes, seed)
    scores = score(labels, probabilities, class_names(classes))
    predictions, indices = probabilities.argmax(axis=1), range(classes)
    with warnings.catch_warnings():
        # scikit-learn warns about predicted classes that have no images.
        warnings.simplefilter("ignore", UserWarning)
        balanced = reference.balanced_accuracy_score(labels, predictions)
    assert scores.count == count
    assert scores.accuracy == pytest.approx(reference.accuracy_score(labels, predictions))
    assert scores.balanced_accuracy == pytest.approx(balanced)
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    assert scores.loss == pytest.approx(reference.log_loss(labels, exact, labels=indices), rel=1e-4)
    assert np.array_equal(scores.confusion, reference.confusion_matrix(labels, predictions, labels=indices))
    expected = reference.precision_recall_fscore_support(
        labels, predictions, labels=indices, average=None, zero_division=0.0
    )
    for value, name in zip(expected, ("precision", "recall", "f1", "support"), strict=True):
        assert [getattr(row, name) for row in scores.per_class] == pytest.approx(value), name
    for k in (3, 5):
        if k < classes:
            top = reference.top_k_accuracy_score(labels, exact, k=k, labels=indices)
            assert scores.top_k[str(k)] == pytest.approx(top)
        else:
            assert str(k) not in scores.top_k


def test_an_example_counted_by_hand():
    """Two images of a, three of b, none of c. One b is predicted as c."""
    labels = np.array([0, 0, 1, 1, 1])
    probabilities = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]])
    scores = score(labels, probabilities, ["a", "b", "c"])
    assert scores.accuracy == pytest.approx(3 / 5)
    # The class without images does not count.
    assert scores.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores.loss == pytest.approx(-np.log([0.7, 0.4, 0.8, 0.6, 0.3]).mean())
    assert scores.confusion == ((1, 1, 0), (0, 2, 1), (0, 0, 0))
    a, b, c = scores.per_class
    assert (a.name, a.support, a.precision, a.recall) == ("a", 2, 1.0, 0.5)
    assert (b.support, b.precision, b.recall) == (3, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert b.f1 == pytest.approx(2 / 3)
    assert (c.support, c.precision, c.recall, c.f1) == (0, 0.0, 0.0, 0.0)
    assert scores.top_k == {}


def test_confusion_has_labels_as_rows_and_predictions_as_columns():
    scores = score(np.array([0, 0, 0]), np.array([[0.1, 0.9]] * 3), ["a", "b"])
    assert scores.confusion == ((0, 3), (0, 0))


def test_a_wrong_prediction_with_probability_1_has_a_finite_loss():
    assert score(np.array([0]), np.array([[0.0, 1.0]], np.float32), ["a", "b"]).loss == pytest.approx(-np.log(1e-7))
    assert score(np.array([1]), np.array([[0.0, 1.0]], np.float32), ["a", "b"]).loss == 0


def test_top_k_is_the_fraction_of_labels_among_the_k_most_probable():
    probabilities = np.array([[0.3, 0.25, 0.2, 0.15, 0.07, 0.03]] * 6)
    scores = score(np.arange(6), probabilities, class_names(6))
    assert scores.top_k == {"3": pytest.approx(3 / 6), "5": pytest.approx(5 / 6)}


def test_the_json_has_the_documented_shape():
    labels, probabilities = random_predictions(20, 4, 0)
    scores = score(labels, probabilities, class_names(4))
    document = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert {"count", "accuracy", "loss", "top_k", "per_class", "confusion", "classes"} <= set(document)
    assert document["classes"] == class_names(4)
    assert document["confusion"] == [list(row) for row in scores.confusion]
    assert document["per_class"][2] == {
        "name": "class 2",
        "support": scores.per_class[2].support,
        "precision": scores.per_class[2].precision,
        "recall": scores.per_class[2].recall,
        "f1": scores.per_class[2].f1,
    }
