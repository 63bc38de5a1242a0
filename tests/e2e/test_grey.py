"""A network for grey images of 28 × 28 pixels, trained on drawn digits: every command takes it, colour images too."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

RECIPE = """\
recipe: 1
name: grey
data: {val: 0.2, test: 0.2}
phases:
  - {name: head, train: head, init: probe, epochs: 0}
  - {name: unfreeze, policy: gradual, step: 1, epochs: 1, lr: 1.0e-3}
augment: {preset: none}
"""


def digit(number: int, seed: int) -> np.ndarray:
    """A drawn digit, uint8 (28, 28), white on black."""
    generator = np.random.default_rng(seed)
    image = Image.new("L", (28, 28))
    place = tuple(int(value) for value in generator.integers(4, 12, 2))
    ImageDraw.Draw(image).text(place, str(number), fill=int(generator.integers(160, 255)), font_size=14)
    return np.asarray(image)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network like LeNet, trained on drawn digits for a few steps, with values from 0 to 1."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="tanh", name="c1"),
            layers.AveragePooling2D(2, name="s2"),
            layers.Conv2D(16, 5, activation="tanh", name="c3"),
            layers.AveragePooling2D(2, name="s4"),
            layers.Flatten(name="flatten"),
            layers.Dense(32, activation="tanh", name="f6"),
            layers.Dense(10, activation="softmax", name="output"),
        ]
    )
    labels = np.arange(200) % 10
    images = np.stack([digit(label, seed) for seed, label in enumerate(labels)])[..., None] / 255
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(images, labels, epochs=2, verbose=0)
    path = tmp_path_factory.mktemp("grey") / "lenet.keras"
    network.save(path)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images of three digits, drawn in yellow."""
    folder = tmp_path_factory.mktemp("digits") / "digits"
    for number in (1, 4, 8):
        (folder / str(number)).mkdir(parents=True)
        for seed in range(12):
            grey = digit(number, 1000 + seed)
            Image.fromarray(np.stack([grey, grey, 0 * grey], axis=2)).save(folder / str(number) / f"{seed:02}.png")
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "grey.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(lenet: Path, digits: Path, recipe: Path, tlcli: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "grey"
    words = ["--model", lenet, "--recipe", recipe, "--set", "model.preprocessing=unit", "--out", out]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        result = tlcli("finetune", digits, *words, "--json")
    assert result.code == 0, result.stderr
    return out


def test_a_colour_folder_is_fine_tuned_on_it(run: Path) -> None:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["model"]["size"] == [28, 28]
    assert record["scores"]["test"]["accuracy"] > 0.6
    assert [phase["name"] for phase in record["phases"]][:2] == ["head", "unfreeze 1"]


def test_plain_keras_reads_the_classifier_and_the_grey_is_that_of_pillow(
    run: Path, lenet: Path, digits: Path, tlcli: Callable
) -> None:
    import keras

    files = sorted(digits.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]).astype("float32")
    model = keras.saving.load_model(run / "model.keras")
    probabilities = model(pixels, training=False).numpy()
    rows = tlcli("predict", run, digits, "--json").document
    assert [row["probability"] for row in rows] == pytest.approx(list(probabilities.max(axis=1)), abs=1e-3)
    grey = np.stack([np.asarray(Image.open(file).convert("L")) for file in files])[..., None]
    read = keras.Model(model.inputs[0], model.get_layer("c1").input)(pixels).numpy()
    np.testing.assert_allclose(read * 255, grey, atol=0.6)


def test_inspect_plan_and_probe_work_on_it(lenet: Path, digits: Path, recipe: Path, tlcli: Callable) -> None:
    inspected = tlcli("inspect", lenet, "--by", "layer", "--json").document
    assert [layer["name"] for layer in inspected["layers"] if layer["parameters"]] == ["c1", "c3"]
    assert inspected["parameters"] == 6 * 25 + 6 + 16 * 150 + 16
    setting = ["--set", "model.preprocessing=unit"]
    plan = tlcli("plan", digits, "--model", lenet, "--recipe", recipe, *setting, "--json").document
    assert (plan["model"]["size"], plan["model"]["licence"]) == ([28, 28], "that of the file")
    assert {name for group in plan["groups"] for name in [group["name"]]}
    probe = tlcli("probe", digits, "--model", lenet, *setting, "--json")
    assert probe.code == 0, probe.stderr
    assert probe.document["models"][0]["depths"]


@pytest.mark.parametrize("mode", ["torch", "caffe"])
def test_preprocessing_for_colours_is_refused(mode: str, lenet: Path, digits: Path, tlcli: Callable) -> None:
    result = tlcli("finetune", digits, "--model", lenet, "--set", f"model.preprocessing={mode}", "--json")
    assert result.code == 2
    assert f"'{mode}' is for colours" in result.document["error"]["message"]
    assert "unit (0 to 1)" in result.document["error"]["hint"]


def test_it_is_added_to_the_zoo_and_its_run_too(
    lenet: Path, run: Path, digits: Path, recipe: Path, tlcli: Callable, tmp_path: Path
) -> None:
    assert tlcli("zoo", "add", lenet, "--name", "lenet", "--preprocessing", "unit", "--licence", "MIT").code == 0
    added = tlcli("zoo", "add", run, "--name", "digits", "--json")
    assert added.code == 0, added.stderr
    assert (added.document["preprocessing"], added.document["size"], added.document["parameters"]) == ("unit", 28, 2572)
    for name in ("lenet", "digits"):
        out = tmp_path / name
        result = tlcli("finetune", digits, "--model", name, "--recipe", recipe, "--out", out, "--json")
        assert result.code == 0, result.stderr
        assert result.document["model"]["name"] == name
    import keras

    first, second = (keras.saving.load_model(folder / "model.keras") for folder in (run, tmp_path / "digits"))
    names = [[layer.name for layer in model.layers if layer.weights] for model in (first, second)]
    assert names[0] == names[1]
