"""The time budget of a run, and estimates of what training costs in memory and multiply-adds."""

import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from tlcli.model.layer_groups import Layer, LayerGroup, LayerGroups
from tlcli.recipe.fields import BatchNormPolicy, seconds_of
from tlcli.train.policy import Step

# Multiply-adds per second of a small CPU on these networks. Used until this machine has been measured.
DEFAULT_FLOPS_PER_SECOND = 3e10
# Seconds to build and trace the graph of a step. Used until a step has been measured.
DEFAULT_SETUP_S = 4.0
# Time reserved for scoring and saving: a fraction (0-1) of the budget, within these bounds in seconds.
RESERVE_FRACTION, MIN_RESERVE_S, MAX_RESERVE_S = 0.1, 3.0, 60.0

# Memory of Python, Keras and TensorFlow before the first image, bytes.
BASE_MEMORY_BYTES = 1_000_000_000
# Images per batch of a pass that computes features to store.
PASS_BATCH = 64
# Copies of all weights (in the network, at the start, at the best epoch), and further copies of the trained ones
# (gradients, optimiser state).
WEIGHT_COPIES, TRAINED_COPIES = 4, 5
# Tensors of the largest size that a pass without gradients holds at once.
PASS_TENSORS = 3
# The outputs of convolutions and dense layers are held for the gradients. Temporary tensors take another third.
HELD_FOR_GRADIENTS = 4 / 3
# Training with at most this many multiply-adds is cheap: it takes a quarter of a minute on two cores.
CHEAP_FLOPS = 2e11
_KERNEL_LAYERS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Dense")
# Other layers whose outputs are held. ReLU is not one of them: its gradient needs only its output, which the next
# convolution holds anyway.
_OTHER_HELD_LAYERS = (
    "Concatenate",
    "Multiply",
    "Activation silu",
    "Activation hard_silu",
    "Activation gelu",
    "Activation sigmoid",
)


@dataclass(frozen=True)
class StepCost:
    """Multiply-adds of a step: once before its first epoch, and per epoch."""

    setup_flops: float
    epoch_flops: float


@dataclass
class Budget:
    """The time that a run may take, and the speed measured so far.

    Attributes:
        total_s: Seconds; infinity for no limit.
        began: When this process began the run, in seconds on `clock`.
        spent_s: Seconds that earlier processes spent on the run.
        flops_per_second: Speed of the latest pass through frozen layers.
        trained_flops_per_second: Speed of the latest training epoch; None before the first.
        setup_s: Seconds that the latest step took besides its multiply-adds.
        clock: A monotonic clock, in seconds.
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
        """Seconds that the run has taken so far."""
        return self.spent_s + self.clock() - self.began

    @property
    def left_s(self) -> float:
        """Seconds left for training; 0 or below if training must end."""
        reserve_s = min(max(RESERVE_FRACTION * self.total_s, MIN_RESERVE_S), MAX_RESERVE_S)
        return self.total_s - reserve_s - self.taken_s

    @property
    def is_over(self) -> bool:
        """True if training must end now."""
        return self.left_s <= 0

    def shorten(self, step: Step, cost: StepCost, *, is_first: bool = False) -> tuple[Step | None, str]:
        """The step with as many of its epochs as fit; None and the reason if not even one fits.

        The first step of a run keeps at least one epoch, because a run must end with a trained classifier.
        """
        if math.isinf(self.total_s) or not step.epochs:
            return step, ""
        setup_s = self.setup_s + cost.setup_flops / self.flops_per_second
        epoch_s = cost.epoch_flops / (self.trained_flops_per_second or self.flops_per_second)
        left_s = self.left_s
        epochs = int((left_s - setup_s) / epoch_s) if epoch_s > 0 else step.epochs
        if is_first:
            epochs = max(epochs, 1)
        if epochs < 1:
            needed = f"one epoch takes about {setup_s + epoch_s:.0f} s"
            return None, f"skipped: {needed} ({max(left_s, 0):.0f} s of the budget left)"
        return replace(step, epochs=min(step.epochs, epochs)), ""

    def would_exceed(self, seconds: float) -> bool:
        """True if work of this many seconds no longer fits."""
        return self.left_s < seconds

    def record_pass(self, flops: float, seconds: float) -> None:
        """Update the speed from a pass through frozen layers."""
        if flops > 0 and seconds > 0:
            self.flops_per_second = flops / seconds

    def record_epoch(self, flops: float, seconds: float, setup_s: float | None = None) -> None:
        """Update the speed from a training epoch.

        Args:
            flops: Multiply-adds of the epoch.
            seconds: Duration of the epoch, without `setup_s`.
            setup_s: Seconds for building and tracing before the epoch, if it was the first of its step.
        """
        if flops > 0 and seconds > 0:
            self.trained_flops_per_second = flops / seconds
        if setup_s is not None:
            self.setup_s = setup_s


def budget_of(total: str | None, began: float, *, spent_s: float) -> Budget:
    """The time budget of a run.

    Args:
        total: The recipe's `performance.budget`, such as `10m`; None for no limit.
        began: When this process began the run, in seconds on `time.perf_counter`.
        spent_s: Seconds that an interrupted run took before.
    """
    return Budget(math.inf if total is None else seconds_of(total), began, spent_s)


def memory_bytes(
    groups: LayerGroups, trained: Collection[str], *, batch: int, stored: bool, batch_norm: BatchNormPolicy
) -> int:
    """Estimated peak memory of the process, bytes.

    Args:
        groups: The layer groups of the backbone.
        trained: Names of the trained layers of the backbone. The head is always trained.
        batch: Images per batch.
        stored: Whether features of frozen layers are computed in a separate pass and stored.
        batch_norm: Policy of the trained layers. Only with `train` is the output of BatchNorm held.
    """
    below, above = _split_at_cut_point(groups, trained)
    training = sum(_held_bytes(layer, batch_norm) for layer in _leaves(above)) * batch
    largest = max((layer.activation_bytes for layer in _leaves(below)), default=0)
    passing = PASS_TENSORS * largest * (PASS_BATCH if stored else batch)
    weights = 4 * WEIGHT_COPIES * groups.parameters
    weights += 4 * TRAINED_COPIES * sum(layer.trainable_parameters for layer in groups.layers if layer.name in trained)
    # A separate pass is over before training begins.
    return int(BASE_MEMORY_BYTES + weights + (max(passing, training) if stored else passing + training))


def is_cheap(groups: LayerGroups, images: int) -> bool:
    """True if the whole network can be trained on `images` (summed over all epochs) in seconds."""
    flops = sum(group.flops for group in groups)
    return epoch_flops(0, flops, train=images, val=0, stored=False) <= CHEAP_FLOPS


def epoch_flops(below: int, above: int, *, train: int, val: int, stored: bool) -> float:
    """Multiply-adds of an epoch.

    A forward pass costs its layers once, a backward pass above the cut point twice. Stored features cost nothing.

    Args:
        below: Multiply-adds per image below the cut point.
        above: Multiply-adds per image above it.
        train: Number of training images.
        val: Number of validation images.
        stored: Whether features at the cut point are stored.
    """
    return (3 * train + val) * above + (0 if stored else (train + val) * below)


def _split_at_cut_point(
    groups: LayerGroups, trained: Collection[str]
) -> tuple[tuple[LayerGroup, ...], tuple[LayerGroup, ...]]:
    """The groups below and above the highest cut point that has no trained layer below it."""
    cut = groups.cut_below(trained)
    index = groups.names.index(cut.name) + 1 if cut else 0
    return groups.groups[:index], groups.groups[index:]


def _held_bytes(layer: Layer, batch_norm: BatchNormPolicy) -> float:
    """Bytes per image that a layer holds for the gradients."""
    factor = HELD_FOR_GRADIENTS if layer.kind in _KERNEL_LAYERS else float(layer.kind in _OTHER_HELD_LAYERS)
    if layer.kind == "BatchNormalization" and batch_norm == "train":
        factor = 1
    return factor * layer.activation_bytes


def _leaves(groups: Collection[LayerGroup]) -> Iterator[Layer]:
    """All layers of the groups; a nested layer yields its parts."""
    for group in groups:
        for layer in group.members or group.layers:
            yield from layer.parts or (layer,)
