"""What cameras, files and obstacles do to images: blur, JPEG compression, erased rectangles.

Images are `float32 (batch, height, width, 3)`, RGB 0-255; numbers are `float32 (batch,)`.
"""

from typing import Any

import numpy as np
from keras import ops

from tlcli.data.colour import clip, per_image

# Side of the blocks of a JPEG.
BLOCK = 8
# Quantisation tables for luma and chroma at quality 50. Ref: ITU-T T.81, annex K.1.
LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32),
)
# From RGB to luma and the two chroma channels, which JFIF shifts by 128.
YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
# Luma is coded around 0.
LEVEL = np.array([128, 0, 0], np.float32)


def blur(images: Any, deviation: Any) -> Any:
    """The images after a Gaussian blur with this standard deviation, pixels; 0 keeps them.

    At the edges the weights of the pixels inside are scaled up.
    """
    rows, columns = (_gaussian(deviation, side) for side in images.shape[1:3])
    return ops.einsum("bij,bjwc->biwc", rows, ops.einsum("bij,bhjc->bhic", columns, images))


def _gaussian(deviation: Any, side: int) -> Any:
    """Weights `float32 (batch, side, side)` of each pixel of a line for each pixel of the blurred line."""
    distance = np.subtract.outer(np.arange(side), np.arange(side)).astype(np.float32)
    variance = ops.reshape(ops.maximum(deviation, 1e-2) ** 2, (-1, 1, 1))
    weights = ops.exp(ops.divide(-(distance[None] ** 2), 2 * variance))
    return weights / ops.sum(weights, axis=-1, keepdims=True)


def jpeg(images: Any, quality: Any) -> Any:
    """The images after JPEG compression with a quality of 1-100, without chroma subsampling.

    The tables are scaled as the Independent JPEG Group's library does.
    """
    height, width = images.shape[1:3]
    down, across = -height % BLOCK, -width % BLOCK
    padded = ops.pad(images, ((0, 0), (0, down), (0, across), (0, 0)), mode="symmetric")
    tables = _tables(quality)
    blocks = _blocks(ops.round(ops.subtract(ops.matmul(padded, YCC.T), LEVEL)))
    cosines = _cosines()
    coefficients = ops.einsum("ij,bhjwkc->bhiwkc", cosines, blocks)
    coefficients = ops.einsum("kl,bhiwlc->bhiwkc", cosines, coefficients)
    coefficients = ops.round(coefficients / tables) * tables
    blocks = ops.einsum("ji,bhjwkc->bhiwkc", cosines, coefficients)
    blocks = ops.einsum("lk,bhiwlc->bhiwkc", cosines, blocks)
    colours = ops.add(ops.round(ops.reshape(blocks, ops.shape(padded))), LEVEL)
    restored = ops.matmul(colours, np.linalg.inv(YCC).T.astype(np.float32))
    return clip(ops.round(restored[:, :height, :width]))


def _blocks(images: Any) -> Any:
    """`(batch, rows, 8, columns, 8, 3)`: the images in blocks."""
    height, width = images.shape[1:3]
    return ops.reshape(images, (-1, height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3))


def _cosines() -> np.ndarray:
    """The orthonormal matrix of the discrete cosine transform, `float32 (8, 8)`."""
    frequency, place = np.mgrid[:BLOCK, :BLOCK]
    matrix = np.cos((2 * place + 1) * frequency * np.pi / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def _tables(quality: Any) -> Any:
    """Quantisation tables `float32 (batch, 1, 8, 1, 8, 3)`."""
    quality = ops.round(quality)
    scale = ops.where(quality < 50, ops.floor(5000 / ops.maximum(quality, 1.0)), 200 - 2 * quality)
    base = np.stack([np.reshape(table, (BLOCK, BLOCK)) for table in (LUMA, CHROMA, CHROMA)], axis=-1)
    scaled = ops.floor((ops.multiply(base.astype(np.float32)[None], per_image(scale)) + 50) / 100)
    return ops.reshape(ops.clip(scaled, 1.0, 255.0), (-1, 1, BLOCK, 1, BLOCK, 3))


def erase(images: Any, size: tuple[Any, Any], place: tuple[Any, Any], noise: Any) -> Any:
    """The images with a rectangle of each replaced by noise.

    Args:
        images: The images.
        size: Height and width of the rectangles, pixels; 0 for none.
        place: Where they lie in the room that they have, down and across, 0-1.
        noise: What replaces them, shaped like the images.
    """
    inside = None
    for axis, (length, share) in enumerate(zip(size, place, strict=True), start=1):
        side = images.shape[axis]
        start = ops.floor(per_image(share * (side - length) + 0.5))
        line = np.arange(side, dtype=np.float32).reshape((1, side, 1, 1) if axis == 1 else (1, 1, side, 1))
        part = ops.logical_and(ops.greater_equal(line, start), ops.less(line, start + per_image(length)))
        inside = part if inside is None else ops.logical_and(inside, part)
    return ops.where(inside, noise, images)
