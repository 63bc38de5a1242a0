"""SqueezeNet v1.1, with the names of layers of its Caffe files, with underscores for slashes.

Ref: Iandola et al. 2016, arXiv 1602.07360; numbers of version 1.1 of its files for Caffe (BSD-2-Clause).
"""

from typing import Any

import keras

layers = keras.layers

# Channels of the squeeze and of each expand layer of fire2 … fire9; the network is halved below fire2, fire4 and fire6.
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_POOLED = (2, 4, 6)


def build(size: tuple[int, int], *, include_top: bool = False, classes: int = 1000) -> keras.Model:
    """Build the network with random weights. Its outputs on Caffe's weights are those of Caffe.

    Args:
        size: Input height and width, pixels; 32 or more.
        include_top: True to add the classifier: a convolution below the global pooling, and a softmax.
        classes: Number of outputs of the classifier.

    Returns:
        From float32 (batch, height, width, 3), BGR minus the mean, to features (batch, …, …, 512), or with the top to
        probabilities (batch, classes).
    """
    image = keras.Input((*size, 3), name="image")
    x = _conv(image, "conv1", 64, 3, strides=2)
    for number, (squeezed, expanded) in enumerate(_FIRES, start=2):
        if number in _POOLED:
            x = _pool(x, f"pool{number - 1}")
        x = _fire(x, f"fire{number}", squeezed, expanded)
    if include_top:
        x = layers.Dropout(0.5, name="drop9")(x)
        x = layers.GlobalAveragePooling2D(name="pool10")(_conv(x, "conv10", classes, 1))
        x = layers.Activation("softmax", name="prob")(x)
    return keras.Model(image, x, name="squeezenet")


def _conv(x: Any, name: str, filters: int, kernel: int, **options: Any) -> Any:
    return layers.ReLU(name=f"{name}_relu")(layers.Conv2D(filters, kernel, name=name, **options)(x))


def _pool(x: Any, name: str) -> Any:
    """A pooling of 3 × 3 with stride 2 whose size Caffe rounds up."""
    # The values are not negative, so zeros pad like nothing; where the windows fit, none of them reaches the padding.
    return layers.MaxPooling2D(3, 2, name=name)(layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x))


def _fire(x: Any, name: str, squeezed: int, expanded: int) -> Any:
    x = _conv(x, f"{name}_squeeze1x1", squeezed, 1)
    small = _conv(x, f"{name}_expand1x1", expanded, 1)
    large = _conv(x, f"{name}_expand3x3", expanded, 3, padding="same")
    return layers.Concatenate(name=f"{name}_concat")([small, large])
