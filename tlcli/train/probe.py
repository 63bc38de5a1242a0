"""The linear probe: the best linear head on frozen features, solved instead of iterated.

Ref: as the start of fine-tuning, Kumar et al. 2022, arXiv 2202.10054; the solver, L-BFGS-B, Zhu et al. 1997.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

# Inverse L2 strengths on standardised features, from strongest penalty to weakest.
PENALTIES = tuple(10.0 ** (half / 2) for half in range(-8, 5))
# What is taken where nothing can choose.
UNVALIDATED = PENALTIES[4]

# Features whose deviation is below this share of their mean are constant as far as float32 can tell.
CONSTANT = 1e-6

# What is worked on at a time: a megabyte stays in the processor's cache between the two products that read it.
CHUNK_BYTES = 2**20

# As scikit-learn stops: the last digits of a weakly penalised fit do not matter, as validation chooses the penalty.
STOP = {"maxiter": 200, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}


@dataclass(frozen=True)
class Features:
    """Pooled features `float32 (images, channels)`, a memory map or not, and labels `int64 (images,)`."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Solution:
    """A linear head: `kernel float32 (channels, classes)`, `bias float32 (classes,)`, and the penalty chosen."""

    kernel: np.ndarray
    bias: np.ndarray
    inverse_l2: float


def solve(train: Features, val: Features, *, classes: int, balanced: bool = False) -> Solution:
    """Fit multinomial logistic regression by L-BFGS for a range of penalties; keep the lowest validation loss.

    The optimum is the one that scikit-learn's LogisticRegression describes. Features are read in chunks, so memory
    does not grow with their number. Without validation images the penalty is a middling one.
    """
    penalties = PENALTIES if len(val.y) else (UNVALIDATED,)
    best: Solution | None = None
    best_loss = np.inf
    # One thread: the products are small, and threads that wait for each other make it ten times slower and more.
    with threadpool_limits(1):
        problem = _problem(train, classes, balanced=balanced)
        weights = np.zeros((train.x.shape[1] + 1) * classes)
        for inverse_l2 in penalties:
            # From strong to weak, each from where the one before ended.
            weights = minimize(problem.value, weights, args=(inverse_l2,), method="L-BFGS-B", jac=True, options=STOP).x
            solution = problem.solution(weights, inverse_l2)
            loss = float(scored(solution, val)[0].mean()) if len(val.y) else 0.0
            if loss >= best_loss * 1.02:
                break
            if loss < best_loss:
                best, best_loss = solution, loss
    if best is None:
        raise RuntimeError("the probe found no finite solution")
    return best


def scored(solution: Solution, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Of every image the cross-entropy, and whether its class was found (1 or 0); both `float64 (images,)`."""
    losses, hits = np.empty(len(features.y)), np.empty(len(features.y))
    for part in _parts(features.x):
        logits = features.x[part] @ solution.kernel + solution.bias
        labels = features.y[part]
        losses[part] = cross_entropies(logits, labels)
        hits[part] = logits.argmax(axis=1) == labels
    return losses, hits


def cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Negative log-probability of the right class of every image; logits `(images, classes)`."""
    return -_log_probabilities(logits)[np.arange(len(labels)), labels]


@dataclass(frozen=True)
class _Problem:
    """Logistic regression on standardised features: `(x - mean) * factor`.

    Attributes:
        train: What is fitted.
        mean: Of each channel, float32.
        factor: One by the deviation of each channel, float64; 0 leaves a constant one out.
        class_weights: What an image of each class counts, float64; they sum to 1 over all images.
    """

    train: Features
    mean: np.ndarray
    factor: np.ndarray
    class_weights: np.ndarray

    def value(self, flat: np.ndarray, inverse_l2: float) -> tuple[float, np.ndarray]:
        """What is minimised, and its gradient; `flat` holds the kernel and, as its last row, the bias.

        Products are float32, all sums over images float64.
        """
        weights = flat.reshape(-1, len(self.class_weights))
        kernel, bias = weights[:-1], weights[-1]
        scaled = (kernel * self.factor[:, None]).astype(np.float32)
        loss, gradient = 0.0, np.zeros_like(weights)
        for x, labels in self._centred():
            found = _log_probabilities(x @ scaled + bias)
            right, counts = (np.arange(len(labels)), labels), self.class_weights[labels]
            loss -= counts @ found[right]
            errors = np.exp(found)
            errors[right] -= 1
            errors *= counts[:, None]
            gradient[:-1] += (errors.T.astype(np.float32) @ x).T
            gradient[-1] += errors.sum(axis=0)
        gradient[:-1] *= self.factor[:, None]
        penalty = self._penalty(inverse_l2)
        gradient[:-1] += penalty * kernel
        return float(loss + penalty / 2 * np.vdot(kernel, kernel)), gradient.ravel()

    def solution(self, flat: np.ndarray, inverse_l2: float) -> Solution:
        """The head for features as they are."""
        weights = flat.reshape(-1, len(self.class_weights))
        kernel = weights[:-1] * self.factor[:, None]
        bias = weights[-1] - self.mean.astype(np.float64) @ kernel
        return Solution(kernel.astype(np.float32), bias.astype(np.float32), inverse_l2)

    def _penalty(self, inverse_l2: float) -> float:
        # Of two classes, scikit-learn penalises the difference of their kernels, twice what each is from zero.
        sides = 2 if len(self.class_weights) == 2 else 1
        return sides / (inverse_l2 * len(self.train.y))

    def _centred(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The features less their mean, part by part, and the labels. A part is overwritten by the next.

        Without this, large means would cancel in the products, and their rounding errors mislead the search.
        """
        x, labels = self.train.x, self.train.y
        buffer = np.empty((_rows(x), x.shape[1]), np.float32)
        for part in _parts(x):
            yield np.subtract(x[part], self.mean, out=buffer[: len(labels[part])]), labels[part]


def _problem(train: Features, classes: int, *, balanced: bool) -> _Problem:
    count = len(train.y)
    mean = sum(train.x[part].sum(axis=0, dtype=np.float64) for part in _parts(train.x)) / count
    squares = sum(((train.x[part] - mean) ** 2).sum(axis=0) for part in _parts(train.x))
    deviation = np.sqrt(squares / count)
    # Equal numbers have a deviation of a few rounding errors, seldom of zero.
    is_constant = deviation <= CONSTANT * np.abs(mean)
    factor = np.where(is_constant, 0.0, 1 / np.where(is_constant, 1.0, deviation))
    images = np.bincount(train.y, minlength=classes)
    shares = 1 / np.maximum(images, 1) / np.count_nonzero(images) if balanced else np.full(classes, 1 / count)
    return _Problem(train, mean.astype(np.float32), factor, shares)


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _rows(x: np.ndarray) -> int:
    """Images worked on at a time."""
    return max(1, min(len(x), CHUNK_BYTES // (4 * x.shape[1])))


def _parts(x: np.ndarray) -> Iterator[slice]:
    rows = _rows(x)
    return (slice(at, at + rows) for at in range(0, len(x), rows))
