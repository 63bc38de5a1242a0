"""Parameters and multiply-adds of whole networks, including the ImageNet head, against published figures.

The tests read only stored structures, which `test_layer_groups` compares with `count_params` of Keras. Heads are added
by arithmetic: one dense layer on the pooled features; for VGG16, three dense layers on all positions.
"""

from itertools import pairwise
from pathlib import Path

import pytest

from tlcli.model import structure
from tlcli.zoo import catalogue

CLASSES = 1000
# Parameters: the table of keras.io/api/applications, rounded to 0.1 M. Multiply-adds: the named papers.
PUBLISHED = {
    "mobilenet": (4.3e6, 569e6),  # arXiv 1704.04861, table 4
    "mobilenet_v2": (3.5e6, 300e6),  # arXiv 1801.04381, table 4
    "resnet50": (25.6e6, 3.8e9),  # arXiv 1512.03385, table 1, the stride in the first 1 × 1 as in Keras
    "resnet101": (44.7e6, 7.6e9),  # as resnet50
    "resnet152": (60.4e6, 11.3e9),  # as resnet50
    # Parameters: arXiv 1409.1556, table 2. Multiply-adds: arXiv 1512.03385 (15.3e9, rounded down).
    "vgg16": (138.4e6, 15.5e9),
    "inception_v3": (23.9e6, 5.7e9),  # arXiv 1512.00567: 5e9; the table of torchvision: 5.71e9
    "xception": (22.9e6, 8.4e9),  # arXiv 1707.07012, table 2
    "densenet121": (8.1e6, 2.83e9),  # the table of torchvision
    "nasnet_mobile": (5.3e6, 564e6),  # arXiv 1707.07012, table 3
    "nasnet_large": (88.9e6, 23.8e9),  # arXiv 1707.07012, table 2
    "efficientnet_b0": (5.3e6, 0.39e9),  # arXiv 1905.11946, table 2
    "efficientnet_b7": (66.7e6, 37e9),  # arXiv 1905.11946, table 2
    "convnext_tiny": (28.6e6, 4.5e9),  # arXiv 2201.03545, table 9
    "convnext_base": (88.6e6, 15.4e9),  # as convnext_tiny
}


def head(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Parameters and multiply-adds of the ImageNet head, for features of this shape."""
    widths = (shape[-1], CLASSES) if name != "vgg16" else (shape[0] * shape[1] * shape[2], 4096, 4096, CLASSES)
    steps = list(pairwise(widths))
    return sum((low + 1) * high for low, high in steps), sum(low * high for low, high in steps)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_as_published(name: str) -> None:
    card = catalogue.find(name)
    groups = structure.find(card, {}, (card.size, card.size), cache=Path("nowhere"))
    assert groups is not None
    shape = groups.groups[-1].output_shape
    parameters, flops = head(name, tuple(side or 0 for side in shape))
    published = PUBLISHED[name]
    assert groups.parameters + parameters == pytest.approx(published[0], abs=0.06e6, rel=0.005)
    assert sum(group.flops for group in groups) + flops == pytest.approx(published[1], rel=0.03)


def test_the_head_arithmetic_agrees_with_keras() -> None:
    import keras

    from tlcli.model.graph import measure, weightless

    with weightless():
        whole = keras.applications.MobileNetV2(weights=None)
    card = catalogue.find("mobilenet_v2")
    groups = structure.find(card, {}, (224, 224), cache=Path("nowhere"))
    assert groups is not None
    parameters, flops = head("mobilenet_v2", (7, 7, 1280))
    assert groups.parameters + parameters == whole.count_params() == 3_538_984
    assert sum(group.flops for group in groups) + flops == sum(layer.flops for layer in measure(whole).layers)
