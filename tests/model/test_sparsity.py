"""Near-zero weights: their share, and models in which they are zero."""

import keras
import numpy as np
import pytest

from tlcli.model.sparsity import share_below, zeroed

KERNEL = np.array([[0.5, -0.05], [0.0, 0.2], [-0.2, 0.01]], np.float32)


@pytest.fixture
def model() -> keras.Model:
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.DepthwiseConv2D(1, name="depthwise")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    built = keras.Model(inputs, keras.layers.Dense(2, name="dense")(x))
    built.get_layer("depthwise").set_weights([np.full((1, 1, 3, 1), 0.001), np.full(3, 0.001)])
    built.get_layer("norm").set_weights([np.full(3, 0.001)] * 4)
    built.get_layer("dense").set_weights([KERNEL, np.full(2, 0.001)])
    return built


@pytest.mark.parametrize(("threshold", "below"), [(0.001, 1), (0.02, 2 + 3), (0.2, 3 + 3), (9.0, 9)])
def test_only_kernels_count(model, threshold, below):
    assert share_below(model.layers, threshold) == below / 9
    assert share_below([model.get_layer("norm")], threshold) == 0


def test_zeroed_kernels_are_zero_inside_and_as_before_outside(model):
    before = [weight.tobytes() for weight in model.get_weights()]
    with zeroed(model, 0.1) as share:
        kernel, bias = model.get_layer("dense").get_weights()
        np.testing.assert_array_equal(kernel, np.where(np.abs(KERNEL) < 0.1, 0, KERNEL))
        np.testing.assert_array_equal(bias, np.float32(0.001))
        np.testing.assert_array_equal(model.get_layer("norm").get_weights(), np.float32(0.001))
        assert not model.get_layer("depthwise").get_weights()[0].any()
        assert share == 6 / 9
    assert [weight.tobytes() for weight in model.get_weights()] == before
