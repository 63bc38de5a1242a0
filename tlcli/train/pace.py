"""The learning rate of every batch, where the compiled step can read it."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tlcli.model.compiled import rounded_up

# Least number of rates for which there is room.
ROOM = 64
# Names of its variables.
RATES, FIRST = "rates", "first_batch"


class Pace:
    """The learning rates of an epoch, as a callable for an optimiser.

    They are variables of the optimiser. A rate that Python sets before each batch would keep JAX from working ahead: it
    has to wait for the batch before, to bring the values of all variables to Python.

    Attributes:
        rates: The rate of each batch of the epoch, then the last one repeated; a variable, float32 (numbers,).
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, batches: int) -> None:
        """Take the place of the learning rate of an optimiser, which must not have trained yet.

        Args:
            optimizer: The optimiser.
            batches: Most batches of an epoch. There is room for a few more, see `rounded_up`.
        """
        self._optimizer = _innermost(optimizer)
        self.rates = self._optimizer.add_variable((rounded_up(max(batches, ROOM)),), name=RATES)
        self._first = self._optimizer.add_variable((), dtype="int32", name=FIRST)
        self._optimizer.learning_rate = self

    def begin_epoch(self, rates: Sequence[float]) -> None:
        """Set the rate of every batch of the epoch that begins, at least one.

        A batch that a loss scale leaves out, because its gradients are not finite, takes no rate.
        """
        self._first.assign(int(ops.convert_to_numpy(self._optimizer._iterations)))
        self.rates.assign([*rates, *rates[-1:] * (self.rates.shape[0] - len(rates))])

    def __call__(self) -> Any:
        """The rate of the next batch, float32; after the last one still its rate."""
        batch = ops.cast(self._optimizer._iterations, "int32") - self._first
        return ops.take(self.rates, ops.clip(batch, 0, self.rates.shape[0] - 1))


def pace_of(optimizer: keras.optimizers.Optimizer) -> Pace:
    """The pace that took the place of the learning rate of an optimiser."""
    pace: Pace = _innermost(optimizer)._learning_rate
    return pace


def _innermost(optimizer: keras.optimizers.Optimizer) -> Any:
    """The optimiser that a loss scale wraps, or the optimiser itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)
