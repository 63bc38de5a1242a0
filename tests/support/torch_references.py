"""Small networks of PyTorch, torchvision and timm with repeatable weights, and the outputs that they computed.

`python tests/support/torch_references.py` writes `torch_outputs.npz` again; it needs these libraries. The file holds
every fourth channel of the features, and the shapes of the arrays as JSON.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

OUTPUTS = Path(__file__).parent / "torch_outputs.npz"
SIZE = (64, 48)

_V2 = ((1, 8, 1, 1), (6, 16, 2, 2), (6, 16, 1, 1))
_V3 = ((3, 16, 16, True, "RE", 2), (5, 72, 24, False, "RE", 2), (3, 88, 24, True, "HS", 1))
_EFFICIENT = ((1, 3, 1, 16, 1), (6, 5, 2, 24, 2))
# Module of `tlcli.zoo.architectures` and its options; the map of each.
NETWORKS: dict[str, tuple[str, dict[str, Any], str]] = {
    "resnet_basic": ("resnet", {"blocks": (1, 2, 1), "is_bottleneck": False, "width": 64}, "torchvision"),
    "resnet_bottleneck": ("resnet", {"blocks": (2, 1), "is_bottleneck": True, "width": 64}, "torchvision"),
    "cifar_resnet": ("cifar_resnet", {"depth": 2}, "torchvision"),
    "vgg": ("vgg", {"counts": (1, 1, 2, 1, 1), "has_norm": False, "width": 4}, "torchvision"),
    "vgg_bn": ("vgg", {"counts": (1, 1, 2, 1, 1), "has_norm": True, "width": 4}, "torchvision"),
    "mobilenet_v2": ("mobilenet_v2", {"stages": _V2, "last": 64}, "torchvision"),
    "mobilenet_v3": ("mobilenet_v3", {"rows": _V3}, "torchvision"),
    "efficientnet": ("efficientnet", {"width": 1.0, "depth": 1.0, "stages": _EFFICIENT}, "torchvision"),
    "densenet": ("densenet", {"growth": 8, "blocks": (2, 3), "width": 16}, "torchvision"),
    "convnext": ("convnext", {"depths": (1, 2), "widths": (8, 16)}, "torchvision"),
    "timm_mobilenetv2": ("mobilenet_v2", {}, "timm_mobilenetv2"),
    "timm_mobilenetv3_small": ("mobilenet_v3", {"rows": "small", "epsilon": 1e-5}, "timm_mobilenetv3_small"),
    "timm_mobilenetv3_large": ("mobilenet_v3", {"rows": "large", "epsilon": 1e-5}, "timm_mobilenetv3_large"),
    "timm_efficientnet": ("efficientnet", {"width": 1.0, "depth": 1.0}, "timm_efficientnet"),
    "timm_convnext": ("convnext", {"depths": (1, 1, 2, 1), "widths": (8, 16, 24, 32)}, "timm_convnext"),
}


def image() -> np.ndarray:
    """One preprocessed image, float32 (1, 64, 48, 3)."""
    return np.random.default_rng(5).normal(size=(1, *SIZE, 3)).astype(np.float32)


def state(shapes: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
    """Arrays of these shapes; the values depend on the names alone."""
    return {name: _values(name, tuple(shape)) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.array(7, np.int64)
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = 1.4 / np.sqrt(np.prod(shape[1:])) if len(shape) in (2, 4) else 0.3
    return (scale * random.normal(size=shape)).astype(np.float32)


def stored(name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arrays of a network by name, and every fourth channel of the features of `image`, channels last."""
    with np.load(OUTPUTS) as file:
        return state(json.loads(file["shapes"].tobytes())[name]), file[name].transpose(0, 2, 3, 1)


def make(name: str) -> tuple[Any, Any]:
    """The PyTorch network, and the function that computes its features."""
    import torch
    from torch import nn
    from torchvision import models
    from torchvision.models import convnext, efficientnet, mobilenetv3, resnet, vgg

    module, options, _ = NETWORKS[name]
    if name.startswith("timm"):
        import timm

        if name == "timm_convnext":
            net = timm.models.convnext.ConvNeXt(depths=options["depths"], dims=options["widths"])
        else:
            found = {"timm_mobilenetv2": "mobilenetv2_100", "timm_efficientnet": "efficientnet_b0"}
            net = timm.create_model(found.get(name, f"{name.removeprefix('timm_')}_100"), pretrained=False)
        # Its MobileNetV3 pools before the last convolution.
        return net, net.forward_features
    if module == "resnet":
        kind = resnet.Bottleneck if options["is_bottleneck"] else resnet.BasicBlock
        counts = (*options["blocks"], 1, 1)[:4]
        net = resnet.ResNet(kind, counts)
        stages = [getattr(net, f"layer{number + 1}") for number in range(len(options["blocks"]))]
        for number in range(len(stages), 4):
            delattr(net, f"layer{number + 1}")
        return net, lambda x: nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, *stages)(x)
    if module == "cifar_resnet":
        net = _cifar(options["depth"])
        return net, net
    if module == "vgg":
        config: list[Any] = []
        for stage, count in enumerate(options["counts"]):
            config += [options["width"] * min(2**stage, 8)] * count + ["M"]
        net = nn.Module()
        net.features = vgg.make_layers(config, batch_norm=options["has_norm"])
        return net, net.features
    if module == "mobilenet_v2":
        net = models.MobileNetV2(inverted_residual_setting=[list(stage) for stage in _V2])
        # A narrower last convolution.
        net.features[-1] = type(net.features[-1])(16, 64, kernel_size=1, activation_layer=nn.ReLU6)
        return net, net.features
    if module == "mobilenet_v3":
        rows, before = [], 16
        for kernel, expanded, channels, gate, function, stride in _V3:
            rows.append(
                mobilenetv3.InvertedResidualConfig(before, kernel, expanded, channels, gate, function, stride, 1, 1.0)
            )
            before = channels
        net = models.MobileNetV3(rows, 64)
        return net, net.features
    if module == "efficientnet":
        rows, before = [], 32
        for expansion, kernel, stride, channels, count in _EFFICIENT:
            rows.append(efficientnet.MBConvConfig(expansion, kernel, stride, before, channels, count))
            before = channels
        net = models.EfficientNet(rows, dropout=0.0)
        return net, net.features
    if module == "densenet":
        net = models.DenseNet(options["growth"], options["blocks"], options["width"])
        return net, lambda x: torch.relu(net.features(x))
    depths, widths = options["depths"], options["widths"]
    rows = [
        convnext.CNBlockConfig(width, following, depth)
        for width, following, depth in zip(widths, (*widths[1:], None), depths, strict=True)
    ]
    net = models.ConvNeXt(rows, stochastic_depth_prob=0.1)
    return net, net.features


def _cifar(depth: int) -> Any:
    """The ResNet of the paper for CIFAR-10, shortcuts of option A, with the names of the published file."""
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, before: int, channels: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            if x.shape != y.shape:
                added = (y.shape[1] - x.shape[1]) // 2
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, added, added))
            return functional.relu(x + y)

    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(3, 16, 3, 1, 1, bias=False))
    net.add_module("bn1", nn.BatchNorm2d(16))
    net.add_module("relu", nn.ReLU())
    before = 16
    for stage in range(3):
        blocks = []
        for block in range(depth):
            blocks.append(Block(before, 16 * 2**stage, 2 if stage and not block else 1))
            before = 16 * 2**stage
        net.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
    return net


def compute(name: str, weights: Mapping[str, np.ndarray] | None = None) -> tuple[dict[str, list[int]], np.ndarray]:
    """Shapes of the arrays of a network, and its features for `image`, channels first."""
    import torch

    net, features = make(name)
    shapes = {key: list(value.shape) for key, value in net.state_dict().items()}
    values = {key: torch.from_numpy(np.array(value)) for key, value in (weights or state(shapes)).items()}
    net.load_state_dict(values)
    net.eval()
    with torch.no_grad():
        return shapes, features(torch.from_numpy(image().transpose(0, 3, 1, 2).copy())).numpy()


if __name__ == "__main__":
    results = {name: compute(name) for name in NETWORKS}
    text = json.dumps({name: shapes for name, (shapes, _) in results.items()}).encode()
    outputs = {name: output[:, ::4] for name, (_, output) in results.items()}
    np.savez_compressed(OUTPUTS, shapes=np.frombuffer(text, np.uint8), **outputs)
