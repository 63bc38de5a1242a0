"""The learning rate of every batch, where the compiled step can read it."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


class Pace:
    """The learning rates of an epoch, as a callable for an optimiser.

    They are variables of the optimiser. A rate that Python sets before each batch would keep JAX from working ahead: it
    has to wait for the batch before, to bring the values of all variables to Python.

    Attributes:
        rates: The rate of each batch of the epoch, a variable, float32 (batches,).
    """

    def __init__(self, trained_by: keras.optimizers.Optimizer, batches: int) -> None:
        """Take the place of the learning rate of an optimiser, which must not have trained yet.

        Args:
            trained_by: The optimiser.
            batches: Batches of an epoch.
        """
        self._optimizer = getattr(trained_by, "inner_optimizer", trained_by)
        self.rates = self._optimizer.add_variable((batches,), name="rates")
        self._first = self._optimizer.add_variable((), dtype="int32", name="first_batch")
        self._optimizer.learning_rate = self

    def begin_epoch(self, rates: Sequence[float]) -> None:
        """Set the rate of every batch of the epoch that begins."""
        self._first.assign(int(ops.convert_to_numpy(self._optimizer._iterations)))
        self.rates.assign(list(rates))

    def __call__(self) -> Any:
        """The rate of the next batch, float32; after the last one still its rate."""
        batch = ops.cast(self._optimizer._iterations, "int32") - self._first
        return ops.take(self.rates, ops.clip(batch, 0, self.rates.shape[0] - 1))
