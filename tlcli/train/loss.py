"""The loss of training: cross-entropy or focal loss on the labels, and imitation of a teacher."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tlcli.recipe.objective import TeacherSpec
from tlcli.recipe.schema import Recipe

# Lower bound of probabilities before their logarithm is taken, as in Keras.
EPSILON = 1e-7


def label_loss(recipe: Recipe) -> keras.losses.Loss:
    """The loss on one-hot labels. A focal loss of gamma 0 is the cross-entropy."""
    smoothing = recipe.augment.label_smoothing
    if recipe.loss.name == "focal":
        # Weights of classes are sample weights here, so alpha is 1.
        return keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=recipe.loss.gamma, label_smoothing=smoothing)
    return keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)


def training_loss(recipe: Recipe, classes: int) -> keras.losses.Loss:
    """The loss for the labels of `targets`."""
    loss = label_loss(recipe)
    return loss if recipe.teacher is None else DistillationLoss(loss, recipe.teacher, classes)


def training_accuracy(recipe: Recipe, classes: int) -> keras.metrics.Metric:
    """The accuracy for the labels of `targets`, called `accuracy`."""
    if recipe.teacher is None:
        return keras.metrics.CategoricalAccuracy(name="accuracy")

    def accuracy(both: Any, probabilities: Any) -> Any:
        return keras.metrics.categorical_accuracy(both[:, :classes], probabilities)

    return keras.metrics.MeanMetricWrapper(accuracy, name="accuracy")


def targets(one_hot: np.ndarray, taught: np.ndarray | None) -> np.ndarray:
    """What the training loss compares with: the labels, and beside them the probabilities of a teacher.

    Args:
        one_hot: `float32 (batch, classes)`.
        taught: Probabilities at the temperature of the teacher, `float32 (batch, classes)`; None without a teacher.
    """
    return one_hot if taught is None else np.concatenate([one_hot, taught], axis=1)


class DistillationLoss(keras.losses.Loss):
    """The weighted mean of a loss on the labels and the cross-entropy with a teacher, both at one temperature.

    The latter counts temperature squared times, so that the weight means the same at any temperature.
    Ref: Hinton et al. 2015, arXiv 1503.02531.
    """

    def __init__(self, hard: keras.losses.Loss, teacher: TeacherSpec, classes: int) -> None:
        super().__init__(name="distillation")
        self.hard: Callable[[Any, Any], Any] = hard.call
        self.teacher, self.classes = teacher, classes

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each image.

        Args:
            y_true: From `targets`, `float32 (batch, 2 * classes)`.
            y_pred: Probabilities `float32 (batch, classes)`.
        """
        labels, taught = y_true[:, : self.classes], y_true[:, self.classes :]
        temperature, weight = self.teacher.temperature, self.teacher.weight
        scaled = ops.log(ops.clip(y_pred, EPSILON, 1.0)) / temperature
        soft = -ops.sum(taught * ops.log_softmax(scaled, axis=-1), axis=-1)
        return (1 - weight) * self.hard(labels, y_pred) + weight * temperature**2 * soft
