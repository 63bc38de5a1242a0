"""SqueezeNet with its published weights files: outputs as in Caffe, classes of ImageNet, the way through commands."""

from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from caffe_files import as_caffe, reference, squeezenet_of
from imagenet import DAISY, daisies_and_roses

from tlcli.errors import ModelError, WeightsError
from tlcli.model import backbone
from tlcli.model.backbone import preprocess
from tlcli.model.graph import measure_groups
from tlcli.zoo import catalogue, store
from tlcli.zoo.sources import architecture, weights_file

FULL, NO_TOP = "squeezenet_v1.1_227_full.weights.h5", "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"


@pytest.fixture(scope="module")
def home(sample: Callable[[str], Path]) -> Path:
    """The folder of the published files."""
    return sample("squeezenet_v1.1_imagenet")


def build(weights: Path, side: int = 227) -> keras.Model:
    card = catalogue.find("squeezenet")
    return backbone.build(card, size=(side, side), arguments={}, weights=str(weights)).network


def test_both_files_give_the_features_of_caffe(home: Path, sample: Callable, tmp_path: Path) -> None:
    """Compared with OpenCV, which runs the Caffe network; a different size makes the poolings round differently."""
    photo = next(sample("tf_flowers").rglob("*.jpg"))
    for side in (227, 150):
        net = squeezenet_of(home / FULL)
        net.size = (side, side)
        pixels = keras.utils.img_to_array(keras.utils.load_img(photo, target_size=net.size))[None]
        folder = net.write(tmp_path / str(side))
        expected = reference(folder, "fire9/concat", as_caffe(pixels, (103.939, 116.779, 123.68), 1.0))
        network = build(home / FULL, side)
        inputs = keras.Input((side, side, 3))
        features = keras.Model(inputs, network(preprocess(inputs, "caffe"))).predict(pixels, verbose=0)
        np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())
    other = build(home / NO_TOP)
    for one, two in zip(build(home / FULL).get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_daisies_are_daisies_of_imagenet(home: Path, sample: Callable) -> None:
    """With the classifier of the file. (Of all 317 daisies 74% are.)"""
    card = catalogue.find("squeezenet")
    whole = architecture.whole(card)
    weights_file.load(whole, home / FULL, with_top=lambda: whole)
    inputs = keras.Input((227, 227, 3))
    model = keras.Model(inputs, whole(preprocess(inputs, card.preprocessing)))
    pixels = daisies_and_roses(sample("tf_flowers"), 227)
    found = model.predict(pixels, batch_size=40, verbose=0).argmax(axis=1) == DAISY
    assert found[:60].mean() >= 0.7
    assert found[60:].mean() <= 0.05


def test_the_groups_are_bundled_and_measured(tmp_path: Path) -> None:
    card = catalogue.find("squeezenet")
    groups = measure_groups(card, {}, (64, 64))
    assert [group.name for group in groups] == ["stem", *(f"fire{number}" for number in range(2, 10))]
    assert groups.parameters == card.parameters
    smallest = backbone.build(card, size=(card.min_size,) * 2, arguments={}, weights="random").network
    assert smallest.output.shape[1:] == (1, 1, 512)


def test_without_a_file_the_error_names_the_option(tlcli: Callable, photos: Path) -> None:
    done = tlcli("plan", photos, "--model", "squeezenet", "--json")
    assert done.code == 2
    error = done.document["error"]
    assert error["where"] == "model.weights"
    assert "--model squeezenet --weights FILE" in error["hint"]
    assert store.own_state(catalogue.find("squeezenet")).where == "none"
    with pytest.raises(ModelError, match=r"no architecture 'squezenet'.*Did you mean 'squeezenet'"):
        catalogue.find("architecture:squezenet")


def other_network(path: Path) -> Path:
    """A weights file of another network."""
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.Conv2D(5, 3)(inputs), name="other").save_weights(path)
    return path


def test_plan_compares_the_weights_file_with_the_network(tlcli: Callable, photos: Path, tmp_path: Path) -> None:
    path = other_network(tmp_path / "w.weights.h5")
    options = ("--model", "squeezenet", "--weights", path, "--set", "data.size=[64,64]", "--json")
    planned = tlcli("plan", photos, *options)
    assert planned.code == 2
    error = planned.document["error"]
    assert (error["kind"], error["where"]) == ("weights", str(path))
    assert "another network" in error["hint"]
    with pytest.raises(WeightsError) as refused:
        backbone.build(catalogue.find("squeezenet"), size=(64, 64), arguments={}, weights=str(path))
    assert error["message"] == f"{refused.value.message} (given by --weights)"


@pytest.mark.parametrize("name", ["squeezenet", "mobilenet"])
def test_the_check_is_that_of_loading(name: str, tmp_path: Path) -> None:
    card, path = catalogue.find(name), tmp_path / "w.weights.h5"
    network = backbone.build(card, size=(64, 64), arguments={}, weights="random").network
    network.save_weights(path)
    backbone.check_weights(card, size=(64, 64), arguments={}, weights=path)
    with h5py.File(path, "a") as file:
        del file[f"layers/{max(name for name in file['layers'] if name.startswith('conv2d'))}"]
    with pytest.raises(WeightsError, match="looks incomplete"):
        backbone.check_weights(card, size=(64, 64), arguments={}, weights=path)
