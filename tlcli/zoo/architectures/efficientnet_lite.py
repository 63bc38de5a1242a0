"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation and with ReLU6, for small devices.

Blocks, and the rule that neither stem, top, nor the repeats of the first and last stage scale: the TPU reference
implementation, models/official/efficientnet/lite of github.com/tensorflow/tpu, and arXiv 1905.11946.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

_STEM, _TOP = 32, 1280
# Expansion, filters, repeats, stride and kernel of each stage.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


@dataclass(frozen=True)
class _Block:
    """An inverted residual: its name, expansion, input and output channels, stride and kernel size."""

    name: str
    expansion: int
    inputs: int
    outputs: int
    stride: int
    kernel: int


def build(*, size: tuple[int, int], width: float = 1.0, depth: float = 1.0) -> keras.Model:
    """Build an EfficientNet-Lite without its top, with random weights.

    Args:
        size: Input height and width, pixels.
        width: Factor for the filters of the blocks: 1.0 for Lite0 and Lite1, 1.1 for Lite2.
        depth: Factor for the repeats of the stages: 1.0 for Lite0, 1.1 for Lite1, 1.2 for Lite2.

    Returns:
        From float32 (batch, height, width, 3), about -1..1, to (batch, height / 32, width / 32, 1280), at least 0.
    """
    inputs = keras.Input((*size, 3))
    x = _unit(inputs, "stem", keras.layers.Conv2D(_STEM, 3, 2, "same", use_bias=False, name="stem_conv"))
    for block in _blocks(width, depth):
        x = _residual(x, block)
    x = _unit(x, "top", keras.layers.Conv2D(_TOP, 1, use_bias=False, name="top_conv"))
    return keras.Model(inputs, x, name="efficientnet_lite")


def pytorch_names(*, width: float = 1.0, depth: float = 1.0) -> dict[str, str]:
    """The names of the layers with weights, and the names of these layers in PyTorch weights files."""
    names = {"stem_conv": "_conv_stem", "stem_bn": "_bn0"}
    for number, block in enumerate(_blocks(width, depth)):
        parts = ("expand", "depthwise", "project")
        # The BatchNorms keep their numbers in a block without expansion, where number 0 is missing.
        for index, part in list(enumerate(parts))[block.expansion == 1 :]:
            names[f"{block.name}_{part}_conv"] = f"_blocks.{number}._{part}_conv"
            names[f"{block.name}_{part}_bn"] = f"_blocks.{number}._bn{index}"
    return names | {"top_conv": "_conv_head", "top_bn": "_bn1"}


def _blocks(width: float, depth: float) -> Iterator[_Block]:
    channels = _STEM
    for number, (expansion, filters, repeats, stride, kernel) in enumerate(_STAGES, 1):
        is_inner = 1 < number < len(_STAGES)
        outputs = _scaled(filters, width)
        for index in range(math.ceil(repeats * depth) if is_inner else repeats):
            name = f"block{number}{chr(ord('a') + index)}"
            yield _Block(name, expansion, channels, outputs, 1 if index else stride, kernel)
            channels = outputs


def _scaled(filters: int, width: float) -> int:
    """The filters times `width`, as a multiple of 8 that is at least 90% of it."""
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def _residual(x: Any, block: _Block) -> Any:
    shortcut, name = x, block.name
    if block.expansion > 1:
        filters = block.inputs * block.expansion
        x = _unit(x, f"{name}_expand", keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_expand_conv"))
    depthwise = keras.layers.DepthwiseConv2D(
        block.kernel, block.stride, "same", use_bias=False, name=f"{name}_depthwise_conv"
    )
    x = _unit(x, f"{name}_depthwise", depthwise)
    x = keras.layers.Conv2D(block.outputs, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _batch_norm(f"{name}_project")(x)
    if block.stride == 1 and block.inputs == block.outputs:
        x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def _unit(x: Any, name: str, convolution: keras.layers.Layer) -> Any:
    """Convolution, BatchNorm and ReLU6."""
    return keras.layers.ReLU(6.0, name=f"{name}_relu6")(_batch_norm(name)(convolution(x)))


def _batch_norm(name: str) -> keras.layers.Layer:
    return keras.layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")
