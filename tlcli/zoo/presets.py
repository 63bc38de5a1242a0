"""The image presets of KerasHub: a bundled table of their names, and what is known of each family of backbones.

`scripts/list_kerashub_presets.py` writes the table from an installed KerasHub.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tlcli.paths import bundled
from tlcli.zoo.card import FineTuning, GroupPattern, ModelCard

KIND = "kerashub"
_FILE = "kerashub.json"
# Begin of the addresses of the pages of models, which state their licences. Handles continue them.
PAGES = "https://www.kaggle.com/models/"


def _patterns(*pairs: tuple[str, str]) -> tuple[GroupPattern, ...]:
    return tuple(GroupPattern(name=name, pattern=pattern) for name, pattern in pairs)


# The names that `sources.kerashub_graph` gives to the layers of opened encoders.
_OPENED = _patterns(("stem", "stem_.*"), ("block{1}", r"block(\d+)(?:_.*)?"))
# Attention layers learn at lower rates than convolutions.
_TRANSFORMER = FineTuning(lr=1e-4)


@dataclass(frozen=True)
class Family:
    """One backbone class of KerasHub.

    Attributes:
        title: Its name for people.
        groups: Patterns for its layer groups; empty: groups are found automatically.
        size_argument: The argument of its constructor that sets the input shape; empty if it has none.
        is_fixed: True if the network works only at the input size of the preset.
        is_part: True if only a part of the preset is used: an image encoder without text encoder or decoder.
        is_transformer: True if it has attention layers.
    """

    title: str
    groups: tuple[GroupPattern, ...] = ()
    size_argument: str = "image_shape"
    is_fixed: bool = False
    is_part: bool = False
    is_transformer: bool = False


def _tower(title: str) -> Family:
    """The image encoder of a larger model."""
    return Family(title, _OPENED, size_argument="", is_fixed=True, is_part=True, is_transformer=True)


FAMILIES = {
    "CLIPBackbone": _tower("CLIP image encoder"),
    "CSPNetBackbone": Family("CSPNet"),
    "DINOV2Backbone": Family("DINOv2", _OPENED, is_transformer=True),
    "DINOV3Backbone": Family("DINOv3", _OPENED, is_transformer=True),
    "DeepLabV3Backbone": Family("DeepLabV3 encoder", size_argument="", is_part=True),
    "DeiTBackbone": Family("DeiT", _OPENED, is_fixed=True, is_transformer=True),
    "DenseNetBackbone": Family("DenseNet"),
    "DepthAnythingBackbone": _tower("Depth Anything encoder"),
    "EfficientNetBackbone": Family(
        "EfficientNet",
        _patterns(("stem", "stem_.*"), ("block{1}", r"block(\d+[a-z]+)_.*"), ("top", "top_.*")),
        size_argument="input_shape",
    ),
    "HGNetV2Backbone": Family("HGNetV2", _OPENED),
    "MetaCLIP2Backbone": _tower("MetaCLIP 2 image encoder"),
    "MiTBackbone": Family("MiT", _OPENED, is_transformer=True),
    "MobileNetBackbone": Family(
        "MobileNet", _patterns(("stem", "input_.*|activation.*"), ("block{1}_{2}", r"block_(\d+)_(\d+)"))
    ),
    "MobileNetV5Backbone": Family("MobileNetV5", is_transformer=True),
    "ResNetBackbone": Family("ResNet"),
    "RetinaNetBackbone": Family("RetinaNet encoder", size_argument="", is_part=True),
    "SegFormerBackbone": _tower("SegFormer encoder"),
    "SigLIPBackbone": _tower("SigLIP image encoder"),
    "SwinTransformerBackbone": Family("Swin Transformer", _OPENED, is_transformer=True),
    "VGGBackbone": Family("VGG"),
    "ViTBackbone": Family("ViT", _OPENED, is_fixed=True, is_transformer=True),
    "XceptionBackbone": Family("Xception"),
}


@dataclass(frozen=True)
class Preset:
    """A row of the table.

    Attributes:
        name: The name of the preset in KerasHub.
        backbone: Its backbone class.
        size: Input height and width, pixels.
        parameters: Number of parameters that KerasHub states; None if only a part of the preset is used.
        handle: Where its files are, `OWNER/MODEL/keras/NAME/VERSION` on Kaggle.
        description: The description of KerasHub.
    """

    name: str
    backbone: str
    size: int
    parameters: int | None
    handle: str
    description: str


@cache
def table() -> dict[str, Preset]:
    """All image presets by name."""
    rows = json.loads((bundled("models") / "presets" / _FILE).read_text(encoding="utf-8"))["presets"]
    return {row[0]: Preset(*row) for row in rows}


@cache
def cards() -> dict[str, ModelCard]:
    """A card for every preset of the table, by name."""
    return {preset.name: _card(preset) for preset in table().values()}


def card_of(name: str, handle: str, backbone: str, size: int, *, is_scaled: bool) -> ModelCard:
    """A card for a preset that is not in the table.

    Args:
        name: Name of the network.
        handle: What KerasHub loads: a folder or an address.
        backbone: A class in `FAMILIES`.
        size: Input height and width, pixels.
        is_scaled: True if the preset states how images are scaled.
    """
    family = FAMILIES[backbone]
    return ModelCard(
        name=name,
        source=f"{KIND}:{handle}",
        title=f"{family.title}, KerasHub preset",
        size=size,
        min_size=size if family.is_fixed else 32,
        preprocessing="none" if is_scaled else None,
        licence="that of the preset",
        groups=family.groups,
        data="not stated",
        fine_tuning=_fine_tuning(family),
    )


def rows(presets: Sequence[Preset]) -> str:
    """The table as JSON text, one preset per line."""
    lines = [
        json.dumps([p.name, p.backbone, p.size, p.parameters, p.handle, p.description], ensure_ascii=False)
        for p in sorted(presets, key=lambda preset: preset.name)
    ]
    return '{"presets": [\n' + ",\n".join(lines) + "\n]}\n"


def _card(preset: Preset) -> ModelCard:
    family = FAMILIES[preset.backbone]
    owner, model = preset.handle.split("/")[:2]
    return ModelCard(
        name=preset.name,
        source=f"{KIND}:{preset.name}",
        title=family.title,
        size=preset.size,
        min_size=preset.size if family.is_fixed else 32,
        preprocessing="none",
        parameters=preset.parameters,
        licence=f"see {PAGES}{owner}/{model}",
        groups=family.groups,
        data=preset.description,
        fine_tuning=_fine_tuning(family),
    )


def _fine_tuning(family: Family) -> FineTuning:
    return _TRANSFORMER if family.is_transformer else FineTuning()
