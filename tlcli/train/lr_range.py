"""The learning rate range test: training at a rate that rises until the loss does.

Ref: Smith 2017, arXiv 1506.01186.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlcli.train.stage import Trainee

# Lowest and highest rate of the test, and the number of batches between them.
LOWEST, HIGHEST, BATCHES = 1e-6, 10.0, 64
# The rate that is taken, as a share of the rate at which the smoothed loss was lowest: beyond that it diverges.
SAFETY = 0.1
# Share of the old mean in the smoothed loss of each batch.
SMOOTHING = 0.8
# The test ends when the smoothed loss is so many times its lowest value.
DIVERGED = 4.0


@dataclass(frozen=True)
class LrRange:
    """The result of a range test.

    Attributes:
        lr: The learning rate to use.
        rates: The rate of each batch, rising.
        losses: The smoothed training loss before the step at each rate.
    """

    lr: float
    rates: list[float]
    losses: list[float]


def range_test(trainee: Trainee, batches: Iterable[tuple[Any, ...]]) -> LrRange:
    """Train with a rate that rises from batch to batch, and choose one.

    Args:
        trainee: A compiled model. Its weights and the state of its optimiser change.
        batches: Batches as for `fit`, at least one; at most `BATCHES` are used.
    """
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for number, batch in zip(range(BATCHES), batches, strict=False):
        rate = LOWEST * (HIGHEST / LOWEST) ** (number / (BATCHES - 1))
        trainee.optimizer.learning_rate = rate
        # The loss that Keras reports is a mean over all batches since the last reset.
        trainee.reset_metrics()
        loss = float(trainee.train_on_batch(*batch, return_dict=True)["loss"])
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed = mean / (1 - SMOOTHING ** (number + 1))
        if not math.isfinite(loss) or smoothed > DIVERGED * min([*losses, smoothed]):
            break
        rates.append(rate)
        losses.append(smoothed)
    if not rates:
        return LrRange(LOWEST, [], [])
    return LrRange(float(f"{SAFETY * rates[int(np.argmin(losses))]:.2g}"), rates, losses)
