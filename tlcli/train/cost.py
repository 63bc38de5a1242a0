"""What training some layers takes, from their measurements alone: memory, and arithmetic an epoch. Pure.

Ref: Chen et al. 2016, arXiv 1604.06174, on what the backward pass holds. The factors were fitted to the peak of the
whole process with TensorFlow 2.21 on a CPU, at 224: within a fifth for MobileNetV2, ResNet-50, VGG16, EfficientNetB0
and DenseNet121. ConvNeXt took up to three quarters more where outputs are stored.
"""

from collections.abc import Collection, Iterator

from tlcli.model.groups import Layer, LayerGroup, LayerGroups
from tlcli.recipe.spec import BatchNormPolicy

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
CHEAP = 2e11
# The share of the groups that a round of thawing takes where more would be dear.
SHARE = 0.3
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
    below, above = split(groups, trained)
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
    return epoch_flops(0, flops, train=images, val=0, stored=False) <= CHEAP


def thawed_at_once(groups: LayerGroups, images: int) -> int:
    """How many groups from the top a round of thawing takes: all where that is cheap, and else a share of them."""
    return len(groups) if is_cheap(groups, images) else max(round(SHARE * len(groups)), 1)


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


def split(groups: LayerGroups, trained: Collection[str]) -> tuple[tuple[LayerGroup, ...], tuple[LayerGroup, ...]]:
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
