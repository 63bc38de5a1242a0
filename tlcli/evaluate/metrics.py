"""Labels and probabilities to Scores."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from tlcli.evaluate.scores import ClassScores, Scores

EPSILON = 1e-7


def score(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Scores:
    """Compare `int (images,)` labels with `float (images, classes)` probabilities, 0-1; at least one image.

    Loss is the mean negative logarithm of the right class's probability, which is taken as at least 1e-7.
    """
    guesses = probabilities.argmax(axis=1)
    numbers = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, guesses, labels=numbers, average=None, zero_division=0.0
    )
    per_class = tuple(
        ClassScores(name, int(n), float(p), float(r), float(f))
        for name, n, p, r, f in zip(classes, support, precision, recall, f1, strict=True)
    )
    right = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    rank = (probabilities > right[:, None]).sum(axis=1)
    matrix = confusion_matrix(labels, guesses, labels=numbers)
    return Scores(
        count=len(labels),
        accuracy=float((guesses == labels).mean()),
        balanced_accuracy=float(recall[support > 0].mean()),
        loss=float(-np.log(np.clip(right, EPSILON, 1.0)).mean()),
        top_k={str(k): float((rank < k).mean()) for k in (3, 5) if k < len(classes)},
        per_class=per_class,
        confusion=tuple(tuple(int(value) for value in row) for row in matrix),
        classes=tuple(classes),
    )
