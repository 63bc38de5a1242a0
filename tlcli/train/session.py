"""What the steps of one run share: the images, the classifier as it is trained, and what was found so far."""

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tlcli.data.augment import Augment, bounds_of
from tlcli.model.classifier import Classifier
from tlcli.model.groups import LayerGroups
from tlcli.recipe.schema import Recipe
from tlcli.train import checkpoint, events, policy, temperature


@dataclass(frozen=True)
class Examples:
    """Some images of the pixel cache, in a fixed order.

    Attributes:
        pixels: The cache, `uint8 (cached, height, width, 3)`.
        rows: Which of its rows, `int64 (images,)`.
        labels: Their classes, `int64 (images,)`.
    """

    pixels: np.ndarray
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Scored:
    """Per-image results on some examples: cross-entropies and hits (1 or 0), `float64 (images,)`."""

    losses: np.ndarray
    hits: np.ndarray

    def judged(self, metric: str) -> list[float]:
        """The numbers that a metric compares, one per image."""
        return [float(value) for value in (self.losses if metric == "val_loss" else self.hits)]


class Trainee(keras.Model):
    """The classifier as it is trained: augmentation before it, and the backbone told apart from the head.

    A subclass, because `fit` hands `training=True` to every layer of a functional model, whatever its call said: only
    an explicit call can keep the backbone on its stored statistics while the head drops out.
    """

    def __init__(self, classifier: Classifier, augment: Augment) -> None:
        super().__init__(name="trainee")
        if classifier.features is None or classifier.head is None:
            raise RuntimeError("a classifier loaded from a file cannot be trained")
        self.augment = augment
        self.features: Any = classifier.features
        self.head: Any = classifier.head
        self.uses_batch_statistics = False

    def call(self, pixels: Any, training: bool = False) -> Any:
        """Pixels `(batch, height, width, 3)`, 0-255, to probabilities `float32 (batch, classes)`."""
        images = self.augment(keras.ops.cast(pixels, "float32"), training=training)
        features = self.features(images, training=training and self.uses_batch_statistics)
        return self.head(features, training=training)


@dataclass
class Session:
    """What the steps of one run share.

    `history` collects one row an epoch; `prefix_s` is the time spent on features of the frozen network, seconds.
    """

    recipe: Recipe
    classifier: Classifier
    groups: LayerGroups
    train: Examples
    val: Examples
    checkpoint: checkpoint.Checkpoint
    observe: events.Observer
    outcomes: list[policy.Outcome] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    prefix_s: float = 0.0

    def __post_init__(self) -> None:
        augment = Augment(bounds_of(self.recipe.augment), seed=self.recipe.seed)
        self.trainee = Trainee(self.classifier, augment)
        # A model of its own for scoring: compiling the trainee anew for every step would trace it anew, too.
        self.scorer = keras.Sequential([keras.Input((*self.classifier.size, 3), dtype="uint8"), self.trainee])

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides weights, JSON-ready."""
        return {
            "outcomes": [policy.record(outcome) for outcome in self.outcomes],
            "history": self.history,
            "prefix_s": self.prefix_s,
        }

    def take_up(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint. Steps follow from the recipe, so only their results are stored."""
        for line in state["outcomes"]:
            step = policy.next_step(self.recipe.phases, self.groups, self.outcomes)
            if step is None or step.name != line["step"]:
                raise RuntimeError(f"the checkpoint's step {line['step']!r} does not follow from the recipe")
            self.outcomes.append(policy.outcome_from(step, line))
        self.history, self.prefix_s = list(state["history"]), float(state["prefix_s"])


def score(session: Session, examples: Examples) -> Scored:
    """Per-image losses and hits without augmentation, in inference mode.

    Losses are those at the temperature that fits these examples, so that they compare between a head that was trained
    with label smoothing and one that was not.
    """
    probabilities = predict(session, examples)
    # Where training has failed there is nothing to fit; what is not a number shows in the loss.
    if np.isfinite(probabilities).all():
        level = temperature.fitted(probabilities, examples.labels)
        right = temperature.applied(probabilities, level)[np.arange(len(examples)), examples.labels]
    else:
        right = probabilities[np.arange(len(examples)), examples.labels].astype(np.float64)
    losses = -np.log(np.clip(right, temperature.EPSILON, 1.0))
    return Scored(losses, (probabilities.argmax(axis=1) == examples.labels).astype(np.float64))


def predict(session: Session, examples: Examples) -> np.ndarray:
    """Probabilities `float32 (images, classes)` in the order of the examples."""
    return in_batches(session.scorer, examples, batch=session.recipe.performance.batch)


def in_batches(model: keras.Model, examples: Examples, *, batch: int) -> np.ndarray:
    """What a model gives for examples, `float32 (images, …)`, reading `batch` images of the cache at a time."""
    parts = (examples.pixels[examples.rows[at : at + batch]] for at in range(0, len(examples), batch))
    steps = -(-len(examples) // batch)
    return np.asarray(model.predict(((part,) for part in parts), steps=steps, verbose=0))
