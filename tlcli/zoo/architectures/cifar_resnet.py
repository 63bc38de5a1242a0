"""ResNet for images of 32 × 32 pixels, with shortcuts without weights (option A of the paper).

Ref: He et al. 2015, arXiv 1512.03385, section 4.2; names of github.com/akamaster/pytorch_resnet_cifar10 (BSD-2-Clause).
"""

from typing import Any

import keras

from tlcli.zoo.architectures.modules import activation, conv, image_input, norm


def build(size: tuple[int, int], *, depth: int, width: int = 16) -> keras.Model:
    """Build the network without its top.

    Args:
        size: Input height and width, pixels.
        depth: Number of blocks in each of the three stages: n for ResNet-(6n + 2).
        width: Channels of the first stage.
    """
    image = image_input(size)
    x = activation(norm(conv(image, "conv1", width, 3), "bn1"), "relu")
    for stage in range(3):
        for block in range(depth):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            channels = width * 2**stage
            y = conv(x, f"{name}.conv1", channels, 3, stride=stride)
            y = activation(norm(y, f"{name}.bn1"), f"{name}.relu1")
            y = norm(conv(y, f"{name}.conv2", channels, 3), f"{name}.bn2")
            x = keras.layers.Add(name=f"{name}.add")([_shortcut(x, name, channels) if stride > 1 else x, y])
            x = activation(x, f"{name}.relu")
    return keras.Model(image, x, name="cifar_resnet")


def _shortcut(x: Any, name: str, channels: int) -> Any:
    """Every second pixel, with channels of zeros on both sides."""
    x = keras.layers.AveragePooling2D(1, strides=2, name=f"{name}.shortcut")(x)
    before = (channels - x.shape[-1]) // 2
    return keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (before, channels - x.shape[-1] - before)))
