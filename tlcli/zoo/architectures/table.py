"""The architectures for imported weights: names, builders and maps, without Keras."""

from collections.abc import Mapping
from dataclasses import dataclass
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


def _mobilenets() -> list[Architecture]:
    v2, v3 = "MobileNetV2", "MobileNetV3"
    found = [
        Architecture(
            "torchvision_mobilenet_v2", "mobilenet_v2", {}, "torchvision", f"{v2} of torchvision", "1801.04381"
        ),
        Architecture("timm_mobilenetv2_100", "mobilenet_v2", {}, "timm_mobilenetv2", f"{v2} of timm", "1801.04381"),
    ]
    for size in ("small", "large"):
        for framework, epsilon, bundled_map in (
            ("torchvision", 1e-3, "torchvision"),
            ("timm", 1e-5, "timm_mobilenetv3"),
        ):
            name = f"torchvision_mobilenet_v3_{size}" if framework == "torchvision" else f"timm_mobilenetv3_{size}_100"
            used = bundled_map if framework == "torchvision" else f"{bundled_map}_{size}"
            options, title = {"rows": size, "epsilon": epsilon}, f"{v3}-{size} of {framework}"
            found.append(Architecture(name, "mobilenet_v3", options, used, title, "1905.02244"))
    return found


# Width, depth and input size of EfficientNet B0 … B7.
_EFFICIENTNETS = (
    (1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 288), (1.2, 1.4, 300), (1.4, 1.8, 380), (1.6, 2.2, 456),
    (1.8, 2.6, 528), (2.0, 3.1, 600),
)  # fmt: skip


def _efficientnets() -> list[Architecture]:
    found = []
    for framework in ("torchvision", "timm"):
        for number, (width, depth, size) in enumerate(_EFFICIENTNETS[: 8 if framework == "torchvision" else 5]):
            epsilon = 1e-3 if number >= 5 else 1e-5
            options = {"width": width, "depth": depth, "epsilon": epsilon}
            used = "torchvision" if framework == "torchvision" else "timm_efficientnet"
            name, title = f"{framework}_efficientnet_b{number}", f"EfficientNet-B{number} of {framework}"
            found.append(Architecture(name, "efficientnet", options, used, title, "1905.11946", size=size))
    return found


def _convnexts() -> list[Architecture]:
    sizes = {
        "tiny": ((3, 3, 9, 3), 96),
        "small": ((3, 3, 27, 3), 96),
        "base": ((3, 3, 27, 3), 128),
        "large": ((3, 3, 27, 3), 192),
    }
    found = []
    for framework, used in (("torchvision", "torchvision"), ("timm", "timm_convnext")):
        for size, (depths, width) in sizes.items():
            options = {"depths": depths, "widths": tuple(width * 2**stage for stage in range(4))}
            name, title = f"{framework}_convnext_{size}", f"ConvNeXt-{size} of {framework}"
            found.append(Architecture(name, "convnext", options, used, title, "2201.03545"))
    return found


def _densenets() -> list[Architecture]:
    sizes = {
        121: (32, (6, 12, 24, 16), 64),
        161: (48, (6, 12, 36, 24), 96),
        169: (32, (6, 12, 32, 32), 64),
        201: (32, (6, 12, 48, 32), 64),
    }
    return [
        Architecture(
            f"torchvision_densenet{depth}",
            "densenet",
            {"growth": growth, "blocks": blocks, "width": width},
            "torchvision",
            f"DenseNet-{depth} of torchvision and timm",
            "1608.06993",
        )
        for depth, (growth, blocks, width) in sizes.items()
    ]


ARCHITECTURES = {
    architecture.name: architecture
    for family in (_resnets, _vggs, _mobilenets, _efficientnets, _densenets, _convnexts)
    for architecture in family()
}
