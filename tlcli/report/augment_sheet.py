"""A contact sheet of the augmentation: training images before and after, as a PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tlcli.data.augment import Augment, bounds_of
from tlcli.data.mixing import mix
from tlcli.paths import replacing
from tlcli.recipe.augment import OPERATIONS, AugmentSpec
from tlcli.train.preparation import Prepared

VIEWS, CLASSES, IMAGES_PER_CLASS = 6, 5, 2
# Pixels: the longer side of an image, the space between images, the column of names, a line of text.
SIDE, GAP, NAMES, LINE = 128, 6, 150, 26
BACKGROUND, TEXT, FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)


@dataclass(frozen=True)
class _Row:
    """The name of a class at its first image, the image and its views, each `uint8 (height, width, 3)`."""

    name: str
    images: list[np.ndarray]


def write_augment_sheet(prepared: Prepared, path: Path) -> None:
    """Write a sheet with a few training images of some classes: the original first, then random views.

    The views are those that training makes of the same images with the recipe of the plan, mixing included.

    Args:
        prepared: The plan and its images.
        path: The file to write, PNG.

    Raises:
        OSError: If it cannot be written.
    """
    rows = _rows(prepared)
    with replacing(path) as temporary:
        _drawn(rows, _description(prepared.plan.recipe.augment)).save(temporary, "PNG")


def _rows(prepared: Prepared) -> list[_Row]:
    plan = prepared.plan
    shown, names = [], []
    for label in sorted({image.label for image in plan.splits.train})[:CLASSES]:
        of_class = [image for image in plan.splits.train if image.label == label][:IMAGES_PER_CLASS]
        shown += of_class
        names += [plan.classes[label], *[""] * (len(of_class) - 1)]
    examples = prepared.pixels.examples(shown)
    originals = np.asarray(examples.pixels[examples.rows])
    views = _views(originals, plan.recipe.augment, seed=plan.recipe.seed)
    return [_Row(name, [originals[i], *(view[i] for view in views)]) for i, name in enumerate(names)]


def _views(images: np.ndarray, spec: AugmentSpec, *, seed: int) -> list[np.ndarray]:
    """Views of all images, each `uint8 (images, height, width, 3)`."""
    augment, random = Augment(bounds_of(spec), seed=seed), np.random.default_rng(seed)
    # Mixing changes labels and weights, too; the sheet does not show them.
    labels, weights = np.zeros((len(images), 1), np.float32), np.ones(len(images), np.float32)
    views = []
    for _ in range(VIEWS):
        mixed = mix((images, labels, weights), spec, random)[0]
        view = np.asarray(augment(mixed.astype(np.float32), training=True))
        views.append(np.clip(np.rint(view), 0, 255).astype(np.uint8))
    return views


def _description(spec: AugmentSpec) -> str:
    """The augmentation in a few words."""
    bounds = bounds_of(spec)
    parts = [f"{name} {value:g}" for name in ("mixup", "cutmix") if (value := getattr(spec, name))]
    for name in OPERATIONS:
        value = getattr(bounds, name)
        if value not in (0, "none"):
            parts.append(name if value is True else f"{name} {value}")
    return f"{spec.preset}: {', '.join(parts) or 'no changes'}"


def _drawn(rows: Sequence[_Row], description: str) -> Image.Image:
    height, width = rows[0].images[0].shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    columns = 1 + VIEWS
    full = (NAMES + columns * (size[0] + GAP) + GAP, 2 * LINE + len(rows) * (size[1] + GAP) + 2 * GAP)
    sheet = Image.new("RGB", full, BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    draw.text((GAP, GAP), _fitted(draw, font, description, full[0] - 2 * GAP), TEXT, font)
    for column in range(columns):
        heading = "original" if column == 0 else f"view {column}"
        left = NAMES + column * (size[0] + GAP)
        draw.text((left, LINE + GAP), _fitted(draw, font, heading, size[0]), FAINT, font)
    for number, row in enumerate(rows):
        top = 2 * LINE + GAP + number * (size[1] + GAP)
        draw.text((GAP, top), _fitted(draw, font, row.name, NAMES - 2 * GAP), TEXT, font)
        for column, pixels in enumerate(row.images):
            # Small images keep their pixels visible.
            how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
            sheet.paste(Image.fromarray(pixels).resize(size, how), (NAMES + column * (size[0] + GAP), top))
    return sheet


def _fitted(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, width: int
) -> str:
    """The text in ASCII, shortened to a width in pixels. The font has no glyphs for most other scripts."""
    text = text.encode("ascii", "backslashreplace").decode()
    text = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."
