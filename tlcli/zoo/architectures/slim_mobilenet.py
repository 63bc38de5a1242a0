"""MobileNet V1 and V2 as TF-Slim builds them (nets/mobilenet_v1.py and nets/mobilenet/ of its model library)."""

from typing import Any

from tlcli.zoo.architectures.slim_layers import Layers, add
from tlcli.zoo.architectures.slim_widths import mobilenet_v1_width, mobilenet_v2_width

# Filters and strides after the first convolution.
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
_V2 = (
    (16, 1), (24, 2), (24, 1), (32, 2), *[(32, 1)] * 2, (64, 2), *[(64, 1)] * 3, *[(96, 1)] * 3, (160, 2),
    *[(160, 1)] * 2, (320, 1),
)  # fmt: skip
_EXPANSION = 6


def mobilenet_v1(x: Any, *, depth_multiplier: float = 1.0) -> Any:
    """MobileNet V1 without top (Howard et al. 2017, arXiv 1704.04861).

    Args:
        x: Symbolic float (batch, height, width, 3), -1 to 1.
        depth_multiplier: Factor on the number of channels.

    Returns:
        Symbolic float (batch, height / 32, width / 32, channels).
    """
    layers = Layers(activation="relu6")
    x = layers.conv(x, "Conv2d_0", mobilenet_v1_width(32, depth_multiplier), kernel=3, stride=2)
    for number, (channels, stride) in enumerate(_V1, start=1):
        x = layers.depthwise(x, f"Conv2d_{number}_depthwise", stride)
        x = layers.conv(x, f"Conv2d_{number}_pointwise", mobilenet_v1_width(channels, depth_multiplier))
    return x


def mobilenet_v2(x: Any, *, depth_multiplier: float = 1.0, wide_top: bool = True) -> Any:
    """MobileNet V2 without top (Sandler et al. 2018, arXiv 1801.04381).

    Args:
        x: Symbolic float (batch, height, width, 3), -1 to 1.
        depth_multiplier: Factor on the number of channels.
        wide_top: Whether the last convolution keeps its 1280 channels if the factor is below 1.

    Returns:
        Symbolic float (batch, height / 32, width / 32, channels).
    """
    layers = Layers(activation="relu6")
    x = layers.conv(x, "Conv", mobilenet_v2_width(32, depth_multiplier), kernel=3, stride=2)
    for number, (channels, stride) in enumerate(_V2):
        scope = f"expanded_conv_{number}" if number else "expanded_conv"
        x = _inverted_residual(layers, x, scope, mobilenet_v2_width(channels, depth_multiplier), stride)
    top = 1280 if wide_top and depth_multiplier < 1 else mobilenet_v2_width(1280, depth_multiplier)
    return layers.conv(x, "Conv_1", top)


def _inverted_residual(layers: Layers, x: Any, scope: str, channels: int, stride: int) -> Any:
    below, inputs = x.shape[-1], x
    if scope != "expanded_conv":  # the first block has no expansion
        x = layers.conv(x, f"{scope}/expand", mobilenet_v2_width(below * _EXPANSION, 1.0))
    x = layers.depthwise(x, f"{scope}/depthwise", stride)
    x = layers.normalise(layers.plain(x, f"{scope}/project", channels), f"{scope}/project/BatchNorm")
    return add(scope, inputs, x) if stride == 1 and below == channels else x
