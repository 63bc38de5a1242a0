"""The recipe section of augmentation."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tlcli.recipe.fields import Fraction, Spec, refuse

OPERATIONS = (
    *("flip", "transpose", "rotation", "shear", "zoom", "crop", "shift"),
    *("brightness", "contrast", "saturation", "hue", "grey", "blur", "jpeg", "erasing"),
    *("randaugment", "trivialaugment"),
)


class AugmentSpec(Spec):
    """Random changes to training images. Single operations but `flip` need `preset: custom`; each value is a bound.

    Attributes:
        preset: `light`: mirror, ±10°, ±10 % zoom, ±5 % shift. `strong`: mirror, ±20°, ±25 % zoom, ±10 % shift,
            brightness, contrast, saturation. `randaugment` and `trivialaugment`: mirror, and random operations for each
            image. `custom`: the operations below. Do not mirror digits, letters or anything that has a left and a
            right: add `flip: none`.
        views: Views of each image whose features are cached when training starts above frozen layers: the plain one
            and `views` - 1 augmented ones. Each epoch uses one of them. `live`: each epoch renders new views.
        flip: Mirror half of the images, `horizontal` exchanges left and right. null: as the preset does.
        transpose: True to swap rows and columns of half of the images; with `flip: both` all eight orientations occur.
            Needs `preset: custom`, as all down to `trivialaugment`.
        rotation: Largest angle to either side, degrees.
        shear: Largest angle of a horizontal shear to either side, degrees.
        zoom: Largest relative change of scale.
        crop: Largest share of the area that a random crop removes; the rest is resized, at aspect ratios from
            3:4 to 4:3. Ref: Szegedy et al. 2014, arXiv 1409.4842.
        shift: Largest displacement to either side, as a share of the image.
        brightness: Largest change, as a share of the full range.
        contrast: Largest relative change.
        saturation: Largest relative change.
        hue: Largest shift to either side, as a share of the colour circle.
        grey: Share of the images that lose their colours.
        blur: Largest standard deviation of a Gaussian blur, pixels.
        jpeg: Lowest quality of JPEG compression.
        erasing: Largest share of the area that noise replaces in half of the images. Ref: Zhong et al. 2017,
            arXiv 1708.04896.
        randaugment: Magnitude of two random operations per image. Ref: Cubuk et al. 2019, arXiv 1909.13719.
        trivialaugment: True for one random operation of random magnitude per image. Ref: Müller and Hutter 2021, arXiv
            2103.10158.
        mixup: Strength alpha of the Beta distribution; 0 is off, 0.2 is usual. Ref: Zhang et al. 2018,
            arXiv 1710.09412.
        cutmix: Likewise, for a rectangle from another image; 1 is usual. With both, each batch uses one of them. Ref:
            Yun et al. 2019, arXiv 1905.04899.
        label_smoothing: Share of the label's probability that is spread over all classes.
    """

    preset: Literal["none", "light", "strong", "randaugment", "trivialaugment", "custom"] = "light"
    views: Literal["auto", "live"] | Annotated[int, Field(ge=1, le=64)] = "auto"
    flip: Literal["none", "horizontal", "vertical", "both"] | None = None
    transpose: bool | None = None
    rotation: Annotated[float, Field(ge=0, le=180)] | None = None
    shear: Annotated[float, Field(ge=0, le=60)] | None = None
    zoom: Annotated[float, Field(ge=0, le=0.9)] | None = None
    crop: Annotated[float, Field(ge=0, le=0.95)] | None = None
    shift: Annotated[float, Field(ge=0, le=0.5)] | None = None
    brightness: Annotated[float, Field(ge=0, le=1)] | None = None
    contrast: Annotated[float, Field(ge=0, le=1)] | None = None
    saturation: Annotated[float, Field(ge=0, le=1)] | None = None
    hue: Annotated[float, Field(ge=0, le=0.5)] | None = None
    grey: Annotated[float, Field(ge=0, le=1)] | None = None
    blur: Annotated[float, Field(ge=0, le=5)] | None = None
    jpeg: Annotated[int, Field(ge=1, le=100)] | None = None
    erasing: Annotated[float, Field(ge=0, le=0.5)] | None = None
    randaugment: Annotated[float, Field(ge=0, le=30)] | None = None
    trivialaugment: bool | None = None
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=10)] = 0.0
    label_smoothing: Fraction = 0.0

    @model_validator(mode="after")
    def _check_preset_is_custom(self) -> Self:
        refuse(self._misfits())
        return self

    def _misfits(self) -> Iterator[str]:
        operations = [name for name in OPERATIONS if getattr(self, name) is not None]
        if "flip" in operations and (self.preset != "none" or self.flip == "none"):
            operations.remove("flip")
        if operations and self.preset != "custom":
            yield f"{', '.join(operations)}: single operations need preset: custom (got preset: {self.preset})"
        if self.randaugment and self.trivialaugment:
            yield "randaugment and trivialaugment exclude each other: set one of them to null"

    @property
    def mixes(self) -> bool:
        """True if training images are mixed with each other."""
        return max(self.mixup, self.cutmix) > 0
