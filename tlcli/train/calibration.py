"""Temperature scaling, and the scores of a classifier during training.

Temperature scaling divides the logits of a classifier by one number, the temperature. Above 1 it makes the
probabilities more even, below 1 more extreme; the predicted classes stay the same. The best temperature is the one with
the lowest cross-entropy on images that were not trained on, here the validation images. The probabilities then agree
better with how often the predictions are correct.
Ref: Guo et al. 2017, arXiv 1706.04599.

Scores during training are computed at the best temperature too, see docs/adr/008.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from tlcli.data.pixels import Examples
from tlcli.model.head import OUTPUT_LAYER
from tlcli.train.session import Session

# Lower bound of probabilities before their logarithm is taken, as in Keras.
EPSILON = 1e-7
# Standard deviation of the normal prior, around 0, of the logarithm of the temperature. Without a prior, a dozen
# images that are all classified correctly would demand certainty.
PRIOR_DEVIATION = 0.5
# Bound of the absolute logarithm of the temperature.
_MAX_LOG_TEMPERATURE = 3.0
# Most training images that are scored for the advice, which needs their error rate to a percent or two.
MAX_TRAIN_SCORED = 500


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The most likely temperature (above 0) given the probabilities and labels of some images.

    Args:
        probabilities: float (images, classes), 0-1; at least one image.
        labels: int (images,).
    """
    logits = _logits(probabilities)

    def cost(log_temperature: float) -> float:
        losses = _cross_entropies(logits / np.exp(log_temperature), labels)
        return float(losses.sum() + 0.5 * (log_temperature / PRIOR_DEVIATION) ** 2)

    bounds = (-_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE)
    result = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(result.x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities after division of their logits by the temperature, float64 (images, classes)."""
    logits = _logits(probabilities) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """The logits of probabilities, up to a constant per image."""
    return np.asarray(np.log(np.clip(probabilities.astype(np.float64), EPSILON, 1.0)))


def _cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each image, float64 (images,)."""
    highest = logits.max(axis=1)
    log_sums = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return np.asarray(log_sums - logits[np.arange(len(labels)), labels])


@dataclass(frozen=True)
class ImageScores:
    """Scores per image, each `float64 (images,)`.

    Attributes:
        losses: Cross-entropies.
        hits: 1 for a correct prediction, else 0.
        certainties: The probability of the predicted class, 0-1, without temperature.
    """

    losses: np.ndarray
    hits: np.ndarray
    certainties: np.ndarray

    def values_for(self, metric: str) -> list[float]:
        """One number per image for a metric: the losses for `val_loss`, else the hits."""
        return [float(value) for value in (self.losses if metric == "val_loss" else self.hits)]


def score(session: Session, examples: Examples) -> ImageScores:
    """Score images without augmentation, in inference mode.

    The losses are those at the temperature that fits these images. So a head that was trained with label smoothing can
    be compared with one that was not.
    """
    return score_probabilities(predict(session, examples), examples.labels)


def score_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> ImageScores:
    """Score probabilities, float (images, classes), at the temperature that fits them to the labels, int (images,)."""
    # If training diverged, no temperature fits. NaN probabilities then give NaN losses.
    if np.isfinite(probabilities).all():
        temperature = fit_temperature(probabilities, labels)
        correct = apply_temperature(probabilities, temperature)[np.arange(len(labels)), labels]
    else:
        correct = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses = -np.log(np.clip(correct, EPSILON, 1.0))
    hits = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    return ImageScores(losses, hits, probabilities.max(axis=1).astype(np.float64))


def predict(session: Session, examples: Examples) -> np.ndarray:
    """Probabilities `float32 (images, classes)` in the order of the examples."""
    stage = session.stage
    return stage.outputs(stage.scorer, examples, batch=session.recipe.performance.batch_size)


def calibrate(session: Session) -> float:
    """Divide the logits of the classifier by the temperature that fits the validation images.

    With folds, it fits the out-of-fold probabilities.

    Returns:
        The temperature.
    """
    if session.out_of_fold is None:
        temperature = fit_temperature(predict(session, session.val), session.val.labels)
    else:
        temperature = fit_temperature(session.out_of_fold, session.pool.labels)
    output = session.classifier.model.get_layer(OUTPUT_LAYER)
    output.set_weights([weight / np.float32(temperature) for weight in output.get_weights()])
    return temperature


def train_score(session: Session) -> dict[str, Any]:
    """Count, accuracy (0-1) and loss on a random sample of at most `MAX_TRAIN_SCORED` training images."""
    chosen = np.random.default_rng(session.recipe.seed).permutation(len(session.train))[:MAX_TRAIN_SCORED]
    examples = Examples(session.train.pixels, session.train.rows[chosen], session.train.labels[chosen])
    probabilities = predict(session, examples)
    correct = probabilities[np.arange(len(chosen)), examples.labels].astype(np.float64)
    return {
        "count": len(chosen),
        "accuracy": float((probabilities.argmax(axis=1) == examples.labels).mean()),
        "loss": float(-np.log(np.clip(correct, EPSILON, 1.0)).mean()),
    }
