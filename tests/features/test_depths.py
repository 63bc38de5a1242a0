"""Pooled features at many layers: computed in one pass, in files that disappear afterwards."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from tlcli.data.pixels import Images
from tlcli.errors import DataError
from tlcli.features import extraction

SIDE = 6


def network() -> keras.Model:
    """A network of feature maps, then tokens, then a feature vector."""
    image = keras.Input((SIDE, SIDE, 3), name="image")
    maps = layers.Conv2D(4, 3, name="maps")(image)
    tokens = layers.Reshape((16, 4), name="tokens")(maps)
    return keras.Model(image, layers.Dense(5, name="plain")(layers.Flatten()(tokens)), name="small")


def images(count: int) -> Images:
    """Some rows of a larger pixel cache, in another order."""
    random = np.random.default_rng(0)
    return Images(random.integers(0, 256, (count + 9, SIDE, SIDE, 3), np.uint8), random.permutation(count + 9)[:count])


@pytest.mark.parametrize("count", [1, extraction.DEPTH_BATCH, 2 * extraction.DEPTH_BATCH + 5])
def test_features_are_in_the_order_of_the_images(count: int, tmp_path: Path) -> None:
    built, some = network(), images(count)
    reported: list[tuple[int, int]] = []
    model = extraction.pooled_model(built, ["plain", "maps", "tokens"], pooling="avg")
    features = extraction.extract_depths(
        model, some, tmp_path / "new", progress=lambda done, total: reported.append((done, total))
    )
    pixels = some.pixels[some.rows].astype(np.float32)
    maps = keras.Model(built.input, built.get_layer("maps").output).predict(pixels, verbose=0)
    pooled = maps.mean(axis=(1, 2))
    for array, expected in zip(features, [built.predict(pixels, verbose=0), pooled, pooled], strict=True):
        assert (array.dtype, array.shape, array.flags.writeable) == (np.float32, expected.shape, False)
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-3)
    assert reported[-1] == (count, count)
    assert [done for done, _ in reported] == sorted({done for done, _ in reported})
    assert list((tmp_path / "new").iterdir()) == [], "the files have no name"


@pytest.mark.parametrize("pooling", ["avg", "max", "avg_max"])
def test_pooling_equals_that_of_the_head(pooling: str, tmp_path: Path) -> None:
    from tlcli.model.head import pool

    built, some = network(), images(3)
    (features,) = extraction.extract_depths(
        extraction.pooled_model(built, ["maps"], pooling=pooling), some, tmp_path, progress=lambda done, total: None
    )
    head = keras.Model(built.input, pool(built.get_layer("maps").output, pooling))
    expected = head.predict(some.pixels[some.rows].astype(np.float32), verbose=0)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-4)


def test_half_precision_is_averaged_in_float32(tmp_path: Path) -> None:
    """A mean in bfloat16 has a precision of eight bits."""
    image = keras.Input((SIDE, SIDE, 3), name="image")
    built = keras.Model(image, layers.Rescaling(1.0, dtype="bfloat16", name="half")(image))
    model = extraction.pooled_model(built, ["half"], pooling="avg")
    some = images(1)
    (features,) = extraction.extract_depths(model, some, tmp_path, progress=lambda done, total: None)
    np.testing.assert_allclose(features[0], some.pixels[some.rows[0]].mean(axis=(0, 1)), rtol=1e-6)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    model = extraction.pooled_model(network(), ["maps"], pooling="avg")
    with pytest.raises(DataError, match="features cannot be written") as error:
        extraction.extract_depths(model, images(2), tmp_path / "file" / "probes", progress=lambda done, total: None)
    assert "TLCLI_CACHE" in error.value.hint
