"""The catalogue: cards by name, and cards for files and runs."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest

from tlcli.errors import ModelError
from tlcli.zoo import catalogue
from tlcli.zoo.card import ModelCard


def archive(path: Path, layers: list[dict]) -> Path:
    """Write a `.keras` file with a configuration but no weights; the catalogue reads nothing else."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": layers}}))
    return path


def layer(kind: str, **config) -> dict:
    return {"class_name": kind, "config": config}


CONV = layer("Conv2D", filters=8)
CARD = """\
name: mine
source: keras:MobileNet
title: Mine
size: 96
min_size: 32
preprocessing: tf
licence: MIT
"""


@pytest.mark.parametrize(
    "text", ["mobilenet_v2", "MobileNetV2", "MOBILENET_V2", "mobilenet-v2", "keras:MobileNetV2", "keras:mobilenetv2"]
)
def test_a_bundled_card_is_found_in_any_spelling(text):
    card = catalogue.find(text)
    assert (card.name, card.source, card.weights) == ("mobilenet_v2", "keras:MobileNetV2", None)


def test_every_card_is_found_by_its_name_and_its_keras_class():
    cards = catalogue.load()
    assert cards, "no cards are bundled"
    for name, card in cards.items():
        assert catalogue.find(name) is card
        if card.weights is None:
            assert catalogue.find(card.source) == card


def test_load_returns_a_new_dictionary():
    catalogue.load().clear()
    assert catalogue.load()


def test_names_take_wildcards():
    names = catalogue.names("mobilenet*")
    assert "mobilenet_v2" in names
    assert all(name.startswith("mobilenet") for name in names)
    assert len(catalogue.names()) == len(catalogue.load())


def test_a_pattern_without_a_match_is_an_error():
    with pytest.raises(ModelError, match="no network name matches 'zzz\\*'"):
        catalogue.names("zzz*")


@pytest.mark.parametrize("text", ["mobilenet_v22", "keras:MobileNetV22"])
def test_an_unknown_name_gets_a_suggestion(text):
    with pytest.raises(ModelError, match=r"Did you mean 'mobilenet_v2'\?.*tlcli zoo list"):
        catalogue.find(text)


def test_the_former_name_of_the_bundled_network_gives_its_new_name():
    with pytest.raises(ModelError) as caught:
        catalogue.find("drawn")
    assert str(caught.value) == "model: 'drawn' was renamed. Write mobilenet_synthetic instead."


@pytest.mark.parametrize("text", ["torchhub:resnet18", "mlhub:https://example.org/net/1"])
def test_other_sources_are_not_supported(text):
    with pytest.raises(ModelError, match=r"are not supported.*keras:, package:.*kerashub:"):
        catalogue.find(text)


@pytest.mark.parametrize("text", ["nowhere/net.keras", "net.h5", "folder/x"])
def test_a_missing_file_is_an_error(text):
    with pytest.raises(ModelError, match="there is no such file"):
        catalogue.find(text)


def test_a_card_for_a_keras_file(tmp_path):
    path = archive(tmp_path / "birds.keras", [layer("InputLayer", batch_shape=[None, 96, 96, 3]), CONV])
    card = catalogue.find(str(path))
    assert (card.name, card.source, card.size) == ("birds", f"file:{path}", 96)
    assert card.preprocessing is None


@pytest.mark.parametrize(
    ("shape", "size"), [([None, None, None, 3], 224), ([None, 96, 128, 3], 128), ([None, 160, 160, 3], 160)]
)
def test_the_input_size_comes_from_the_file(tmp_path, shape, size):
    path = archive(tmp_path / "net.keras", [layer("InputLayer", batch_shape=shape), CONV])
    assert catalogue.find(str(path)).size == size


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([layer("Rescaling", scale=1 / 127.5, offset=-1), CONV], "none"),
        ([layer("Rescaling", scale=1.0, offset=[-103.9, -116.8, -123.7]), CONV], "none"),
        ([layer("Rescaling", scale=2.0, offset=-1), CONV], None),
        ([layer("Resizing"), layer("RandomFlip"), layer("Normalization"), CONV], "none"),
        ([CONV, layer("Rescaling", scale=0.01)], None),
        ([{"class_name": "Sequential", "config": {"layers": [layer("Rescaling", scale=0.004)]}}, CONV], "none"),
    ],
)
def test_a_model_that_scales_its_input_gets_no_preprocessing(tmp_path, layers, expected):
    path = archive(tmp_path / "net.keras", [layer("InputLayer", batch_shape=[None, 32, 32, 3]), *layers])
    assert catalogue.find(str(path)).preprocessing == expected


def test_a_run_folder_means_its_model(tmp_path):
    run = tmp_path / "flowers-7"
    run.mkdir()
    path = archive(run / "model.keras", [layer("InputLayer", batch_shape=[None, 64, 64, 3]), CONV])
    with pytest.raises(ModelError, match="not a run folder"):
        catalogue.find(str(run))
    (run / "run.json").write_text("{}")
    card = catalogue.find(str(run))
    assert (card.name, card.source) == ("flowers-7", f"file:{path}")


def test_a_legacy_file_is_read(sample):
    path = sample("cifar10_resnet8_mlperf_tiny") / "pretrainedResnet.h5"
    card = catalogue.find(str(path))
    assert (card.name, card.size, card.preprocessing) == ("pretrainedResnet", 32, None)


def test_a_weights_file_gives_the_weights_option(tmp_path):
    with h5py.File(tmp_path / "net.weights.h5", "w") as file:
        file.create_group("layers")
    with pytest.raises(ModelError, match=r"weights but no model.*--weights .*net\.weights\.h5"):
        catalogue.find(str(tmp_path / "net.weights.h5"))


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "net.tflite"])
def test_a_file_of_another_format_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(ModelError, match="is not a Keras model"):
        catalogue.find(str(tmp_path / name))


def test_bundled_cards_are_read_once():
    assert catalogue.find("mobilenet_synthetic") is catalogue.load()["mobilenet_synthetic"]


@pytest.mark.parametrize("name", ["mine.yaml", "mine.YML"])
def test_a_card_file_is_found_by_its_path(tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_text(CARD)
    assert catalogue.find(str(path)).name == "mine"
    monkeypatch.chdir(tmp_path)
    assert catalogue.find(name) == catalogue.find(str(path))
    assert catalogue.is_path(name)
    path.write_text(CARD.replace("size: 96", "size: 64"))
    assert catalogue.find(name).size == 64, "card files of users are read again"


@pytest.mark.parametrize("name", ["gone.yaml", "gone.yml", "no/gone.yaml"])
def test_a_missing_card_file_is_an_error(name):
    with pytest.raises(ModelError, match=rf"{name}: there is no such file"):
        catalogue.find(name)


def test_a_folder_named_like_a_card_file_is_an_error(tmp_path):
    (tmp_path / "mine.yaml").mkdir()
    with pytest.raises(ModelError, match="is a folder"):
        catalogue.find(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("mobilenet_v2", False),
        ("MobileNetV2", False),
        ("keras:VGG16", False),
        ("mobilenet_synthetic", False),
        ("hub:x", False),
        ("x.yaml", True),
        ("x.keras", True),
        ("runs/first", True),
        (".", True),
    ],
)
def test_paths_are_distinguished_from_names(text, is_path):
    assert catalogue.is_path(text) is is_path


def test_cards_survive_json(tmp_path):
    path = archive(tmp_path / "net.keras", [layer("InputLayer", batch_shape=[None, 32, 32, 3]), CONV])
    card = catalogue.find(str(path))
    assert ModelCard.model_validate_json(card.model_dump_json()) == card


def test_the_catalogue_imports_no_heavy_library():
    heavy = ("keras", "tensorflow", "numpy", "h5py")
    code = f"import sys, tlcli.zoo.catalogue as c; c.load(); print([m for m in {heavy} if m in sys.modules])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("files", "name", "kind"),
    [
        (["saved_model.pb"], "", "tfhub"),
        (["model.weights.h5", "config.json"], "", "kerashub"),
        (["checkpoint", "model.ckpt.index"], "", "slim"),
        (["model.ckpt.index"], "model.ckpt.index", "slim"),
        (["deploy.prototxt"], "deploy.prototxt", "caffe"),
    ],
)
def test_files_show_which_source_reads_them(tmp_path, monkeypatch, files, name, kind):
    asked = []
    monkeypatch.setattr(
        catalogue, "module_of", lambda kind: SimpleNamespace(find_card=lambda handle: asked.append((kind, handle)))
    )
    for file in files:
        (tmp_path / file).write_bytes(b"")
    catalogue.find(str(tmp_path / name))
    assert asked == [(kind, str(tmp_path / name))]
    assert not catalogue.is_path(str(tmp_path / name)), "its source makes the path absolute"


def test_an_address_of_a_hub_is_that_of_kerashub(monkeypatch):
    asked = []
    monkeypatch.setattr(
        catalogue, "module_of", lambda kind: SimpleNamespace(find_card=lambda handle: asked.append((kind, handle)))
    )
    catalogue.find("hf://keras/resnet_50")
    assert asked == [("kerashub", "hf://keras/resnet_50")]
