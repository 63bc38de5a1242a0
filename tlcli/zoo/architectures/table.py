"""The architectures for imported weights: names, builders and maps, without Keras."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlcli.errors import ModelError, did_you_mean


@dataclass(frozen=True)
class Architecture:
    """A network in the form of another framework; its layers have that framework's names of modules.

    Attributes:
        name: The value of `--architecture`.
        module: The module of this package that builds it with its function `build`.
        options: Arguments of `build` besides the input size.
        map: Name of the bundled map of its weights.
        title: What it is, in words.
        paper: arXiv number.
        size: Input height and width of the published weights, pixels.
        min_size: Smallest input height and width, pixels.
    """

    name: str
    module: str
    options: Mapping[str, Any]
    map: str
    title: str
    paper: str
    size: int = 224
    min_size: int = 32
    preprocessing: str = field(default="torch")


def find(name: str) -> Architecture:
    """The architecture of a name.

    Raises:
        ModelError: There is none.
    """
    if name not in ARCHITECTURES:
        hint = did_you_mean(name, ARCHITECTURES)
        raise ModelError(
            f"there is no architecture '{name}'",
            where="--architecture",
            hint=f"{hint} Architectures: {', '.join(ARCHITECTURES)}; or a network of tlcli zoo list.".strip(),
        )
    return ARCHITECTURES[name]


def _resnets() -> list[Architecture]:
    sizes = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
    found = []
    for depth, blocks in sizes.items():
        options = {"blocks": blocks, "is_bottleneck": depth >= 50}
        title = f"ResNet-{depth} of torchvision and timm"
        found.append(Architecture(f"torchvision_resnet{depth}", "resnet", options, "torchvision", title, "1512.03385"))
    for depth in (20, 32, 44, 56, 110):
        options = {"depth": (depth - 2) // 6}
        title = f"ResNet-{depth} for images of 32 × 32 pixels, shortcuts without weights"
        found.append(
            Architecture(
                f"cifar_resnet{depth}",
                "cifar_resnet",
                options,
                "torchvision",
                title,
                "1512.03385",
                size=32,
                min_size=16,
            )
        )
    return found


def _vggs() -> list[Architecture]:
    found = []
    for depth, counts in {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}.items():
        for suffix, has_norm in (("", False), ("_bn", True)):
            name, options = f"torchvision_vgg{depth}{suffix}", {"counts": counts, "has_norm": has_norm}
            title = f"VGG-{depth}{' with BatchNorm' * has_norm} of torchvision and timm"
            found.append(Architecture(name, "vgg", options, "torchvision", title, "1409.1556"))
    return found


ARCHITECTURES = {architecture.name: architecture for architecture in [*_resnets(), *_vggs()]}
