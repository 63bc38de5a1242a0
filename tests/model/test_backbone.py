"""Backbones: the network of a card, its weights and its preprocessing."""

import dataclasses
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from tlcli.errors import ModelError, WeightsError
from tlcli.model import backbone
from tlcli.zoo import catalogue
from tlcli.zoo.card import ModelCard
from tlcli.zoo.sources import weights_file

MOBILENET = ModelCard(
    name="mobilenet",
    source="keras:MobileNet",
    title="MobileNet",
    size=224,
    min_size=32,
    preprocessing="tf",
    licence="x",
)
NARROW = {"alpha": 0.25}
REAL = "mobilenet_v1_0.25_224_imagenet"


def image(side: int) -> np.ndarray:
    return np.random.default_rng(0).random((2, side, side, 3), "float32")


def test_random_weights_follow_the_seed():
    built = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        built.append(backbone.build(MOBILENET, size=(32, 64), arguments=NARROW, weights="random"))
    assert built[0].weights_origin == "random"
    assert built[0].size == (32, 64)
    assert built[0].network.output.shape == (None, 1, 2, 256)
    assert built[0].network.input.dtype == "float32"
    assert built[0].weights_sha256 == built[1].weights_sha256 != built[2].weights_sha256


def test_the_same_weights_have_the_same_hash_in_every_format(sample):
    folder = sample(REAL)
    weights = [folder / "mobilenet_v1_0.25_224.h5", folder / "mobilenet_v1_0.25_224.weights.h5"]
    built = [backbone.build(MOBILENET, size=(96, 96), arguments=NARROW, weights=str(path)) for path in weights]
    whole = backbone.build(catalogue.find(str(weights[0])), size=(96, 96), arguments={}, weights=None)
    assert built[0].weights_sha256 == built[1].weights_sha256 == whole.weights_sha256
    assert built[1].weights_origin == "file:mobilenet_v1_0.25_224.weights.h5"
    assert whole.weights_origin == "file:mobilenet_v1_0.25_224.h5"
    np.testing.assert_allclose(whole.network(image(96)), built[0].network(image(96)), rtol=1e-5, atol=1e-5)


def test_the_hash_covers_the_last_weight():
    built = backbone.build(MOBILENET, size=(32, 32), arguments=NARROW, weights="random")
    last = built.network.weights[-1]
    last.assign(last + 1e-6)
    assert backbone.weights_sha256(built.network) != built.weights_sha256


def test_a_model_file_accepts_random_or_other_weights(sample):
    folder = sample(REAL)
    card = catalogue.find(str(folder / "mobilenet_v1_0.25_224.h5"))
    own = backbone.build(card, size=(224, 224), arguments={}, weights=None)
    fresh = backbone.build(card, size=(224, 224), arguments={}, weights="random")
    other = backbone.build(card, size=(64, 64), arguments={}, weights=str(folder / "mobilenet_v1_0.25_224.weights.h5"))
    assert own.weights_sha256 == other.weights_sha256 != fresh.weights_sha256
    assert fresh.weights_origin == "random"
    assert other.network.input.shape == (None, 64, 64, 3)


def test_a_model_file_takes_no_arguments(sample):
    card = catalogue.find(str(sample("cifar10_resnet8_mlperf_tiny") / "pretrainedResnet.h5"))
    with pytest.raises(ModelError, match=r"model.arguments: a model file takes no arguments .*alpha"):
        backbone.build(card, size=(32, 32), arguments=NARROW, weights=None)


def test_a_missing_weights_file_is_named():
    with pytest.raises(WeightsError, match=r"no file 'gone.h5'.*random"):
        backbone.build(MOBILENET, size=(32, 32), arguments=NARROW, weights="gone.h5")


def test_a_file_named_random_needs_a_path(sample, tmp_path, monkeypatch):
    shutil.copyfile(sample(REAL) / "mobilenet_v1_0.25_224.weights.h5", tmp_path / "random")
    monkeypatch.chdir(tmp_path)
    assert backbone.build(MOBILENET, size=(32, 32), arguments=NARROW, weights="random").weights_origin == "random"
    built = backbone.build(MOBILENET, size=(32, 32), arguments=NARROW, weights="./random")
    assert built.weights_origin == "file:random"


@pytest.fixture
def own(tmp_path) -> ModelCard:
    """A card that names a weights file."""
    keras.utils.set_random_seed(5)
    network = keras.applications.MobileNet(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.25)
    sha256 = weights_file.save(network, tmp_path / "mine.weights.h5", half=True)
    changes = {"name": "mine", "arguments": NARROW, "weights": str(tmp_path / "mine.weights.h5"), "sha256": sha256}
    return MOBILENET.model_copy(update=changes)


def test_the_weights_of_a_card_are_loaded(own):
    built = backbone.build(own, size=(64, 32), arguments={}, weights=None)
    again = backbone.build(own, size=(32, 32), arguments=NARROW, weights=None)
    assert built.weights_origin == "card (mine)"
    assert built.weights_sha256 == again.weights_sha256
    reference = keras.applications.MobileNet(weights=None, include_top=False, input_shape=(64, 32, 3), alpha=0.25)
    reference.load_weights(own.weights)
    assert built.weights_sha256 == backbone.weights_sha256(reference)
    np.testing.assert_array_equal(built.network(image(64)[:, :, :32]), reference(image(64)[:, :, :32]))


def test_the_weights_of_a_card_can_be_replaced(own, sample):
    fresh = backbone.build(own, size=(32, 32), arguments={}, weights="random")
    assert fresh.weights_origin == "random"
    path = sample(REAL) / "mobilenet_v1_0.25_224.weights.h5"
    other = backbone.build(own, size=(32, 32), arguments={}, weights=str(path))
    assert other.weights_origin == f"file:{path.name}"
    mine = backbone.build(own, size=(32, 32), arguments={}, weights=None)
    assert len({built.weights_sha256 for built in (fresh, other, mine)}) == 3
    wide = backbone.build(own, size=(32, 32), arguments={"alpha": 0.5}, weights="random")
    assert wide.network.output.shape[-1] == 512


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [({"alpha": 0.5}, "fit only {alpha: 0.25} (got {alpha: 0.5})"), ({"depth_multiplier": 2}, "{depth_multiplier: 1}")],
    ids=str,
)
def test_arguments_that_do_not_fit_the_weights_of_a_card_are_refused(own, arguments, allowed):
    with pytest.raises(WeightsError, match=r"model\.arguments\.\w+: the weights of mine") as caught:
        backbone.build(own, size=(32, 32), arguments=arguments, weights=None)
    assert allowed in str(caught.value)


def test_a_changed_weights_file_of_a_card_is_refused(own):
    """Keras could read the file, but its hash differs."""
    keras.utils.set_random_seed(6)
    network = keras.applications.MobileNet(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.25)
    backbone.build(own, size=(32, 32), arguments={}, weights=None)
    weights_file.save(network, Path(own.weights), half=True)
    with pytest.raises(WeightsError, match=r"mine\.weights\.h5: is not the file of the card of mine"):
        backbone.build(own, size=(32, 32), arguments={}, weights=None)
    assert backbone.build(own, size=(32, 32), arguments={}, weights="random").weights_origin == "random"


def test_weights_of_another_network_are_refused(own):
    wrong = own.model_copy(update={"arguments": {}})
    with pytest.raises(WeightsError, match=r"does not fit mobilenet_1\.00_32"):
        backbone.build(wrong, size=(32, 32), arguments={}, weights=None)


def test_bundled_weights_are_loaded():
    card = catalogue.find("mobilenet_synthetic")
    built = backbone.build(card, size=(64, 64), arguments={}, weights=None)
    assert built.weights_origin == "card (mobilenet_synthetic)"
    assert built.network.count_params() == card.parameters
    reference = getattr(keras.applications, card.source.removeprefix("keras:"))(
        weights=None, include_top=False, input_shape=(64, 64, 3), **card.arguments
    )
    reference.load_weights(card.weights)
    assert built.weights_sha256 == backbone.weights_sha256(reference)


def test_other_sources_are_refused():
    card = MOBILENET.model_copy(update={"source": "nowhere:x"})
    with pytest.raises(ModelError, match="models from 'nowhere:' are not supported"):
        backbone.build(card, size=(32, 32), arguments={}, weights=None)


def test_weights_with_a_flatten_top_are_loaded_at_the_size_of_the_card(tmp_path):
    """The kernels of VGG after Flatten depend on the input size; those of the backbone do not."""
    card = ModelCard(
        name="vgg16", source="keras:VGG16", title="VGG16", size=32, min_size=32, preprocessing="caffe", licence="x"
    )
    source = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=2)
    source.save_weights(tmp_path / "vgg.weights.h5")
    built = backbone.build(card, size=(64, 48), arguments={}, weights=str(tmp_path / "vgg.weights.h5"))
    assert np.array_equal(built.network.get_layer("block5_conv3").kernel, source.get_layer("block5_conv3").kernel)


def test_upper_layers_can_be_left_out():
    built = backbone.build(MOBILENET, size=(64, 64), arguments=NARROW, weights="random", cut="conv_pw_6_relu")
    assert built.network.layers[-1].name == "conv_pw_6_relu"
    assert built.network.output.shape == (None, 4, 4, 128)
    assert built.weights_sha256 == backbone.weights_sha256(built.network)
    with pytest.raises(ModelError, match="no layer 'nowhere'"):
        backbone.build(MOBILENET, size=(64, 64), arguments=NARROW, weights="random", cut="nowhere")


def test_a_backbone_is_immutable():
    built = backbone.build(MOBILENET, size=(32, 32), arguments=NARROW, weights="random")
    with pytest.raises(dataclasses.FrozenInstanceError):
        built.size = (1, 1)


@pytest.mark.parametrize("mode", ["tf", "torch", "caffe", "unit"])
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_preprocessing_is_exact_in_mixed_precision(mode, precision):
    inputs = keras.Input((4, 4, 3))
    exact = keras.Model(inputs, backbone.preprocess(inputs, mode))
    pixels = image(4) * 255
    keras.config.set_dtype_policy(precision)
    try:
        inputs = keras.Input((4, 4, 3))
        mixed = keras.Model(inputs, backbone.preprocess(inputs, mode))
    finally:
        keras.config.set_dtype_policy("float32")
    assert mixed.output.dtype == "float32"
    assert np.array_equal(mixed(pixels), exact(pixels))


def test_no_preprocessing_returns_the_same_tensor():
    inputs = keras.Input((4, 4, 3))
    assert backbone.preprocess(inputs, "none") is inputs


def test_the_epsilon_reaches_nested_norms_and_changes_the_outputs():
    inputs = keras.Input((2, 2, 3))
    inner = keras.Sequential([keras.layers.BatchNormalization(name="inner")])
    network = keras.Model(inputs, keras.layers.BatchNormalization(name="outer")(inner(inputs)), name="nested")
    pixels = np.random.default_rng(0).normal(size=(2, 2, 2, 3)).astype(np.float32)
    backbone.set_batch_norm_epsilon(network, 0.21)
    np.testing.assert_allclose(network.predict_on_batch(pixels), pixels / 1.21, rtol=1e-5)
    plain = keras.Model(inputs, keras.layers.ReLU()(inputs), name="plain")
    with pytest.raises(ModelError, match="plain has no BatchNorm"):
        backbone.set_batch_norm_epsilon(plain, 0.21)
