"""A run's time budget: what is left of it, and what still fits by the costs measured so far."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tlcli.train.policy import Step

# Multiply-adds a second that a small CPU reaches on these networks until this machine has been measured.
DEFAULT_FLOPS_PER_SECOND = 3e10
# What building and tracing a step takes until one was seen, seconds.
DEFAULT_SETUP_S = 4.0
# What is set aside for scoring and saving: a share of the budget, 0-1, within these bounds in seconds.
RESERVE, LEAST_RESERVE_S, MOST_RESERVE_S = 0.1, 3.0, 60.0


@dataclass(frozen=True)
class Work:
    """Multiply-adds of a step: once, before it begins, and in each epoch."""

    before: float
    an_epoch: float


@dataclass
class Budget:
    """How long a run may take.

    Attributes:
        total_s: Seconds; infinity for no budget.
        began: When this process began the run, on `clock`.
        spent_s: Seconds that others had spent on the run before.
        flops_per_second: Reached in passes through frozen layers, as measured last.
        trained_flops_per_second: Reached in training, as measured last; None before.
        setup_s: What a step took, besides its work, as measured last.
        clock: Seconds that only grow.
    """

    total_s: float = math.inf
    began: float = 0.0
    spent_s: float = 0.0
    flops_per_second: float = DEFAULT_FLOPS_PER_SECOND
    trained_flops_per_second: float | None = None
    setup_s: float = DEFAULT_SETUP_S
    clock: Callable[[], float] = field(default=time.perf_counter, repr=False)

    @property
    def taken_s(self) -> float:
        """Seconds that the run has taken."""
        return self.spent_s + self.clock() - self.began

    @property
    def left_s(self) -> float:
        """Seconds left for training: below 0 when it must end."""
        reserve = min(max(RESERVE * self.total_s, LEAST_RESERVE_S), MOST_RESERVE_S)
        return self.total_s - reserve - self.taken_s

    @property
    def is_over(self) -> bool:
        """Whether training must end now."""
        return self.left_s <= 0

    def fitted(self, step: Step, work: Work, *, is_first: bool = False) -> tuple[Step | None, str]:
        """The step with as many of its epochs as fit, or None and why there is no time for even one.

        The first step of a run is never left out, since there must be something to end with.
        """
        if math.isinf(self.total_s) or not step.epochs:
            return step, ""
        before_s = self.setup_s + work.before / self.flops_per_second
        epoch_s = work.an_epoch / (self.trained_flops_per_second or self.flops_per_second)
        left_s = self.left_s
        fitting = int((left_s - before_s) / epoch_s) if epoch_s > 0 else step.epochs
        if is_first:
            fitting = max(fitting, 1)
        if fitting < 1:
            reason = f"not tried: one epoch of it takes about {before_s + epoch_s:.0f} s,"
            return None, f"{reason} and {max(left_s, 0):.0f} s of the budget are left"
        return replace(step, epochs=min(step.epochs, fitting)), ""

    def is_out_for(self, seconds: float) -> bool:
        """Whether another piece of work of so many seconds would take too long."""
        return self.left_s < seconds

    def note_pass(self, operations: float, seconds: float) -> None:
        """Learn from a pass through frozen layers."""
        if operations > 0 and seconds > 0:
            self.flops_per_second = operations / seconds

    def note_epoch(self, operations: float, seconds: float, setup_s: float | None = None) -> None:
        """Learn from an epoch of training, and from what the step took before it, if it was the first."""
        if operations > 0 and seconds > 0:
            self.trained_flops_per_second = operations / seconds
        if setup_s is not None:
            self.setup_s = setup_s


def seconds_of(text: str) -> float:
    """Seconds of a time such as `10m`.

    >>> seconds_of("1.5 h")
    5400.0
    """
    return float(text.rstrip("smh ")) * {"s": 1.0, "m": 60.0, "h": 3600.0}[text.rstrip()[-1]]
