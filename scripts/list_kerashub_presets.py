"""Write `models/presets/kerashub.json` from the installed KerasHub: `python scripts/list_kerashub_presets.py`.

Run it after an update of keras-hub. A test compares the table with the installed version.
"""

import re
import sys
from pathlib import Path
from typing import Any

from tlcli.zoo.presets import FAMILIES, Preset, rows

PATH = Path(__file__).resolve().parent.parent / "models" / "presets" / "kerashub.json"

# Input sizes that neither name nor description states: those of timm's configurations for the converted networks, and
# of the published preprocessing for the others.
SIZES = {
    "efficientnet_b1_ft_imagenet": 224,
    "efficientnet_b2_ra_imagenet": 256,
    "efficientnet_b3_ra2_imagenet": 288,
    "efficientnet_b4_ra2_imagenet": 320,
    "efficientnet_b5_sw_imagenet": 416,
    "efficientnet_b5_sw_ft_imagenet": 448,
    "efficientnet2_rw_s_ra2_imagenet": 288,
    "efficientnet2_rw_m_agc_imagenet": 320,
    "xception_41_imagenet": 299,
    "siglip2_so400m_patch14_384": 384,
    "deeplab_v3_plus_resnet50_pascalvoc": 512,
}
FAMILY_SIZES = {"DepthAnythingBackbone": 518, "MobileNetV5Backbone": 768}
OTHER_SIZE = 224


def main() -> None:
    """Write the table."""
    PATH.parent.mkdir(exist_ok=True)
    presets = installed()
    PATH.write_text(rows(presets), encoding="utf-8")
    sys.stderr.write(f"{PATH.name}: {len(presets)} presets\n")


def installed() -> list[Preset]:
    """The image presets of the installed KerasHub.

    Presets whose files are those of another preset are left out: they would load another network than their name says.
    """
    import keras_hub

    presets = []
    for name in vars(keras_hub.models):
        kind = getattr(keras_hub.models, name)
        if not isinstance(kind, type) or not name.endswith(("Backbone", "ImageSegmenter")):
            continue
        backbone = name if name.endswith("Backbone") else f"{name.removesuffix('ImageSegmenter')}Backbone"
        if backbone in FAMILIES and getattr(kind, "presets", None):
            presets += [
                _preset(preset, backbone, entry) for preset, entry in kind.presets.items() if _is_own(preset, entry)
            ]
    return sorted(set(presets), key=lambda preset: preset.name)


def _is_own(name: str, entry: dict[str, Any]) -> bool:
    return entry["kaggle_handle"].split("/")[-2] == name


def _preset(name: str, backbone: str, entry: dict[str, Any]) -> Preset:
    description = " ".join(entry["metadata"]["description"].split()).rstrip(".")
    return Preset(
        name=name,
        backbone=backbone,
        size=_size(name, backbone, description),
        parameters=None if FAMILIES[backbone].is_part else entry["metadata"].get("params"),
        handle=entry["kaggle_handle"].removeprefix("kaggle://"),
        description=description,
    )


def _size(name: str, backbone: str, description: str) -> int:
    if name in SIZES:
        return SIZES[name]
    stated = re.search(r"(\d{3,4})x\1", description) or re.search(r"image size (?:of )?(\d{3})", description)
    stated = stated or re.search(r"_r?(224|240|256|336|384|448|512|640|1024)(?:_|$)", name)
    return int(stated[1]) if stated else FAMILY_SIZES.get(backbone, OTHER_SIZE)


if __name__ == "__main__":
    main()
