"""Networks of keras.applications: their arguments, and downloads of their weights from a local server."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from file_server import FileServer, file_server
from keras.src.applications import efficientnet
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from tlcli.errors import ModelError, WeightsError
from tlcli.model import backbone
from tlcli.zoo import download, published
from tlcli.zoo.card import ModelCard
from tlcli.zoo.sources import applications

FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"
SMALL = {"size": (96, 96), "arguments": {"alpha": 0.35}}


def card(kind: str, **changes) -> ModelCard:
    defaults = {"name": kind.lower(), "source": f"keras:{kind}", "title": kind, "size": 224, "min_size": 32}
    return ModelCard(**{**defaults, "preprocessing": "tf", "licence": "Apache-2.0", **changes})


MOBILENET = card("MobileNetV2")


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[FileServer]:
    """A server as the mirror, and an empty cache of Keras."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(download, "WAITS_S", (0.01, 0.01))
    with file_server() as running:
        monkeypatch.setenv("TLCLI_MIRROR", running.url)
        yield running


def publish(network: keras.Model, path: Path) -> keras.Model:
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, network)
    return network


def published_mobilenet(server: FileServer, tmp_path: Path, name: str = FILE) -> keras.Model:
    network = publish(applications.architecture(MOBILENET, **SMALL), tmp_path / "published.h5")
    server.files[name] = (tmp_path / "published.h5").read_bytes()
    return network


def have_equal_weights(network: keras.Model, other: keras.Model) -> bool:
    pairs = zip(network.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(one, two) for one, two in pairs)


def test_weights_are_downloaded_once(server, tmp_path, capsys):
    source = published_mobilenet(server, tmp_path)
    assert have_equal_weights(applications.pretrained(MOBILENET, **SMALL), source)
    assert capsys.readouterr() == ("", "")
    server.files.clear()
    assert have_equal_weights(applications.pretrained(MOBILENET, **SMALL), source)
    assert [name for _, name, _ in server.requests] == [FILE]


def test_sizes_without_published_weights_use_those_for_224(server, tmp_path):
    source = published_mobilenet(server, tmp_path, FILE.replace("_96_", "_224_"))
    network = applications.pretrained(MOBILENET, size=(80, 120), arguments={"alpha": 0.35})
    assert network.input.shape == (None, 80, 120, 3)
    assert have_equal_weights(network, source)


def test_a_missing_file_on_the_server_gives_the_next_steps(server):
    with pytest.raises(WeightsError) as caught:
        applications.pretrained(MOBILENET, **SMALL)
    text = str(caught.value)
    assert f"the ImageNet weights of mobilenetv2 could not be fetched from {server.url}{FILE} (404 " in text
    assert f"copy the file to {published.keras_cache() / 'models' / FILE}" in text
    for way in ("--weights ", "--weights random", "tlcli demo", "--model efficientnet_lite0", "TLCLI_MIRROR"):
        assert way in text


def test_a_damaged_file_in_the_cache_is_an_error_with_its_path(server, tmp_path):
    cached = published.keras_cache() / "models" / FILE
    cached.parent.mkdir(parents=True)
    published_mobilenet(server, tmp_path)
    cached.write_bytes(server.files[FILE][:5000])
    with pytest.raises(
        WeightsError, match=rf"{FILE}: is not the published file .*it is cut off.*Delete it.*the mirror {server.url}"
    ):
        applications.pretrained(MOBILENET, **SMALL)


def test_a_file_of_keras_3_under_the_published_name_is_read_by_its_content(server, tmp_path):
    source = applications.architecture(MOBILENET, **SMALL)
    source.save_weights(tmp_path / "new.weights.h5")
    server.files[FILE] = (tmp_path / "new.weights.h5").read_bytes()
    assert have_equal_weights(applications.pretrained(MOBILENET, **SMALL), source)


def test_a_file_without_a_stated_hash_is_recorded(server, tmp_path):
    published_mobilenet(server, tmp_path)
    built = backbone.build(MOBILENET, weights=None, **SMALL)
    assert built.weights_record["published_hash"].startswith("sha256 not stated")
    random = backbone.build(MOBILENET, weights="random", **SMALL)
    assert "published_hash" not in random.weights_record
    assert published.unverified(card("EfficientNetB0")) == ""


def test_a_file_copied_into_the_cache_is_used(server, tmp_path):
    source = published_mobilenet(server, tmp_path)
    cached = published.keras_cache() / "models" / FILE
    cached.parent.mkdir(parents=True)
    cached.write_bytes(server.files.pop(FILE))
    assert have_equal_weights(applications.pretrained(MOBILENET, **SMALL), source)
    assert server.requests == []


def efficientnet_with_imagenet_variance(path: Path) -> keras.Model:
    network = applications.architecture(card("EfficientNetB0"), size=(32, 32), arguments={})
    normalization = next(layer for layer in network.layers if isinstance(layer, keras.layers.Normalization))
    imagenet = [[0.485, 0.456, 0.406], [0.229**2, 0.224**2, 0.225**2], 0]
    normalization.set_weights([np.array(values) for values in imagenet])
    normalization.finalize_state()
    return publish(network, path)


def test_an_efficientnet_from_a_file_equals_the_one_that_keras_downloads(tmp_path, monkeypatch):
    path = tmp_path / "models" / "efficientnetb0_notop.h5"
    path.parent.mkdir()
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
    network = efficientnet_with_imagenet_variance(path)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(efficientnet.WEIGHTS_HASHES, "b0", ("", md5))
    downloaded = keras.applications.EfficientNetB0(include_top=False, input_shape=(32, 32, 3))
    completed = applications.as_published(card("EfficientNetB0"), network)
    image = np.random.default_rng(0).random((1, 32, 32, 3), "float32") * 255
    inputs = [
        keras.Model(net.inputs[0], net.get_layer("stem_conv_pad").input)(image).numpy()
        for net in (network, downloaded, completed)
    ]
    assert not np.allclose(inputs[0], inputs[1], rtol=0.1)
    np.testing.assert_allclose(inputs[2], inputs[1], rtol=1e-6)
    assert have_equal_weights(completed, downloaded)
    assert len(completed.layers) == len(downloaded.layers)


def test_an_efficientnet_with_another_normalization_stays_as_it_is():
    network = applications.architecture(card("EfficientNetB0"), size=(32, 32), arguments={})
    assert applications.as_published(card("EfficientNetB0"), network) is network


def test_a_wrong_checksum_is_an_error(server):
    server.files["efficientnetb0_notop.h5"] = b"something else"
    with pytest.raises(WeightsError, match=r"efficientnetb0_notop\.h5 \(its hash is not md5:"):
        applications.pretrained(card("EfficientNetB0"), size=(32, 32), arguments={})


@pytest.mark.parametrize(
    ("kind", "arguments"), [("MobileNetV2", {"alpha": 0.42}), ("MobileNet", {"depth_multiplier": 2})]
)
def test_arguments_without_published_weights_are_an_error(kind, arguments):
    with pytest.raises(WeightsError, match=r"publishes no ImageNet weights .*--weights random"):
        applications.pretrained(card(kind), size=(96, 96), arguments=arguments)


@pytest.mark.parametrize("build", [applications.architecture, applications.pretrained])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth_multiplier": 1}, r"no argument 'depth_multiplier'. Arguments of mobilenetv2: alpha \(default 1.0\)"),
        ({"alhpa": 0.5}, "Did you mean 'alpha'"),
        ({"include_top": True}, "no argument 'include_top'"),
        ({"weights": "imagenet"}, "no argument 'weights'"),
        ({"alpha": "wide"}, r"model.arguments.alpha: cannot be 'wide'"),
        ({"alpha": -1}, "cannot be -1"),
        ({"alpha": True}, "cannot be True"),
    ],
)
def test_invalid_arguments_list_the_allowed_ones(build, arguments, message):
    with pytest.raises(ModelError, match=message):
        build(MOBILENET, size=(96, 96), arguments=arguments)


def test_networks_without_arguments_list_none():
    with pytest.raises(ModelError, match="Arguments of vgg16: none"):
        applications.architecture(card("VGG16"), size=(96, 96), arguments={"alpha": 1.0})


def test_images_below_the_smallest_size_are_refused():
    with pytest.raises(ModelError, match=r"images of 64x70 pixels. The smallest size is 75x75"):
        applications.architecture(card("InceptionV3", min_size=75), size=(64, 70), arguments={})


def test_a_size_that_only_keras_refuses_is_an_error():
    with pytest.raises(ModelError, match="cannot be built"):
        applications.architecture(card("InceptionV3", min_size=1), size=(64, 64), arguments={})


def test_the_users_arguments_override_the_cards():
    narrow = card("MobileNetV2", arguments={"alpha": 0.5})
    build = applications.architecture
    assert build(narrow, size=(32, 32), arguments={}).get_layer("Conv1").filters == 16
    assert build(narrow, size=(32, 32), arguments={"alpha": 1.0}).get_layer("Conv1").filters == 32


def test_include_top_adds_the_classification_top():
    network = applications.architecture(MOBILENET, size=(32, 32), arguments={}, include_top=True, classes=4)
    assert network.output.shape == (None, 4)


def test_an_unknown_keras_network_is_an_error():
    with pytest.raises(ModelError, match="has no 'MobileNetV9'"):
        applications.architecture(card("MobileNetV9"), size=(32, 32), arguments={})
