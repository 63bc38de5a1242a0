"""Labels and probabilities to Scores, as scikit-learn defines them; a test compares.

Computed here, since to import `sklearn.metrics` took 0.6 s, a tenth of a quick run.
"""

from collections.abc import Sequence

import numpy as np

from tlcli.evaluate.scores import ClassScores, Scores

EPSILON = 1e-7


def score(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Scores:
    """Compare `int (images,)` labels with `float (images, classes)` probabilities, 0-1; at least one image.

    Loss is the mean negative logarithm of the right class's probability, which is taken as at least 1e-7.
    """
    guesses = probabilities.argmax(axis=1)
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(matrix, (labels, guesses), 1)
    hits, support, guessed = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    precision, recall, f1 = _share(hits, guessed), _share(hits, support), _share(2 * hits, support + guessed)
    per_class = tuple(
        ClassScores(name, int(n), float(p), float(r), float(f))
        for name, n, p, r, f in zip(classes, support, precision, recall, f1, strict=True)
    )
    right = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    rank = (probabilities > right[:, None]).sum(axis=1)
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


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """One by the other; 0 where there is nothing."""
    shares = np.zeros(len(whole))
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares
