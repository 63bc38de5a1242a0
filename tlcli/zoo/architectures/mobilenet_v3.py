"""MobileNetV3 as in torchvision and timm.

Ref: Howard et al. 2019, arXiv 1905.02244; numbers of modules of `torchvision/models/mobilenetv3.py` (BSD-3-Clause).
"""

from collections.abc import Sequence

import keras

from tlcli.zoo.architectures.modules import InvertedResidual, conv_norm, divisible, image_input, inverted_residual

Row = tuple[int, int, int, bool, str, int]
"""Kernel size, channels inside and at the end, whether channels are scaled, activation (`RE`, `HS`), and stride."""

LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, "RE", 1), (3, 64, 24, False, "RE", 2), (3, 72, 24, False, "RE", 1), (5, 72, 40, True, "RE", 2),
    (5, 120, 40, True, "RE", 1), (5, 120, 40, True, "RE", 1), (3, 240, 80, False, "HS", 2),
    (3, 200, 80, False, "HS", 1), (3, 184, 80, False, "HS", 1), (3, 184, 80, False, "HS", 1),
    (3, 480, 112, True, "HS", 1), (3, 672, 112, True, "HS", 1), (5, 672, 160, True, "HS", 2),
    (5, 960, 160, True, "HS", 1), (5, 960, 160, True, "HS", 1),
)  # fmt: skip
SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, "RE", 2), (3, 72, 24, False, "RE", 2), (3, 88, 24, False, "RE", 1), (5, 96, 40, True, "HS", 2),
    (5, 240, 40, True, "HS", 1), (5, 240, 40, True, "HS", 1), (5, 120, 48, True, "HS", 1),
    (5, 144, 48, True, "HS", 1), (5, 288, 96, True, "HS", 2), (5, 576, 96, True, "HS", 1), (5, 576, 96, True, "HS", 1),
)  # fmt: skip
_FUNCTIONS = {"RE": "relu", "HS": "hard_silu"}


def build(size: tuple[int, int], *, rows: Sequence[Row] | str, epsilon: float = 1e-3) -> keras.Model:
    """Build the network without its top.

    Args:
        size: Input height and width, pixels.
        rows: The blocks, or `large` or `small` for those of the paper.
        epsilon: Of BatchNorm; timm trained with another one than torchvision.
    """
    blocks = {"large": LARGE, "small": SMALL}[rows] if isinstance(rows, str) else rows
    image = image_input(size)
    x = conv_norm(image, "features.0", 16, 3, stride=2, function="hard_silu", epsilon=epsilon)
    for number, (kernel, expanded, channels, has_gate, function, stride) in enumerate(blocks, start=1):
        squeezed = divisible(expanded // 4) if has_gate else 0
        gates = ("relu", "hard_sigmoid")
        block = InvertedResidual(expanded, channels, kernel, stride, squeezed, _FUNCTIONS[function], gates, epsilon)
        x = inverted_residual(x, f"features.{number}.block", block)
    last = f"features.{len(blocks) + 1}"
    x = conv_norm(x, last, 6 * x.shape[-1], 1, function="hard_silu", epsilon=epsilon)
    return keras.Model(image, x, name="mobilenet_v3")
