"""The networks of TF-Slim: their scopes, input, layer groups and arguments. Keras is imported when one is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tlcli.zoo.architectures.slim_widths import inception_width, mobilenet_v1_width, mobilenet_v2_width
from tlcli.zoo.card import GroupPattern, Preprocessing

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A network of TF-Slim.

    Attributes:
        name: As in `slim:NAME@PATH`.
        title: As in papers.
        scope: The variable scope that Slim builds it in.
        family: Which function of `build` builds it.
        size: Input height and width of the published training, pixels.
        min_size: Smallest input height and width, pixels.
        preprocessing: What the input needs; `none` if the network subtracts the mean itself.
        groups: Patterns of its layer groups.
        paper: Number on arXiv.
        arguments: Its arguments, and their defaults.
        widths: Variables that show the width of the network: scope and channels at width 1.
    """

    name: str
    title: str
    scope: str
    family: str
    size: int
    min_size: int
    preprocessing: Preprocessing
    groups: tuple[tuple[str, str], ...]
    paper: str
    arguments: Arguments = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)

    @property
    def patterns(self) -> tuple[GroupPattern, ...]:
        """Patterns of its layer groups."""
        return tuple(GroupPattern(name=name, pattern=pattern) for name, pattern in self.groups)


_RESNET_GROUPS = (("stem", "mean|conv1.*|pool1"), ("block{1}_unit{2}", r"block(\d)__unit_(\d+)__.*"))
_MIXED = ("mixed{1}", r"Mixed_(\d\w)__.*")
_WIDTH = {"depth_multiplier": 1.0}
_GAMMA = {"gamma": False}


def _resnet(version: int, depth: int) -> Architecture:
    return Architecture(
        name=f"resnet_v{version}_{depth}",
        title=f"ResNet-{depth} V{version} of TF-Slim",
        scope=f"resnet_v{version}_{depth}",
        family=f"resnet_v{version}",
        size=224 if version == 1 else 299,
        min_size=32,
        preprocessing="none" if version == 1 else "tf",
        groups=_RESNET_GROUPS if version == 1 else (*_RESNET_GROUPS, ("top", "postnorm.*")),
        paper="1512.03385" if version == 1 else "1603.05027",
    )


def _vgg(name: str, layers: int) -> Architecture:
    return Architecture(
        name=name,
        title=f"VGG-{layers} of TF-Slim",
        scope=name,
        family="vgg",
        size=224,
        min_size=32,
        preprocessing="none",
        groups=(("block{1}", r"(?:conv|pool|fc)(\d).*"),),
        paper="1409.1556",
        arguments={"fully_connected": False},
    )


_LISTED = (
    Architecture(
        "mobilenet_v1", "MobileNet V1 of TF-Slim", "MobilenetV1", "mobilenet_v1", 224, 32, "tf",
        (("stem", "Conv2d_0.*"), ("block{1}", r"Conv2d_(\d+)_.*")),
        "1704.04861", _WIDTH, {"Conv2d_13_pointwise": 1024, "Conv2d_5_pointwise": 256, "Conv2d_0": 32},
    ),
    Architecture(
        "mobilenet_v2", "MobileNet V2 of TF-Slim", "MobilenetV2", "mobilenet_v2", 224, 32, "tf",
        (("stem", "Conv(?:__.*)?|expanded_conv__.*"), ("block{1}", r"expanded_conv_(\d+)__.*"), ("top", "Conv_1.*")),
        "1801.04381", {**_WIDTH, "wide_top": True},
        {
            "expanded_conv_16/project": 320, "expanded_conv_13/project": 160, "expanded_conv_10/project": 96,
            "expanded_conv_6/project": 64, "expanded_conv_3/project": 32, "expanded_conv_1/project": 24,
            "expanded_conv/project": 16, "Conv": 32,
        },
    ),
    Architecture(
        "inception_v1", "Inception V1 of TF-Slim", "InceptionV1", "inception_v1", 224, 32, "tf",
        (("stem", "MaxPool_3a_3x3"), _MIXED), "1409.4842", _GAMMA,
    ),
    Architecture(
        "inception_v2", "Inception V2 of TF-Slim", "InceptionV2", "inception_v2", 224, 32, "tf",
        (("stem", "MaxPool_3a_3x3"), _MIXED), "1502.03167", {**_WIDTH, **_GAMMA, "stem_norm": False},
        {"Mixed_5c/Branch_0/Conv2d_0a_1x1": 352, "Mixed_5a/Branch_1/Conv2d_1a_3x3": 256, "Conv2d_2c_3x3": 192},
    ),
    Architecture(
        "inception_v3", "Inception V3 of TF-Slim", "InceptionV3", "inception_v3", 299, 75, "tf",
        (("stem", "MaxPool_5a_3x3"), _MIXED), "1512.00567", {**_WIDTH, **_GAMMA},
        {"Mixed_7c/Branch_2/Conv2d_0a_1x1": 448, "Mixed_6a/Branch_0/Conv2d_1a_1x1": 384, "Conv2d_4a_3x3": 192},
    ),
    Architecture(
        "inception_v4", "Inception V4 of TF-Slim", "InceptionV4", "inception_v4", 299, 75, "tf",
        (("stem", "Conv2d_.*"), _MIXED), "1602.07261", _GAMMA,
    ),
    Architecture(
        "inception_resnet_v2", "Inception-ResNet V2 of TF-Slim", "InceptionResnetV2", "inception_resnet_v2", 299, 75,
        "tf",
        (
            ("stem", "MaxPool_5a_3x3"), _MIXED,
            ("block{1}_{2}", r"Repeat(?:_\d)?__block(35|17|8)_(\d+)__.*"), ("top", "Block8__.*|Conv2d_7b_1x1.*"),
        ),
        "1602.07261", _GAMMA,
    ),
    *(_resnet(version, depth) for version in (1, 2) for depth in (50, 101, 152, 200)),
    _vgg("vgg_a", 11), _vgg("vgg_16", 16), _vgg("vgg_19", 19),
)  # fmt: skip

ARCHITECTURES = {architecture.name: architecture for architecture in _LISTED}
"""All networks by name."""


def width_function(architecture: Architecture) -> Callable[[int, float], int]:
    """Channels of a layer from those at width 1 and the depth multiplier."""
    functions = {"mobilenet_v1": mobilenet_v1_width, "mobilenet_v2": mobilenet_v2_width}
    return functions.get(architecture.family, inception_width)


def build(architecture: Architecture, x: Any, arguments: Arguments) -> Any:
    """Build a network without top.

    Args:
        architecture: The network.
        x: Symbolic float (batch, height, width, 3), preprocessed as the architecture says.
        arguments: Values for some of its arguments.

    Returns:
        Symbolic float (batch, height', width', channels).
    """
    from tlcli.zoo.architectures import slim_inception, slim_inception_v4, slim_mobilenet, slim_resnet, slim_vgg

    families: dict[str, Callable[..., Any]] = {
        "mobilenet_v1": slim_mobilenet.mobilenet_v1,
        "mobilenet_v2": slim_mobilenet.mobilenet_v2,
        "inception_v1": slim_inception.inception_v1,
        "inception_v2": slim_inception.inception_v2,
        "inception_v3": slim_inception.inception_v3,
        "inception_v4": slim_inception_v4.inception_v4,
        "inception_resnet_v2": slim_inception_v4.inception_resnet_v2,
        "resnet_v1": slim_resnet.resnet_v1,
        "resnet_v2": slim_resnet.resnet_v2,
        "vgg": slim_vgg.vgg,
    }
    fixed: dict[str, Any] = {}
    if architecture.family.startswith("resnet"):
        fixed = {"depth": int(architecture.name.rpartition("_")[2])}
    elif architecture.family == "vgg":
        fixed = {"name": architecture.name}
    return families[architecture.family](x, **fixed, **{**architecture.arguments, **arguments})
