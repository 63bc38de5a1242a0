"""The linear probe: the best linear head on frozen features, solved instead of iterated.

Ref: as the start of fine-tuning, Kumar et al. 2022, arXiv 2202.10054.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

# Inverse L2 strengths on standardised features, from strongest penalty to weakest.
PENALTIES = tuple(10.0**exponent for exponent in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0))

# Features whose deviation is below this share of their mean are constant as far as float32 can tell.
CONSTANT = 1e-6


@dataclass(frozen=True)
class Features:
    """Pooled features `float32 (images, channels)` and labels `int64 (images,)`."""

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

    Without validation images the middle of the range is taken.
    """
    mean, deviation = train.x.mean(axis=0), train.x.std(axis=0)
    # Equal numbers have a deviation of a few rounding errors, seldom of zero.
    deviation[deviation <= CONSTANT * np.abs(mean)] = 1.0
    scaled = (train.x - mean) / deviation
    penalties = PENALTIES if len(val.y) else (PENALTIES[len(PENALTIES) // 2],)
    best: Solution | None = None
    best_loss = np.inf
    model = LogisticRegression(max_iter=200, warm_start=True, class_weight="balanced" if balanced else None)
    for penalty in penalties:
        model.C = penalty
        # One thread: the products are small, and threads that wait for each other made it fourteen times slower here.
        with warnings.catch_warnings(), threadpool_limits(1):
            # The last digits of a weakly penalised fit do not matter: the penalty is chosen on validation.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaled, train.y)
        kernel, bias = _unscaled(*_both_sides(model, classes), mean, deviation)
        loss = cross_entropy(val.x @ kernel + bias, val.y) if len(val.y) else 0.0
        if loss >= best_loss * 1.02:
            break
        if loss < best_loss:
            best, best_loss = Solution(kernel, bias, penalty), loss
    if best is None:
        raise RuntimeError("the probe found no finite solution")
    return best


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-probability of the right class; logits `(images, classes)`."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sums - shifted[np.arange(len(labels)), labels]).mean())


def _both_sides(model: LogisticRegression, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients `(classes, channels)` and offsets; two classes are stored as one by scikit-learn."""
    if classes == 2:
        return np.vstack([-model.coef_ / 2, model.coef_ / 2]), np.array([-0.5, 0.5]) * model.intercept_[0]
    return model.coef_, model.intercept_


def _unscaled(
    coefficients: np.ndarray, offsets: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    kernel = (coefficients / deviation).T
    return kernel.astype(np.float32), (offsets - mean @ kernel).astype(np.float32)
