"""Files of Keras 2: their layers, functions and weights in Keras 3, preprocessing and augmentation inside, cuts."""

import shutil
import zipfile
from pathlib import Path

import h5py
import keras
import keras_2_models
import numpy as np
import pytest

from tlcli.errors import ModelError
from tlcli.model import backbone, graph
from tlcli.zoo import catalogue
from tlcli.zoo.sources import keras_file

FILES = [f"{name}.h5" for name in keras_2_models.MODELS] + ["fine_tuned.keras"]
EXPECTED = {name: "tf" if name == "teachable_machine" else "none" for name in keras_2_models.MODELS}


def features(path: Path, cut: str | None = None) -> np.ndarray:
    """The features that tlcli computes for raw pixels, with the preprocessing that it recognises."""
    card = catalogue.find(str(path)).model_copy(update={"cut": cut})
    network = backbone.build(card, size=(card.size, card.size), arguments={}, weights=None).network
    pixels = keras.ops.image.resize(keras_2_models.images(), (card.size, card.size))
    return keras.ops.convert_to_numpy(network(backbone.preprocess(pixels, card.preprocessing)))


def check_features(folder: Path, file: str) -> None:
    """Compare the features with those that Keras 2 computed."""
    name = Path(file).stem
    assert catalogue.find(str(folder / file)).preprocessing == EXPECTED[name]
    expected = np.load(folder / "features.npz")[name]
    if name == "teachable_machine":
        # Keras 2 got pixels here; with its recognised preprocessing, the network gets values from -1 to 1.
        network = keras_file.without_top(keras_file.load(folder / file))
        np.testing.assert_allclose(network(keras_2_models.images()), expected, rtol=2e-5, atol=1e-4)
        return
    np.testing.assert_allclose(features(folder / file), expected, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("file", FILES)
def test_features_are_those_of_keras_2(file):
    check_features(keras_2_models.FOLDER, file)


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")
def test_features_are_those_of_the_installed_keras_2(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    keras_2_models.write(tmp_path, tf_keras)
    for file in FILES:
        check_features(tmp_path, file)


def test_augmentation_and_names_of_a_fine_tuned_file():
    network = keras_file.without_top(keras_file.load(keras_2_models.FOLDER / "fine_tuned.h5"))
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds[:4] == ["InputLayer", "Rescaling", "Rescaling", "Conv2D"]
    assert not [kind for kind in kinds if kind.startswith("Random")]
    assert network.get_layer("Conv1").weights
    assert network.layers[-1].name == "out_relu"


def augmented(*before: keras.Layer) -> keras.Model:
    layers = keras.layers
    stack = [*before, layers.Rescaling(1 / 255), layers.Conv2D(3, 3, name="conv"), layers.RandomFlip(), layers.ReLU()]
    return keras.Sequential([keras.Input((40, 48, 3)), *stack, layers.GlobalAveragePooling2D(), layers.Dense(2)])


def test_resizing_inside_sets_the_size_of_the_network(tmp_path):
    layers = keras.layers
    model = augmented(layers.Resizing(30, 36), layers.RandomZoom(0.2), layers.CenterCrop(20, 24))
    network = keras_file.without_top(model)
    assert network.input.shape == (None, 20, 24, 3)
    assert [type(layer).__name__ for layer in network.layers] == ["InputLayer", "Rescaling", "Conv2D", "ReLU"]
    model.save(tmp_path / "net.keras")
    card = catalogue.find(str(tmp_path / "net.keras"))
    assert (card.size, card.preprocessing) == (24, "none")
    image = keras_2_models.images()[:, :20]
    conv = model.get_layer("conv")
    np.testing.assert_allclose(network(image), keras.ops.relu(conv(image / 255)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("file", ["fine_tuned.h5", "teachable_machine.h5"])
def test_cut_at_a_layer(file):
    expected = features(keras_2_models.FOLDER / file, cut="depthwise_BN")
    whole = keras_file.without_top(keras_file.load(keras_2_models.FOLDER / file))
    card = catalogue.find(str(keras_2_models.FOLDER / file))
    part = keras.Model(whole.inputs, whole.get_layer("depthwise_BN").output)
    pixels = keras.ops.convert_to_tensor(keras_2_models.images())
    np.testing.assert_allclose(expected, part(backbone.preprocess(pixels, card.preprocessing)), rtol=1e-6)


def test_a_cut_may_be_above_the_pooling_of_a_file():
    path = keras_2_models.FOLDER / "teachable_machine.h5"
    assert features(path, cut="dense_Dense1").shape == (2, 10)


@pytest.mark.parametrize(
    ("cut", "message"),
    [("depthwise_bn", r"no layer 'depthwise_bn'.*Did you mean 'depthwise_BN'\?.*inspect"), ("zzz", "no layer")],
)
def test_a_wrong_cut_suggests_a_layer(cut, message):
    with pytest.raises(ModelError, match=message):
        features(keras_2_models.FOLDER / "fine_tuned.h5", cut=cut)


def changed(path: Path, tmp_path: Path, old: str, new: str) -> Path:
    """A copy of an h5 file whose configuration has another text."""
    copy = tmp_path / path.name
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        config = file.attrs["model_config"]
        assert old in config
        file.attrs["model_config"] = config.replace(old, new)
    return copy


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"TFOpLambda"', '"Lambda"', r"functions\.h5: has a Lambda layer.*not run"),
        (
            '"class_name": "Dense"',
            '"class_name": "TimeDistributed", "unused": {}',
            r"functions\.h5: cannot be loaded as a Keras model",
        ),
        ('"units": 2', '"layer": {"class_name": "Lambda"}', r"functions\.h5: has a Lambda layer"),
        ("nn.relu6", "py_function", r"functions\.h5: has a call of the TensorFlow function tf\.py_function"),
        ('{"axis": -1}', '{"axis": [0]}', "tf.concat"),
        ('"activation": "linear"', '"activation": "hard_sigmoid"', "hard_sigmoid.*another function"),
        ('"Conv2D"', '"Strange"', r"functions\.h5: cannot be loaded as a Keras model .*Strange"),
        ('"filters": 4', '"filters": 5', r"functions\.h5: does not fit .*conv kernel: network \(3, 3, 3, 5\)"),
        ('"name": "norm"', '"name": null', "functions"),
    ],
)
def test_files_that_cannot_be_converted_are_one_error(tmp_path, old, new, message):
    path = changed(keras_2_models.FOLDER / "functions.h5", tmp_path, old, new)
    with pytest.raises(ModelError, match=message):
        keras_file.load(path)


def test_a_truncated_archive_of_keras_2_is_an_error(tmp_path):
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(keras_2_models.FOLDER / "fine_tuned.keras") as archive, zipfile.ZipFile(path, "w") as target:
        for name in ("metadata.json", "config.json"):
            target.writestr(name, archive.read(name))
        target.writestr("model.weights.h5", archive.read("model.weights.h5")[:5000])
    with pytest.raises(ModelError, match=r"net\.keras: cannot be read as Keras weights"):
        keras_file.load(path)


def test_a_run_on_a_teachable_machine_file(tlcli, photos, tiny, tmp_path):
    path = keras_2_models.FOLDER / "teachable_machine.h5"
    words = [
        "--model",
        path,
        "--set",
        "model.weights=null",
        "--set",
        "model.arguments={}",
        "--set",
        "data.size=[24,24]",
    ]
    result = tlcli("finetune", photos, "--recipe", tiny, *words, "--cut", "add", "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.stderr
    run = result.document
    planned = tlcli("plan", photos, "--recipe", tiny, *words, "--cut", "add", "--json")
    assert planned.code == 0, planned.stderr
    assert run["recipe"]["model"]["cut"] == "add"
    assert [group["name"] for group in planned.document["groups"]] == run["model"]["groups"]
    loaded = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert "add" in {layer.name for layer in loaded.layers}
    assert "out_relu" not in {layer.name for layer in loaded.layers}
    shown = tlcli("inspect", tmp_path / "run", "--json").document
    assert shown["parameters"] == run["model"]["parameters"]
    probed = tlcli("probe", photos, "--model", path, "--cut", "add", "--size", 24, 24, "--json")
    assert probed.code == 0, probed.stderr
    assert probed.document["models"][0]["depths"][-1]["channels"] == 4


def test_inspect_cuts_a_bundled_network(tlcli):
    # Measured here, so that the command finds the stored structure.
    card = catalogue.find("mobilenet").model_copy(update={"cut": "conv_pw_3_relu"})
    graph.measure_groups(card, {}, (224, 224))
    shown = tlcli("inspect", "mobilenet", "--cut", "conv_pw_3_relu", "--by", "layer", "--json")
    assert shown.code == 0, shown.stderr
    assert shown.document["layers"][-1]["name"] == "conv_pw_3_relu"
    assert [group["name"] for group in shown.document["groups"]] == ["stem", "block1", "block2", "block3"]
