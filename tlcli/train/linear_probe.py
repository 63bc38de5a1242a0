"""The linear probe: multinomial logistic regression on frozen features, solved to its optimum.

Ref: the probe as the start of fine-tuning: Kumar et al. 2022, arXiv 2202.10054. L-BFGS-B: Zhu et al. 1997.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

# Inverse L2 strengths on features of unit mean variance, from the strongest penalty to the weakest.
INVERSE_L2 = tuple(10.0 ** (half / 2) for half in range(-8, 5))
# The strength without validation images.
DEFAULT_INVERSE_L2 = INVERSE_L2[4]

# Features that differ less count as constant: float32 cannot hold the weights that would tell them apart.
MIN_DEVIATION = 1e-30
# Weights of a head from which on training deeper layers changes the features by far more than the head can bear. Those
# on pretrained networks are below 10.
HUGE_WEIGHT = 1e6

# Size of a chunk of features: a megabyte stays in the processor's cache between the two products that read it.
CHUNK_BYTES = 2**20

# The stopping rule of scikit-learn. The last digits of a weakly penalised fit do not matter, because validation chooses
# the penalty.
STOP = {"maxiter": 200, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}


@dataclass(frozen=True)
class Features:
    """Pooled features `float32 (images, channels)`, possibly a memory map, and labels `int64 (images,)`."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Solution:
    """A linear head: `kernel float32 (channels, classes)`, `bias float32 (classes,)`, and its inverse L2 strength."""

    kernel: np.ndarray
    bias: np.ndarray
    inverse_l2: float

    @property
    def warning(self) -> str:
        """A sentence about weights above `HUGE_WEIGHT`; empty if there are none."""
        largest = float(np.abs(self.kernel).max())
        if largest < HUGE_WEIGHT:
            return ""
        problem = f"the features of the frozen network hardly differ, and the head has weights of {largest:.0e}"
        return f"linear probe: {problem}. Training deeper layers may diverge. Use pretrained weights, or init: random."


def solve(
    train: Features, val: Features, *, classes: int, balanced: bool = False, inverse_l2: float = DEFAULT_INVERSE_L2
) -> Solution:
    """Fit multinomial logistic regression by L-BFGS for a range of penalties; the head with the lowest validation loss.

    The optimum is that of scikit-learn's LogisticRegression. Features are read in chunks, so memory does not grow with
    the number of images. Without validation images, the penalty is given.

    One number scales all features. A scale for each of them would give huge weights to features that hardly ever
    differ, which fit noise, and which 8-bit numbers cannot hold; see docs/adr/020-probe-scale.md.

    Args:
        train: Training images.
        val: Validation images; may be empty.
        classes: Number of classes.
        balanced: Whether all classes have the same total weight.
        inverse_l2: Inverse L2 strength without validation images.

    Raises:
        RuntimeError: If no penalty has a finite validation loss.
    """
    best: Solution | None = None
    best_loss = np.inf
    # The products are small. Threads that wait for each other make them at least ten times slower.
    with threadpool_limits(1):
        problem = _problem(train, classes, balanced=balanced)
        weights = np.zeros((train.x.shape[1] + 1) * classes)
        for strength in INVERSE_L2 if len(val.y) else (inverse_l2,):
            # Each fit starts from the solution for the next stronger penalty.
            weights = minimize(problem.value, weights, args=(strength,), method="L-BFGS-B", jac=True, options=STOP).x
            solution = problem.solution(weights, strength)
            loss = float(score(solution, val)[0].mean()) if len(val.y) else 0.0
            if loss >= best_loss * 1.02:
                break
            if loss < best_loss:
                best, best_loss = solution, loss
    if best is None:
        raise RuntimeError("the probe found no finite solution")
    return best


def score(solution: Solution, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropies and hits (1 if the most probable class is the label, else 0), both `float64 (images,)`."""
    losses, hits = np.empty(len(features.y)), np.empty(len(features.y))
    for chunk in _chunks(features.x):
        logits = features.x[chunk] @ solution.kernel + solution.bias
        labels = features.y[chunk]
        losses[chunk] = cross_entropies(logits, labels)
        hits[chunk] = logits.argmax(axis=1) == labels
    return losses, hits


def probabilities(solution: Solution, features: Features) -> np.ndarray:
    """Probabilities of all classes, `float32 (images, classes)`."""
    parts = [features.x[chunk] @ solution.kernel + solution.bias for chunk in _chunks(features.x)]
    return np.exp(_log_probabilities(np.concatenate(parts)))


def cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Negative log-probability of the labelled class, float `(images,)`, from logits `(images, classes)`."""
    return -_log_probabilities(logits)[np.arange(len(labels)), labels]


@dataclass(frozen=True)
class _Problem:
    """Logistic regression on centred features of unit mean variance, `(x - mean) / deviation`.

    Attributes:
        train: Training images.
        mean: Mean of each channel, `float32 (channels,)`.
        deviation: Root of the mean variance of the channels; 1 if it is below `MIN_DEVIATION`.
        class_weights: Weight of an image of each class, `float64 (classes,)`. Over all images they sum to 1.
    """

    train: Features
    mean: np.ndarray
    deviation: float
    class_weights: np.ndarray

    def value(self, flat: np.ndarray, inverse_l2: float) -> tuple[float, np.ndarray]:
        """The penalised loss and its gradient.

        Products are float32, sums over images float64.

        Args:
            flat: The kernel and, as last row, the bias, `float64 ((channels + 1) * classes,)`.
            inverse_l2: Inverse L2 strength.
        """
        weights = flat.reshape(-1, len(self.class_weights))
        kernel, bias = weights[:-1], weights[-1]
        scaled = (kernel / self.deviation).astype(np.float32)
        loss, gradient = 0.0, np.zeros_like(weights)
        for x, labels in self._centred():
            log_probabilities = _log_probabilities(x @ scaled + bias)
            correct, image_weights = (np.arange(len(labels)), labels), self.class_weights[labels]
            loss -= image_weights @ log_probabilities[correct]
            errors = np.exp(log_probabilities)
            errors[correct] -= 1
            errors *= image_weights[:, None]
            gradient[:-1] += (errors.T.astype(np.float32) @ x).T
            gradient[-1] += errors.sum(axis=0)
        penalty = self._penalty(inverse_l2)
        gradient[:-1] = gradient[:-1] / self.deviation + penalty * kernel
        return float(loss + penalty / 2 * np.vdot(kernel, kernel)), gradient.ravel()

    def solution(self, flat: np.ndarray, inverse_l2: float) -> Solution:
        """The head for features that are neither centred nor scaled."""
        weights = flat.reshape(-1, len(self.class_weights))
        kernel = weights[:-1] / self.deviation
        bias = weights[-1] - self.mean.astype(np.float64) @ kernel
        return Solution(kernel.astype(np.float32), bias.astype(np.float32), inverse_l2)

    def _penalty(self, inverse_l2: float) -> float:
        # With two classes, scikit-learn penalises the difference of the two kernels, which is twice each of them.
        scale = 2 if len(self.class_weights) == 2 else 1
        return scale / (inverse_l2 * len(self.train.y))

    def _centred(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Chunks of the features minus their mean, and of the labels. Each chunk overwrites the one before.

        Large means would cancel in the products and leave rounding errors that mislead the solver.
        """
        x, labels = self.train.x, self.train.y
        buffer = np.empty((_chunk_rows(x), x.shape[1]), np.float32)
        for chunk in _chunks(x):
            yield np.subtract(x[chunk], self.mean, out=buffer[: len(labels[chunk])]), labels[chunk]


def _problem(train: Features, classes: int, *, balanced: bool) -> _Problem:
    """The problem for these training images; `balanced` gives all classes the same total weight."""
    count = len(train.y)
    mean = sum(train.x[chunk].sum(axis=0, dtype=np.float64) for chunk in _chunks(train.x)) / count
    squares = sum(((train.x[chunk] - mean) ** 2).sum(axis=0) for chunk in _chunks(train.x))
    deviation = float(np.sqrt(np.mean(squares) / count))
    deviation = deviation if deviation >= MIN_DEVIATION else 1.0
    images = np.bincount(train.y, minlength=classes)
    weights = 1 / np.maximum(images, 1) / np.count_nonzero(images) if balanced else np.full(classes, 1 / count)
    return _Problem(train, mean.astype(np.float32), deviation, weights)


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _chunk_rows(x: np.ndarray) -> int:
    """Number of images per chunk."""
    return max(1, min(len(x), CHUNK_BYTES // (4 * x.shape[1])))


def _chunks(x: np.ndarray) -> Iterator[slice]:
    """Slices of at most `CHUNK_BYTES` of features, in order."""
    rows = _chunk_rows(x)
    return (slice(start, start + rows) for start in range(0, len(x), rows))
