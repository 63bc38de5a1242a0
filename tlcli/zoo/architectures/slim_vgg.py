"""VGG as TF-Slim builds it (nets/vgg.py of its model library)."""

from typing import Any

from tlcli.zoo.architectures.slim_layers import Layers, max_pool
from tlcli.zoo.architectures.slim_resnet import minus_mean

REPEATS = {"vgg_a": (1, 1, 2, 2, 2), "vgg_16": (2, 2, 3, 3, 3), "vgg_19": (2, 2, 4, 4, 4)}
"""Convolutions of the five blocks."""


def vgg(x: Any, *, name: str, fully_connected: bool = False) -> Any:
    """VGG without top (Simonyan and Zisserman 2014, arXiv 1409.1556).

    Args:
        x: Symbolic float (batch, height, width, 3), 0 to 255.
        name: A key of `REPEATS`.
        fully_connected: True to keep the two hidden layers of the top, `fc6` and `fc7`, which Slim computes as
            convolutions. Images must then have at least 224 pixels on each side.

    Returns:
        Symbolic float (batch, height / 32, width / 32, 512); with `fully_connected`, 6 less on both sides and 4096.
    """
    layers = Layers(batch_norm=False)
    x = minus_mean(x)
    for block, count in enumerate(REPEATS[name], start=1):
        for number in range(1, count + 1):
            x = layers.conv(x, f"conv{block}/conv{block}_{number}", min(32 << block, 512), kernel=3)
        x = max_pool(x, f"pool{block}", size=2, padding="valid")
    if fully_connected:
        x = layers.conv(layers.conv(x, "fc6", 4096, kernel=7, padding="valid"), "fc7", 4096)
    return x
