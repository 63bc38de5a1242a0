"""What training costs in memory and arithmetic, and the time budget of a run."""

import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from tlcli.model.groups import Layer, LayerGroup, LayerGroups
from tlcli.recipe.fields import BatchNormPolicy, seconds_of
from tlcli.train.policy import Step

# What Python, Keras and TensorFlow take before the first image, bytes.
BASE_MEMORY = 1_000_000_000
# Images that go through the frozen layers at once where their outputs are stored.
PASS_IMAGES = 64
# Copies of all weights (the network, its beginning, its best), and of trained ones besides (gradients, the optimiser).
ALL_COPIES, TRAINED_COPIES = 4, 5
# A pass without gradients holds about three tensors of the largest size at once.
HELD_IN_PASS = 3
# Outputs of convolutions and dense layers are held for the gradients, and a third more on the way.
HELD_FOR_GRADIENTS = 4 / 3
# Multiply-adds of training that are cheap: a quarter of a minute of two cores.
CHEAP_FLOPS = 2e11
# The share of the groups that a round of thawing takes where more would be dear.
ROUND_SHARE = 0.3
_KERNELS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Dense")
# Held besides. The gradient of ReLU needs only what it gave, which the next convolution holds anyway.
_HELD_TOO = (
    "Concatenate",
    "Multiply",
    "Activation silu",
    "Activation hard_silu",
    "Activation gelu",
    "Activation sigmoid",
)


def memory_bytes(
    groups: LayerGroups, trained: Collection[str], *, batch: int, stored: bool, batch_norm: BatchNormPolicy
) -> int:
    """About how much memory the process takes at its peak, bytes.

    Args:
        groups: The network.
        trained: Names of the layers that are trained, besides the head.
        batch: Images per step.
        stored: Whether outputs of frozen layers are stored, in passes of their own.
        batch_norm: Of trained layers. Only on batch statistics is BatchNorm an operation of its own.
    """
    below, above = split_groups(groups, trained)
    held = sum(_held(layer, batch_norm) for layer in _leaves(above)) * batch
    largest = max((layer.activation_bytes for layer in _leaves(below)), default=0)
    passing = HELD_IN_PASS * largest * (PASS_IMAGES if stored else batch)
    weights = 4 * ALL_COPIES * groups.parameters
    weights += 4 * TRAINED_COPIES * sum(layer.trainable_parameters for layer in groups.layers if layer.name in trained)
    # A pass that fills the store is over before training begins.
    return int(BASE_MEMORY + weights + (max(passing, held) if stored else passing + held))


def is_cheap(groups: LayerGroups, images: int) -> bool:
    """Whether everything can be trained in seconds; `images` are those of all epochs together."""
    flops = sum(group.flops for group in groups)
    return epoch_flops(0, flops, train=images, val=0, stored=False) <= CHEAP_FLOPS


def groups_per_round(groups: LayerGroups, images: int) -> int:
    """How many groups from the top a round of thawing takes: all where that is cheap, and else a share of them."""
    return len(groups) if is_cheap(groups, images) else max(round(ROUND_SHARE * len(groups)), 1)


def epoch_flops(below: int, above: int, *, train: int, val: int, stored: bool) -> float:
    """Multiply-adds of an epoch: forwards through all that is not stored, and twice that back above the frontier.

    Args:
        below: Of one image below the frontier.
        above: Of one image above it.
        train: Images that are trained on.
        val: Images that are scored.
        stored: Whether outputs at the frontier are stored.
    """
    return (3 * train + val) * above + (0 if stored else (train + val) * below)


def split_groups(
    groups: LayerGroups, trained: Collection[str]
) -> tuple[tuple[LayerGroup, ...], tuple[LayerGroup, ...]]:
    """The groups below the highest frontier under all that is trained, and those above it."""
    cut = groups.cut_below(trained)
    at = groups.names.index(cut.name) + 1 if cut else 0
    return groups.groups[:at], groups.groups[at:]


def _held(layer: Layer, batch_norm: BatchNormPolicy) -> float:
    kept = HELD_FOR_GRADIENTS if layer.kind in _KERNELS else float(layer.kind in _HELD_TOO)
    if layer.kind == "BatchNormalization" and batch_norm == "train":
        kept = 1
    return kept * layer.activation_bytes


def _leaves(groups: Collection[LayerGroup]) -> Iterator[Layer]:
    for group in groups:
        for layer in group.members or group.layers:
            yield from layer.parts or (layer,)


# Multiply-adds a second that a small CPU reaches on these networks until this machine has been measured.
DEFAULT_FLOPS_PER_SECOND = 3e10
# What building and tracing a step takes until one was seen, seconds.
DEFAULT_SETUP_S = 4.0
# What is set aside for scoring and saving: a share of the budget, 0-1, within these bounds in seconds.
RESERVE, LEAST_RESERVE_S, MOST_RESERVE_S = 0.1, 3.0, 60.0


@dataclass(frozen=True)
class StepCost:
    """Multiply-adds of a step: once, before it begins, and in each epoch."""

    before: float
    epoch_flops: float


def budget_of(total: str | None, began: float, *, spent_s: float) -> "Budget":
    """The time budget of a run.

    Args:
        total: The recipe's `performance.budget`, such as `10m`; None for no limit.
        began: When this process began the run, seconds on `time.perf_counter`.
        spent_s: Seconds that an interrupted run had taken before.
    """
    return Budget(math.inf if total is None else seconds_of(total), began, spent_s)


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

    def fit(self, step: Step, work: StepCost, *, is_first: bool = False) -> tuple[Step | None, str]:
        """The step with as many of its epochs as fit, or None and why there is no time for even one.

        The first step of a run is never left out, since there must be something to end with.
        """
        if math.isinf(self.total_s) or not step.epochs:
            return step, ""
        before_s = self.setup_s + work.before / self.flops_per_second
        epoch_s = work.epoch_flops / (self.trained_flops_per_second or self.flops_per_second)
        left_s = self.left_s
        fitting = int((left_s - before_s) / epoch_s) if epoch_s > 0 else step.epochs
        if is_first:
            fitting = max(fitting, 1)
        if fitting < 1:
            reason = f"not tried: one epoch of it takes about {before_s + epoch_s:.0f} s,"
            return None, f"{reason} and {max(left_s, 0):.0f} s of the budget are left"
        return replace(step, epochs=min(step.epochs, fitting)), ""

    def would_exceed(self, seconds: float) -> bool:
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
