"""The resize inside exported files gives the pixels of `keras.layers.Resizing`."""

import keras
import numpy as np
import pytest

from tlcli.export.image_input import ImageResize

SIZE = (24, 32)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_the_resize_is_that_of_keras(resize: str) -> None:
    random = np.random.default_rng(0)
    theirs = keras.layers.Resizing(
        *SIZE,
        antialias=True,
        crop_to_aspect_ratio=resize == "crop",
        pad_to_aspect_ratio=resize == "pad",
        dtype="float32",
    )
    for shape in [(24, 32), (100, 130), (20, 150), (151, 24), (7, 5), (1, 40)]:
        images = random.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
        expected = np.asarray(theirs(images.astype(np.float32), training=False))
        # TensorFlow computes the weights of the pixels to about 1e-5.
        np.testing.assert_allclose(np.asarray(ImageResize(SIZE, resize)(images)), expected, atol=0.01)
