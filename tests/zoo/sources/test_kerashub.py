"""Presets of KerasHub: small presets of every family, saved by KerasHub and read by its loader."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kerashub_presets
import numpy as np
import pytest
from kerashub_presets import BUILDERS, OFFSET, SCALE, SIDE

from tlcli.errors import ModelError, WeightsError
from tlcli.zoo import catalogue, presets

pytestmark = pytest.mark.extras
CHECKOUT = Path(__file__).resolve().parents[3]
# Number of transformer blocks, in families whose encoder is opened.
BLOCKS = {
    "clip": 2,
    "deit": 2,
    "depth_anything": 4,
    "dinov2": 2,
    "dinov2_giant": 2,
    "dinov3": 2,
    "metaclip_2": 2,
    "mit": 3,
    "segformer": 2,
    "siglip": 2,
    "swin": 3,
    "vit": 2,
}
BUILT_IN = {"resnet", "resnet_vd", "cspnet", "densenet", "efficientnet", "efficientnet_lite", "vgg", "xception"}
TRAINED = ("resnet", "vit", "swin")
RECIPE = """\
recipe: 1
name: tiny
data: {size: [32, 32], val: 0.2, test: 0.2}
phases:
  - {name: head, train: head, init: probe, epochs: 1}
  - {name: unfreeze, train: "all", epochs: 1, batch_norm: train}
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a preset of a family."""
    home = tmp_path_factory.mktemp("presets")

    def folder(family: str) -> Path:
        if not (home / family).is_dir():
            kerashub_presets.save(family, home / family)
        return home / family

    return folder


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (2, SIDE, SIDE, 3)).astype("float32")


def expected_features(folder: Path, images: np.ndarray) -> np.ndarray:
    """What the preset computes when KerasHub loads it, pooled as its classifier does."""
    import keras_hub

    backbone = keras_hub.models.Backbone.from_preset(str(folder))
    scaled = images * np.array(SCALE, "float32") + np.array(OFFSET, "float32")
    if hasattr(backbone, "get_vision_embeddings"):
        return np.asarray(backbone.get_vision_embeddings(scaled))
    backbone = getattr(backbone, "image_encoder", backbone)
    names = [tensor.name for tensor in backbone.inputs]
    inputs = {names[0]: scaled} if isinstance(backbone.input, dict) else scaled
    outputs = backbone(inputs, training=False)
    features = np.asarray(list(outputs.values())[-1] if isinstance(outputs, dict) else outputs)
    if features.ndim == 4:
        return features
    return features.mean(axis=1) if "Swin" in type(backbone).__name__ else features[:, 0]


def build(folder: Path) -> Any:
    from tlcli.model import backbone

    card = catalogue.find(f"kerashub:{folder}")
    return backbone.build(card, size=(SIDE, SIDE), arguments={}, weights=None)


@pytest.mark.parametrize("family", BUILDERS)
def test_a_family_computes_what_its_preset_computes_and_is_saved(family, folders, images, tmp_path) -> None:
    import keras

    from tlcli.model import graph

    built = build(folders(family))
    features = built.network(images, training=False).numpy()
    np.testing.assert_allclose(features, expected_features(folders(family), images), atol=1e-5, rtol=1e-5)

    groups = graph.groups_of(built.network, built.card, (SIDE, SIDE))
    assert groups.parameters == sum(int(np.prod(weight.shape)) for weight in built.network.weights)
    assert all(group.is_cut_point for group in groups)
    if family in BLOCKS:
        assert [group.name for group in groups if group.name.startswith("block")] == [
            f"block{number}" for number in range(1, BLOCKS[family] + 1)
        ]
    else:
        assert len(groups) >= 3
    if family in BUILT_IN:
        assert {type(operation).__module__.partition(".")[0] for operation in built.network.operations} == {"keras"}
    names = [operation.name for operation in built.network.operations]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "/" in name]

    built.network.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(again(images, training=False).numpy(), features)


@pytest.mark.parametrize("family", ["resnet", "vit", "dinov3"])
def test_the_measured_network_is_the_one_that_is_trained(family, folders) -> None:
    from tlcli.model import graph

    built = build(folders(family))
    measured = graph.build_unweighted(built.card, {}, (SIDE, SIDE))
    assert graph.measure(measured) == graph.measure(built.network)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all commands of this file."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def runs(folders, cache, tlcli, photos, tmp_path_factory) -> dict[str, Path]:
    """Finished runs, all layers trained, by family."""
    home = tmp_path_factory.mktemp("runs")
    (home / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    for family in TRAINED:
        words = ["--model", f"kerashub:{folders(family)}", "--out", home / family]
        done = tlcli("finetune", photos, "--recipe", home / "tiny.yaml", *words)
        assert done.code == 0, done.stderr
    return {family: home / family for family in TRAINED}


def test_a_run_trains_every_layer(runs) -> None:
    for run in runs.values():
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        assert record["status"] == "complete"
        assert record["phases"][1]["trained_groups"][0] == "stem"


def test_classifiers_predict_the_same_in_keras(runs, photos) -> None:
    """Without tlcli; the convolutional one also without KerasHub, before it is imported for the others."""
    from PIL import Image

    from tlcli.model import classifier

    picture = np.asarray(Image.open(photos / "blue" / "00.bmp"), "float32")[None]
    pixels = runs["vit"] / "x.npy"
    np.save(pixels, picture)
    pixels = runs["vit"] / "x.npy"
    np.save(pixels, picture)
    code = (
        "import sys, keras, numpy as np\n"
        "for line in sys.stdin:\n"
        "    model = keras.models.load_model(line.strip())\n"
        f"    probabilities = model.predict(np.load({str(pixels)!r}), verbose=0)[0]\n"
        "    print('keras_hub' in sys.modules, *probabilities)\n"
        "    import keras_hub\n"
    )
    files = [run / "model.keras" for run in runs.values()]
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, input="\n".join(map(str, files)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for number, (file, line) in enumerate(zip(files, done.stdout.splitlines(), strict=True)):
        is_imported, *probabilities = line.split()
        assert is_imported == str(number > 0)
        own = classifier.load(file).model(picture, training=False)
        np.testing.assert_allclose(np.asarray(own)[0], [float(value) for value in probabilities], atol=1e-5)


def test_trained_positions_of_dinov2_are_saved_as_they_are(folders, images, tmp_path) -> None:
    """KerasHub itself would interpolate them to the size of the pretraining and back."""
    import keras

    network = build(folders("dinov2")).network
    embedding = network.get_layer("stem_patches")
    change = np.random.default_rng(3).normal(size=embedding.interpolated_position_embeddings.shape)
    embedding.interpolated_position_embeddings.assign_add(change.astype("float32"))
    expected = network(images, training=False)
    network.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_allclose(again(images, training=False), expected, atol=1e-6)


def test_a_run_is_the_start_of_another(runs, images) -> None:
    from tlcli.model import backbone

    built = backbone.build(catalogue.find(str(runs["vit"])), size=(SIDE, SIDE), arguments={}, weights=None)
    assert built.network.output.shape == (None, 16)


def test_a_model_file_with_layers_of_kerashub_asks_for_it_where_it_is_missing(runs, monkeypatch) -> None:
    from tlcli.zoo.sources import keras_file, kerashub

    monkeypatch.setattr(kerashub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"model\.keras: contains layers of KerasHub.*pip install 'tlcli\[kerashub\]'"):
        keras_file.load(runs["vit"] / "model.keras")
    assert keras_file.load(runs["resnet"] / "model.keras")


@pytest.mark.parametrize("command", ["inspect", "plan", "probe"])
def test_other_commands_take_a_preset(command, folders, cache, photos, tlcli) -> None:
    model = f"kerashub:{folders('vit')}"
    words = {"inspect": [model], "plan": [photos, "--model", model], "probe": [photos, "--model", model]}[command]
    done = tlcli(command, *words)
    assert done.code == 0, done.stderr
    assert "block2" in done.stdout


def test_a_task_decides_between_class_token_and_mean(folders, images, tmp_path) -> None:
    import keras_hub

    folder = shutil.copytree(folders("vit"), tmp_path / "gap")
    kerashub_presets.add_task(folder, pooling="gap")
    scaled = images * np.array(SCALE, "float32") + np.array(OFFSET, "float32")
    tokens = np.asarray(keras_hub.models.Backbone.from_preset(str(folder))(scaled, training=False))
    features = build(folder).network(images, training=False)
    np.testing.assert_allclose(features, tokens.mean(axis=1), atol=1e-5)


def test_convolutions_and_windows_take_other_sizes_and_trained_positions_do_not(folders) -> None:
    from tlcli.zoo.sources import kerashub

    for family, shape in (("mobilenet", (None, 12, 12, 32)), ("dinov2", (None, 16)), ("retinanet", (None, 6, 6, 64))):
        card = catalogue.find(f"kerashub:{folders(family)}")
        network = kerashub.network(card, size=(48, 48), arguments={}, weights=True)
        assert network.output.shape == shape
    card = catalogue.find(f"kerashub:{folders('clip')}")
    assert card.min_size == SIDE
    with pytest.raises(ModelError, match=r"works only on images of 32 × 32 pixels \(got 48 × 48\)"):
        kerashub.network(card, size=(48, 48), arguments={}, weights=False)


def test_without_image_converter_the_preprocessing_must_be_set(tmp_path, images) -> None:
    from tlcli.zoo.sources import kerashub

    kerashub_presets.save("vgg", tmp_path / "bare", converter=False)
    card = catalogue.find(f"kerashub:{tmp_path / 'bare'}")
    assert card.preprocessing is None
    scaled = card.model_copy(update={"preprocessing": "tf"})
    network = kerashub.network(scaled, size=(SIDE, SIDE), arguments={}, weights=True)
    assert "preprocess_scale" not in {layer.name for layer in network.layers}


def test_a_preset_in_the_cache_is_used_offline(folders, images, tmp_path, monkeypatch) -> None:
    """As if KerasHub had downloaded it."""
    monkeypatch.setenv("TLCLI_OFFLINE", "1")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    handle = presets.table()["resnet_18_imagenet"].handle
    shutil.copytree(folders("resnet"), tmp_path / "models" / handle)
    from tlcli.model import backbone

    built = backbone.build(catalogue.find("resnet_18_imagenet"), size=(SIDE, SIDE), arguments={}, weights=None)
    features = built.network(images, training=False)
    np.testing.assert_allclose(features, expected_features(folders("resnet"), images), atol=1e-5, rtol=1e-5)


def change(folder: Path, file: str, **values: Any) -> None:
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps({**content, **values}), encoding="utf-8")


BROKEN: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no weights": (lambda at: (at / "model.weights.h5").unlink(), WeightsError, "weight"),
    "weights cut short": (lambda at: os.truncate(at / "model.weights.h5", 3000), WeightsError, "damaged or incomplete"),
    "not JSON": (lambda at: (at / "config.json").write_text("{"), ModelError, r"config\.json: cannot be read"),
    "a list": (lambda at: (at / "config.json").write_text("[]"), ModelError, "is not the configuration of a preset"),
    "no preset": (lambda at: (at / "config.json").unlink(), ModelError, r"has no config\.json"),
    "language model": (
        lambda at: change(at, "config.json", class_name="GemmaBackbone", registered_name="keras_hub>GemmaBackbone"),
        ModelError,
        "is a GemmaBackbone, which is not a network for images",
    ),
    "foreign class": (
        lambda at: change(at, "config.json", module="os", registered_name="x>VGGBackbone"),
        ModelError,
        "cannot be built",
    ),
    "other shapes": (
        lambda at: change(
            at,
            "config.json",
            config={"stackwise_num_repeats": [1, 2], "stackwise_num_filters": [8, 24], "image_shape": [None, None, 3]},
        ),
        ModelError,
        "cannot be built",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_preset_is_one_error_that_names_it(kind, folders, tmp_path) -> None:
    folder = shutil.copytree(folders("vgg"), tmp_path / "broken")
    damage, error, message = BROKEN[kind]
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        build(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_arguments_are_refused(folders) -> None:
    from tlcli.zoo.sources import kerashub

    with pytest.raises(ModelError, match="takes no arguments"):
        kerashub.network(
            catalogue.find(f"kerashub:{folders('vgg')}"), size=(SIDE, SIDE), arguments={"alpha": 1}, weights=False
        )


def test_the_table_is_that_of_the_installed_version() -> None:
    """No preset is missing, none is stale."""
    code = "import list_kerashub_presets as script; print(script.rows(script.installed()), end='')"
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "scripts"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (CHECKOUT / "models" / "presets" / "kerashub.json").read_text(encoding="utf-8")
