"""Whole models from files of Keras 2 and 3, removal of their top, and resizing."""

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from imagenet import DAISY, daisies_and_roses

from tlcli.errors import ModelError
from tlcli.model.backbone import preprocess
from tlcli.zoo.sources import keras_file

layers = keras.layers


def image(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((2, side, side, 3), "float32")


def small_base(side: int | None = 32, name: str = "base") -> keras.Model:
    inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="c1")(inputs)
    x = layers.BatchNormalization(name="b1")(x)
    return keras.Model(inputs, layers.DepthwiseConv2D(3, padding="same", name="d1")(x), name=name)


def with_head(base: keras.Model) -> keras.Model:
    """A model as in the Keras guides: rescaling, base model called with training=False, pooling, dropout, dense."""
    inputs = keras.Input((32, 32, 3))
    x = base(layers.Rescaling(2.0, name="scale")(inputs), training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def teachable_machine(base: keras.Model) -> keras.Model:
    features = keras.Sequential([base, layers.GlobalAveragePooling2D()])
    head = keras.Sequential([layers.Dense(5, activation="relu", name="dense_1"), layers.Dense(2, name="dense_2")])
    model = keras.Sequential([features, head])
    model.build((None, 32, 32, 3))
    return model


def test_a_keras_2_file_with_groups_gives_built_in_layers(sample):
    path = sample("mobilenet_v1_0.25_224_imagenet") / "mobilenet_v1_0.25_224.h5"
    with h5py.File(path) as file:
        assert '"groups": 1' in file.attrs["model_config"]
        kernel = file["model_weights/conv_dw_13/conv_dw_13/depthwise_kernel:0"][()]
    model = keras_file.load(path)
    assert {type(layer).__module__.partition(".")[0] for layer in model.layers} == {"keras"}
    assert np.array_equal(model.get_layer("conv_dw_13").kernel, kernel)
    network = keras_file.without_top(model)
    reference = keras.applications.MobileNet(alpha=0.25, weights=None, include_top=False, input_shape=(224, 224, 3))
    reference.set_weights(network.get_weights())
    np.testing.assert_allclose(network(image(224)), reference(image(224)), rtol=1e-5, atol=1e-5)


def test_daisies_are_daisies_of_imagenet(sample):
    """With the head of a whole MobileNetV1 at width 0.25. (Of all 317 daisies 77% are.)"""
    whole = keras_file.load(sample("mobilenet_v1_0.25_224_imagenet") / "mobilenet_v1_0.25_224.h5")
    inputs = keras.Input((224, 224, 3))
    model = keras.Model(inputs, whole(preprocess(inputs, "tf")))
    found = model.predict(daisies_and_roses(sample("tf_flowers"), 224), batch_size=40, verbose=0).argmax(1) == DAISY
    assert found[:60].mean() >= 0.75
    assert found[60:].mean() <= 0.05


def test_loading_does_not_change_the_file(sample):
    path = sample("mobilenet_v1_0.25_224_imagenet") / "mobilenet_v1_0.25_224.h5"
    before = path.read_bytes()
    keras_file.load(path)
    assert path.read_bytes() == before


def test_a_resnet_is_cut_before_its_pooling(sample):
    model = keras_file.load(sample("cifar10_resnet8_mlperf_tiny") / "pretrainedResnet.h5")
    network = keras_file.without_top(model)
    assert network.output.shape == (None, 8, 8, 64)
    assert network.layers[-1].name == "activation_6"
    pooled = network(image(32)).numpy().mean((1, 2))
    kernel, bias = model.get_layer("dense").get_weights()
    np.testing.assert_allclose(keras.ops.softmax(pooled @ kernel + bias), model(image(32)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("make", [with_head, teachable_machine])
@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_nested_models_are_replaced_by_their_layers(tmp_path, make, suffix):
    base = small_base()
    model = make(base)
    model.save(tmp_path / f"net{suffix}")
    loaded = keras_file.load(tmp_path / f"net{suffix}")
    network = keras_file.without_top(loaded)
    names = [layer.name for layer in network.layers if layer.weights]
    assert names == ["c1", "b1", "d1"]
    expected = base(image(32) * 2.0 if make is with_head else image(32))
    np.testing.assert_allclose(network(image(32)), expected, rtol=1e-5, atol=1e-6)
    assert all(network.get_layer(name).output is not None for name in names)


def test_layers_with_equal_names_in_nested_models_are_renamed():
    model = keras.Sequential([keras.Input((32, 32, 3)), small_base(name="low")])
    high = keras.Sequential([keras.Input((16, 16, 4)), layers.Conv2D(2, 3, name="c1")], name="high")
    model = keras.Sequential([*model.layers, high, layers.GlobalMaxPooling2D(), layers.Dense(2)])
    model.build((None, 32, 32, 3))
    network = keras_file.without_top(model)
    assert [layer.name for layer in network.layers if layer.weights] == ["low_c1", "b1", "d1", "high_c1"]
    assert network.output.shape == (None, 14, 14, 2)


def test_models_with_a_variable_input_size_are_supported():
    base = small_base(None)
    model = keras.Model(base.inputs[0], layers.Dense(2)(layers.GlobalAveragePooling2D()(base.outputs[0])))
    network = keras_file.without_top(model)
    assert network.output.shape == (None, None, None, 4)
    assert keras_file.resized(network, (20, 40)).output.shape == (None, 10, 20, 4)


def test_pooling_to_one_pixel_belongs_to_the_top():
    base = small_base()
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(base.outputs[0])
    logits = layers.Flatten()(layers.Conv2D(7, 1, name="logits")(pooled))
    assert keras_file.without_top(keras.Model(base.inputs[0], logits)).layers[-1].name == "d1"


def test_one_pixel_from_convolutions_is_not_part_of_the_top():
    base = small_base()
    narrow = layers.Conv2D(6, 16, name="last")(base.outputs[0])
    model = keras.Model(base.inputs[0], layers.Dense(2)(layers.Flatten()(narrow)))
    assert keras_file.without_top(model).layers[-1].name == "last"


def test_a_network_without_a_top_stays_as_it_is():
    network = keras_file.without_top(small_base())
    assert network.layers[-1].name == "d1"


def test_resized_can_copy_weights():
    base = small_base()
    copy, fresh = keras_file.resized(base, (64, 48)), keras_file.resized(base, None, copy_weights=False)
    assert copy.input.shape == (None, 64, 48, 3)
    assert all(np.array_equal(a, b) for a, b in zip(copy.get_weights(), base.get_weights(), strict=True))
    assert copy.layers[1] is not base.layers[1]
    assert not np.array_equal(fresh.layers[1].kernel, base.layers[1].kernel)


def test_a_copy_normalises_like_the_original():
    network = keras.Sequential([keras.Input((8, 8, 3)), layers.Normalization(), layers.Conv2D(2, 1)])
    network.layers[0].adapt(image(8) * 50)
    copy = keras_file.resized(keras_file.without_top(network), (8, 8))
    np.testing.assert_allclose(copy(image(8)), network(image(8)), rtol=1e-5)


def test_a_network_with_a_fixed_size_cannot_be_resized():
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, layers.Reshape((4, 16, 3))(inputs), name="bound")
    with pytest.raises(ModelError, match=r"bound: .*images of 16x16.*input size is 8x8"):
        keras_file.resized(network, (16, 16))


def two_inputs() -> keras.Model:
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    return keras.Model(inputs, layers.Add()(inputs))


def two_branches() -> keras.Model:
    base = small_base()
    other = layers.Conv2D(4, 1)(base.outputs[0])
    pooled = [layers.GlobalAveragePooling2D()(x) for x in (base.outputs[0], other)]
    return keras.Model(base.inputs[0], layers.Concatenate()(pooled))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(1, 1)]),
            r"RGB or grey images \(input shape .*8, 8, 2",
        ),
        (lambda: keras.Sequential([keras.Input((5,)), layers.Dense(1)]), "RGB or grey images"),
        (lambda: keras.Sequential([layers.Dense(1)]), "never built"),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(1)]),
            "cut before its pooling",
        ),
        (two_inputs, "2 inputs"),
        (two_branches, "2 tensors"),
    ],
)
def test_models_that_cannot_be_cut_give_the_reason(make, message):
    with pytest.raises(ModelError, match=message):
        keras_file.without_top(make())


def test_code_in_a_file_is_not_run(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "net.keras")
    with pytest.raises(ModelError, match=r"net\.keras: has a Lambda layer.*Replace it"):
        keras_file.load(tmp_path / "net.keras")


@keras.saving.register_keras_serializable("somewhere_else")
class Strange(keras.layers.Layer):
    def call(self, inputs):
        return inputs


def test_unknown_layers_are_named(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), Strange()])
    model.save(tmp_path / "net.keras")
    del keras.saving.get_custom_objects()["somewhere_else>Strange"]
    with pytest.raises(ModelError, match=r"net\.keras: cannot be loaded .*Strange"):
        keras_file.load(tmp_path / "net.keras")


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_files_that_are_not_models_are_an_error(tmp_path, name):
    (tmp_path / name).write_text("hello")
    with pytest.raises(ModelError, match=rf"{name}: is not a Keras model"):
        keras_file.load(tmp_path / name)


def test_truncated_archives_are_an_error(tmp_path):
    path = tmp_path / "net.keras"
    small_base().save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"net\.keras"):
        keras_file.load(path)


def test_a_weights_file_gives_the_weights_option(sample):
    path = sample("mobilenet_v1_0.25_224_imagenet") / "mobilenet_v1_0.25_224.weights.h5"
    with pytest.raises(ModelError, match=r"weights but no model.*--weights"):
        keras_file.load(path)


def test_a_missing_file_is_an_error():
    with pytest.raises(ModelError, match="no such file"):
        keras_file.load(Path("gone.keras"))
