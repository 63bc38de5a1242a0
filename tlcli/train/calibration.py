"""Scores of the trained classifier, and the temperature that calibrates its probabilities."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from tlcli.data.pixels import Examples
from tlcli.model.classifier import OUTPUT
from tlcli.train.session import Session

# Smallest probability that is distinguished from zero, as Keras does it.
EPSILON = 1e-7
# The logarithm of the temperature is taken to be normal around 0 with this deviation, before any image is seen: a
# dozen images that are all right would otherwise ask for certainty.
PRIOR_DEVIATION = 0.5
_FURTHEST = 3.0
# Training images that are scored for the advice.
MOST_TRAIN_SCORED = 2000


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
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


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
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


@dataclass(frozen=True)
class Scored:
    """Per-image results on some examples: cross-entropies and hits (1 or 0), `float64 (images,)`."""

    losses: np.ndarray
    hits: np.ndarray

    def values_for(self, metric: str) -> list[float]:
        """The numbers that a metric compares, one per image."""
        return [float(value) for value in (self.losses if metric == "val_loss" else self.hits)]


def score(session: Session, examples: Examples) -> Scored:
    """Per-image losses and hits without augmentation, in inference mode.

    Losses are those at the temperature that fits these examples, so that they compare between a head that was trained
    with label smoothing and one that was not.
    """
    probabilities = predict(session, examples)
    # Where training has failed there is nothing to fit; what is not a number shows in the loss.
    if np.isfinite(probabilities).all():
        level = fit_temperature(probabilities, examples.labels)
        right = apply_temperature(probabilities, level)[np.arange(len(examples)), examples.labels]
    else:
        right = probabilities[np.arange(len(examples)), examples.labels].astype(np.float64)
    losses = -np.log(np.clip(right, EPSILON, 1.0))
    return Scored(losses, (probabilities.argmax(axis=1) == examples.labels).astype(np.float64))


def predict(session: Session, examples: Examples) -> np.ndarray:
    """Probabilities `float32 (images, classes)` in the order of the examples."""
    here = session.stage
    return here.outputs(here.scorer, examples, batch=session.recipe.performance.batch_size)


def calibrate(session: Session) -> float:
    """Divide the logits of the head by the temperature that fits the validation images, and return it.

    Its guesses stay what they are; its probabilities come nearer to how often it is right.
    """
    level = fit_temperature(predict(session, session.val), session.val.labels)
    head = session.classifier.model.get_layer(OUTPUT)
    head.set_weights([weight / np.float32(level) for weight in head.get_weights()])
    return level


def train_score(session: Session) -> dict[str, Any]:
    """Accuracy (0-1), loss and count on plain training images, a random sample of at most `MOST_TRAIN_SCORED`."""
    chosen = np.random.default_rng(session.recipe.seed).permutation(len(session.train))[:MOST_TRAIN_SCORED]
    examples = Examples(session.train.pixels, session.train.rows[chosen], session.train.labels[chosen])
    found = predict(session, examples)
    right = found[np.arange(len(chosen)), examples.labels].astype(np.float64)
    return {
        "count": len(chosen),
        "accuracy": float((found.argmax(axis=1) == examples.labels).mean()),
        "loss": float(-np.log(np.clip(right, EPSILON, 1.0)).mean()),
    }
