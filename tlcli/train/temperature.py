"""Temperature: one factor on all logits, fitted on validation images.

Losses of two networks compare what they know only when neither speaks louder than it knows: label smoothing makes a
network too modest, memorised training images make it too sure, and either moves the loss more than a few images more
or less that it gets right. Ref: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599.
"""

import numpy as np
from scipy.optimize import minimize_scalar

# Smallest probability that is distinguished from zero, as Keras does it.
EPSILON = 1e-7
# The logarithm of the temperature is taken to be normal around 0 with this deviation, before any image is seen: a
# dozen images that are all right would otherwise ask for certainty.
PRIOR_DEVIATION = 0.5
_FURTHEST = 3.0


def fitted(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The most likely temperature, above 0; above 1 it makes the probabilities more even.

    Args:
        probabilities: float (images, classes), 0-1; at least one image.
        labels: int (images,).
    """
    logits = _logits(probabilities)

    def cost(log_temperature: float) -> float:
        losses = _losses(logits / np.exp(log_temperature), labels)
        return float(losses.sum() + 0.5 * (log_temperature / PRIOR_DEVIATION) ** 2)

    found = minimize_scalar(cost, bounds=(-_FURTHEST, _FURTHEST), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def applied(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities at another temperature, float64 of the same shape."""
    logits = _logits(probabilities) / temperature
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Logits up to a constant an image."""
    return np.asarray(np.log(np.clip(probabilities.astype(np.float64), EPSILON, 1.0)))


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    high = logits.max(axis=1)
    total = high + np.log(np.exp(logits - high[:, None]).sum(axis=1))
    return np.asarray(total - logits[np.arange(len(labels)), labels])
