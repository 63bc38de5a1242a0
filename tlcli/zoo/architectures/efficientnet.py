"""EfficientNet as in torchvision and timm (not the variants `tf_*` of timm, which pad as TensorFlow does).

Ref: Tan and Le 2019, arXiv 1905.11946; numbers of modules of `torchvision/models/efficientnet.py` (BSD-3-Clause).
"""

import math
from collections.abc import Sequence

import keras

from tlcli.zoo.architectures.modules import InvertedResidual, conv_norm, divisible, image_input, inverted_residual

# Factor of expansion, kernel size, stride, channels, and number of blocks of each stage.
_STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip


def build(
    size: tuple[int, int],
    *,
    width: float,
    depth: float,
    epsilon: float = 1e-5,
    stages: Sequence[Sequence[int]] = _STAGES,
) -> keras.Model:
    """Build the network without its top.

    Args:
        size: Input height and width, pixels.
        width: Factor on all channels.
        depth: Factor on the number of blocks.
        epsilon: Of BatchNorm.
        stages: The stages of B0.
    """
    image = image_input(size)
    x = conv_norm(image, "features.0", divisible(32 * width), 3, stride=2, function="silu", epsilon=epsilon)
    for stage, (expansion, kernel, stride, base, count) in enumerate(stages, start=1):
        channels = divisible(base * width)
        for number in range(math.ceil(count * depth)):
            before = x.shape[-1]
            expanded = divisible(before * expansion)
            block = InvertedResidual(
                expanded, channels, kernel, 1 if number else stride, max(1, before // 4), "silu", ("silu", "sigmoid"),
                epsilon,
            )  # fmt: skip
            x = inverted_residual(x, f"features.{stage}.{number}.block", block)
    x = conv_norm(x, f"features.{len(stages) + 1}", 4 * x.shape[-1], 1, function="silu", epsilon=epsilon)
    return keras.Model(image, x, name="efficientnet")
