"""Small gray copies of images, by which near-duplicates are found."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from tlcli.data.decode import as_rgb, open_image

# Side of a copy, pixels. Shrinking in two steps, the first by whole numbers, takes a fraction of the time.
COPY_SIDE, _FIRST_STEP_SIDE = 32, 96
# `(height, width)` in pixels down to which a JPEG may be scaled while it is decoded for its copy: that of networks for
# 224 pixels, so that most runs decode each file once.
DECODE_SIZE = (359, 359)


def shrink(rgb: Image.Image) -> Image.Image:
    """The small gray copy of an image: mode L, 32 × 32 pixels."""
    gray = rgb.convert("L")
    across, down = max(gray.width // _FIRST_STEP_SIDE, 1), max(gray.height // _FIRST_STEP_SIDE, 1)
    reduced = gray.reduce((across, down)) if max(across, down) > 1 else gray
    return reduced.resize((COPY_SIDE, COPY_SIDE), Image.Resampling.BILINEAR)


def decode_both(data: bytes, min_size: tuple[int, int]) -> tuple[Image.Image, npt.NDArray[np.uint8]]:
    """Decode a file as `decode.to_rgb` does, and make its small copy, `uint8 (32, 32)`.

    The copy does not depend on `min_size`. The file is decoded twice only if its copy needs another scale of decoding.

    Raises:
        Exception: One of `DECODER_ERRORS`.
    """
    with open_image(data) as image:
        rgb = as_rgb(image, min_size)
        decoded_size = image.size
    with open_image(data) as image:
        image.draft(None, DECODE_SIZE)
        source = rgb if image.size == decoded_size else as_rgb(image, DECODE_SIZE)
    return rgb, np.asarray(shrink(source))
