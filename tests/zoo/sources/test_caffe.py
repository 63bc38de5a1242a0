"""Networks of Caffe: outputs as in OpenCV's reader, preprocessing, files, and a whole training."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from caffe_files import NETS, NetWriter, as_caffe, caffenet, googlenet, lenet, reference, squeezenet_of

from tlcli.errors import ModelError, WeightsError
from tlcli.model import backbone, graph, structure
from tlcli.zoo import catalogue
from tlcli.zoo.card import ModelCard
from tlcli.zoo.formats.caffe_schema import message

# The retracing of XLA convolutions, which Keras uses for groups.
pytestmark = pytest.mark.filterwarnings("ignore:.*triggered tf.function retracing")


def build(card: ModelCard, size: tuple[int, int], **arguments: Any) -> keras.Model:
    return backbone.build(card, size=size, arguments=arguments, weights=None).network


def images(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (2, *size, 3)).astype(np.float32)


def assert_close(actual: Any, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    assert np.abs(expected).max() > 0.05, "the reference is not constant zero"
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_of_opencv_also_after_saving(name: str, tmp_path: Path) -> None:
    make, cut = NETS[name]
    net = make()
    card = catalogue.find(f"caffe:{net.write(tmp_path)}")
    network = build(card, net.size)
    mean, scale = ((0.0,), 1 / 256) if net.channels == 1 else ((104.0, 117.0, 123.0), 1.0)
    expected = reference(tmp_path, cut, as_caffe(images(net.size), mean, scale))
    assert_close(network(images(net.size)).numpy(), expected)
    network.save(tmp_path / "net.keras")
    reloaded = keras.saving.load_model(tmp_path / "net.keras", safe_mode=True)
    np.testing.assert_array_equal(reloaded(images(net.size)), network(images(net.size)))


def test_trained_weights_give_the_features_of_opencv_on_photographs(tmp_path: Path, sample: Callable) -> None:
    net = squeezenet_of(sample("squeezenet_v1.1_imagenet") / "squeezenet_v1.1_227_full.weights.h5")
    photo = next(sample("tf_flowers").rglob("*.jpg"))
    pixels = keras.utils.img_to_array(keras.utils.load_img(photo, target_size=net.size))[None]
    card = catalogue.find(f"caffe:{net.write(tmp_path)}")
    expected = reference(tmp_path, "fire9/concat", as_caffe(pixels, (104, 117, 123), 1.0))
    network = build(card, net.size)
    assert_close(network(pixels).numpy(), expected)
    assert (network.output.shape, network.count_params()) == ((None, 14, 14, 512), 722_496)


@pytest.mark.parametrize("name", NETS)
def test_groups_cover_all_layers_at_every_size(name: str, tmp_path: Path) -> None:
    card = catalogue.find(f"caffe:{NETS[name][0]().write(tmp_path)}")
    network = build(card, (80, 80))
    groups = graph.groups_of(graph.build_unweighted(card, {}, (80, 80)), card, (80, 80))
    in_groups = [layer.name for group in groups.groups for layer in group.layers]
    weighted = [layer.name for layer in network.layers if layer.weights]
    assert sorted(in_groups) == sorted(weighted)
    assert len(groups.groups) >= min(3, len(weighted))
    assert groups.parameters == network.count_params()
    assert not any("/" in operation.name for operation in network.operations)
    smallest = graph.build_unweighted(card, {}, (card.min_size, card.min_size))
    assert [layer.name for layer in smallest.layers if layer.weights] == weighted
    if card.min_size > 1:
        with pytest.raises(ModelError, match=r"deploy.prototxt:\d+: layer '.*' .* has a window"):
            graph.build_unweighted(card, {}, (card.min_size - 1,) * 2)


@pytest.mark.parametrize("dtype", ["float", "double", "half"])
def test_old_files_and_all_number_types_are_read(dtype: str, tmp_path: Path) -> None:
    """`layers` with types in capitals, `input_dim`, shapes as num, channels, height, width."""
    net = caffenet()
    expected = reference(net.write(tmp_path, old=True), "pool5", as_caffe(images(net.size), (104, 117, 123), 1.0))
    weights = message("NetParameter").FromString(net.binary(old=True))
    for layer in weights.layers:
        for blob in layer.blobs:
            values = np.frombuffer(b"".join(blob.data), "<f4")
            if dtype == "double":
                blob.double_data.append(values.astype("<f8").tobytes())
            elif dtype == "half":
                blob.raw_data, blob.raw_data_type = values.astype("<f2").tobytes(), 2
            if dtype != "float":
                del blob.data[:]
    (tmp_path / "net.caffemodel").write_bytes(weights.SerializeToString())
    actual = build(catalogue.find(f"caffe:{tmp_path}"), net.size)(images(net.size))
    assert np.abs(actual - expected).max() < (2e-3 if dtype == "half" else 1e-5) * np.abs(expected).max()


def test_batch_norm_and_scale_become_one_layer(tmp_path: Path) -> None:
    network = build(catalogue.find(f"caffe:{NETS['resnet'][0]().write(tmp_path)}"), (64, 64))
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 7
    assert all(norm.scale and norm.center and norm.epsilon == pytest.approx(1e-3) for norm in norms)
    assert not any("scale" in layer.name for layer in network.layers if layer.weights)


# Preprocessing

DATA_LAYER = """\
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
  transform_param {{ {transform} }} data_param {{ batch_size: 8 }} }}
"""


def train_file(folder: Path, transform: str, name: str = "train_val.prototxt") -> None:
    phases = [DATA_LAYER.format(phase=phase, transform=transform) for phase in ("TRAIN", "TEST")]
    (folder / name).write_text("".join(phases), encoding="utf-8")


def mean_file(folder: Path, name: str, values: tuple[float, ...]) -> None:
    image = np.full((1, len(values), 4, 5), np.reshape(values, (1, -1, 1, 1)), np.float32)
    image[..., :2, :] += 3
    image[..., 2:, :] -= 3
    blob = message("BlobProto")(num=1, channels=len(values), height=4, width=5, data=[image.tobytes()])
    (folder / name).write_bytes(blob.SerializeToString())


@pytest.mark.parametrize(
    ("prepare", "mean", "scale", "origin"),
    [
        (lambda home: None, (104, 117, 123), 1, "Caffe's usual mean; the files do not say"),
        (lambda home: train_file(home, "mean_value: 1 mean_value: 2 mean_value: 3"), (1, 2, 3), 1, "train_val"),
        (lambda home: train_file(home, "mean_value: 120 scale: 0.5"), (120, 120, 120), 0.5, "from train_val.prototxt"),
        (lambda home: train_file(home, "scale: 0.25"), (0, 0, 0), 0.25, "from train_val.prototxt"),
        (lambda home: mean_file(home, "m.binaryproto", (9, 8, 7)), (9, 8, 7), 1, "mean of m.binaryproto"),
        (
            lambda home: (
                train_file(home, 'mean_file: "data/b.binaryproto"'),
                mean_file(home, "a.binaryproto", (1, 1, 1)),
                mean_file(home, "b.binaryproto", (9, 8, 7)),
            ),
            (9, 8, 7),
            1,
            "mean of b.binaryproto",
        ),
        (lambda home: train_file(home, 'mean_file: "gone"'), (104, 117, 123), 1, "the files do not say"),
        (
            lambda home: (train_file(home, "scale: 2", "train_a.prototxt"), train_file(home, "scale: 3")),
            (104, 117, 123),
            1,
            "the files do not say",
        ),
    ],
    ids=["default", "values", "one value", "scale", "image", "named image", "lost image", "two trainings"],
)
def test_the_card_says_where_the_preprocessing_is_from(
    prepare: Callable, mean: tuple[float, ...], scale: float, origin: str, tmp_path: Path
) -> None:
    net = caffenet()
    prepare(net.write(tmp_path))
    card = catalogue.find(f"caffe:{tmp_path}")
    assert origin in card.title
    assert card.arguments == {"mean": pytest.approx(list(mean)), "scale": pytest.approx(scale)}
    layers = build(card, net.size)
    values = layers.get_layer("preprocess_scale").output
    actual = keras.Model(layers.input, values)(images(net.size))
    np.testing.assert_allclose(actual, as_caffe(images(net.size), mean, scale), rtol=1e-4, atol=1e-3)


def test_a_grey_network_takes_rgb(tmp_path: Path) -> None:
    train_file(lenet().write(tmp_path), "scale: 0.00390625", "lenet_train_test.prototxt")
    card = catalogue.find(f"caffe:{tmp_path}")
    assert (card.size, card.arguments) == (28, {"mean": [0.0], "scale": 0.00390625})
    assert "grey minus (0) times 0.00390625 (from lenet_train_test.prototxt)" in card.title
    assert build(card, (28, 28)).input.shape == (None, 28, 28, 3)


def test_a_training_file_is_read_in_its_test_phase(tmp_path: Path) -> None:
    net = caffenet()
    transform = "crop_size: 95 mean_value: 5 mean_value: 6 mean_value: 7"
    net.head = "".join(DATA_LAYER.format(phase=phase, transform=transform) for phase in ("TRAIN", "TEST"))
    text = net.write(tmp_path).joinpath("deploy.prototxt").read_text()
    loss = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss" }'
    (tmp_path / "deploy.prototxt").write_text(text[: text.rindex("layer {")] + loss, encoding="utf-8")
    card = catalogue.find(f"caffe:{tmp_path}")
    assert (card.size, card.arguments["mean"]) == (95, [5.0, 6.0, 7.0])
    assert build(card, net.size).layers[-1].name == "pool5"


def test_arguments_override_the_files(tmp_path: Path) -> None:
    card = catalogue.find(f"caffe:{caffenet().write(tmp_path)}")
    layer = build(card, (95, 95), mean="1, 2,3", scale=0.5).get_layer("preprocess_scale")
    assert (layer.scale, layer.offset) == (0.5, [-0.5, -1.0, -1.5])
    invalid = (
        ("mean", "1,2", "'1,2'"),
        ("mean", "red", "'red'"),
        ("scale", "big", "'big'"),
        ("mena", 1, "mean 'mean'"),
    )
    for name, value, found in invalid:
        with pytest.raises(ModelError, match=rf"model.arguments.*{found}"):
            build(card, (95, 95), **{name: value})


# Files


def test_the_files_of_a_folder_are_chosen_or_listed(tmp_path: Path) -> None:
    lenet().write(tmp_path)
    source = f"caffe:{tmp_path / 'deploy.prototxt'},{tmp_path / 'net.caffemodel'}"
    (tmp_path / "solver.prototxt").write_text('net: "deploy.prototxt"')
    for text in (tmp_path, tmp_path / "deploy.prototxt", source.removeprefix("caffe:")):
        assert catalogue.find(f"caffe:{text}").source == source
    shutil.copy(tmp_path / "net.caffemodel", tmp_path / "other.caffemodel")
    with pytest.raises(WeightsError, match=r"has 2 \.caffemodel files.*: net.caffemodel, other.caffemodel"):
        catalogue.find(f"caffe:{tmp_path}")
    assert catalogue.find(source).source == source
    shutil.copy(tmp_path / "net.caffemodel", tmp_path / "deploy.caffemodel")
    assert catalogue.find(f"caffe:{tmp_path}").source.endswith("deploy.caffemodel")
    (tmp_path / "deploy.prototxt").rename(tmp_path / "a.prototxt")
    shutil.copy(tmp_path / "a.prototxt", tmp_path / "b.prototxt")
    with pytest.raises(
        ModelError, match=r"has 3 \.prototxt files.*a.prototxt, b.prototxt, solver.prototxt.*Write caffe"
    ):
        catalogue.find(f"caffe:{tmp_path}")


def test_cards_are_found_without_keras_and_groups_are_stored_by_content(tmp_path: Path) -> None:
    lenet().write(tmp_path)
    code = "import sys; from tlcli.zoo.catalogue import find; print(find(sys.argv[1]).source, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, f"caffe:{tmp_path}"], capture_output=True, text=True, check=True)
    source, *modules = done.stdout.split()
    assert not {"keras", "tensorflow"} & set(modules)
    before = structure.key(source, {})
    replace_text("kernel_size: 5", "kernel_size: 3")(tmp_path)
    assert structure.key(source, {}) != before


def replace_text(old: str, new: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        path = home / "deploy.prototxt"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return change


def truncate(home: Path) -> None:
    path = home / "net.caffemodel"
    path.write_bytes(path.read_bytes()[:-100])


def other_weights(home: Path) -> None:
    (home / "net.caffemodel").write_bytes(googlenet().binary())


@pytest.mark.parametrize(
    ("damage", "kind", "found"),
    [
        (lambda home: (home / "net.caffemodel").unlink(), WeightsError, "has no .caffemodel file"),
        (lambda home: (home / "deploy.prototxt").unlink(), ModelError, "has no .prototxt file"),
        (truncate, WeightsError, r"net.caffemodel: is not a binary file of Caffe.*fetch it again"),
        (lambda home: (home / "net.caffemodel").write_bytes(b""), WeightsError, "has no weights of layers"),
        (other_weights, WeightsError, r"no weights for layer 'conv1' \(4 of 4 layers are missing\)"),
        (
            replace_text("num_output: 10", "num_output: 12"),
            WeightsError,
            r"net.caffemodel: has weights \[\[10, 8, 3, 3\], \[10\]\] in layer 'conv3', where \[\[12, 8, 3, 3\]",
        ),
        (
            replace_text('"LRN"', '"LRM"'),
            ModelError,
            r"deploy.prototxt:6: layer 'norm1' \(LRM\) is of a type that is not supported. Supported: .*LRN",
        ),
        (replace_text("kernel_size: 11", "kernel_size: eleven"), ModelError, r"deploy.prototxt:3: is not a prototxt"),
        (replace_text('bottom: "norm1"', 'bottom: "norm9"'), ModelError, "'conv2' reads the blob 'norm9', which no"),
        (replace_text("dim: 3 dim: 95", "dim: 4 dim: 95"), ModelError, "has an input of 4 x 95 x 95"),
        (replace_text("group: 2", "group: 3"), ModelError, r"'conv2' .* has 8 outputs in 3 groups for 8 channels"),
        (replace_text("input_param", "other_param"), ModelError, "does not say the size of its input"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_files_end_in_one_clear_error(damage: Callable, kind: type, found: str, tmp_path: Path) -> None:
    damage(caffenet().write(tmp_path))
    with pytest.raises(kind, match=f"(?s){found}") as raised:
        build(catalogue.find(f"caffe:{tmp_path}"), (95, 95))
    assert type(raised.value) is kind
    assert str(tmp_path) in str(raised.value)


def test_the_top_of_a_network_may_have_anything_but_must_be_known(tmp_path: Path) -> None:
    net = NetWriter((32, 32))
    x = net.conv("conv", "data", 4, 3)
    net.layer("join", "Concat", [net.dense("a", x, 3, 4 * 30 * 30), net.dense("b", x, 3, 4 * 30 * 30)])
    with pytest.raises(ModelError, match="layer 'join' joins several outputs of one position"):
        catalogue.find(f"caffe:{net.write(tmp_path)}")


# The commands

RECIPE = """\
recipe: 1
name: tiny
data: {val: 0.2, test: 0.2}
phases:
  - {name: head, train: head, init: probe, epochs: 1}
  - {name: unfreeze, policy: gradual, step: 9, epochs: 1}
"""


def test_a_caffe_network_works_from_plan_to_prediction(
    tlcli: Callable, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grouped convolutions, LRN, and BatchNorm with Scale are trained, saved and reloaded by Keras alone."""
    net = NetWriter((33, 33))
    x = net.relu("relu1", net.norm("conv1", net.conv("conv1", "data", 8, 5, "stride: 2 bias_term: false")))
    x = net.lrn("norm/1", net.pool("pool1", x, "pool: MAX kernel_size: 3 stride: 2"))
    x = net.relu("relu2", net.conv("conv/2", x, 8, 3, "pad: 1", group=2))
    x = net.pool("pool2", net.conv("conv/3", x, 8, 3, "pad: 1"), "pool: AVE kernel_size: 4 stride: 3")
    net.layer("prob", "Softmax", [net.dense("fc", x, 5, 8 * 4)])
    net.write(tmp_path / "zoo")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    words = [photos, "--model", "caffe:zoo", "--recipe", "recipe.yaml"]
    inspected = tlcli("inspect", "caffe:zoo", "--format", "json").document
    plan = tlcli("plan", *words, "--json")
    assert plan.code == 0, plan.stderr
    assert (plan.document["model"]["name"], plan.document["model"]["size"]) == ("narrow", [33, 33])
    assert plan.document["model"]["parameters"] == inspected["parameters"]
    probe = tlcli("probe", photos, "--model", "caffe:zoo", "--json")
    assert probe.code == 0, probe.stderr

    run = tmp_path / "run"
    result = tlcli("finetune", *words, "--out", run, "--json")
    assert result.code == 0, result.stderr
    document = result.document
    assert document["model"]["weights"] == document["model"]["card"]["source"]
    assert [phase["name"] for phase in document["phases"]][:2] == ["head", "unfreeze 1"]
    monkeypatch.chdir("/")
    assert tlcli("plan", "--recipe", run / "recipe.yaml", "--json").document["model"]["name"] == "narrow"
    assert tlcli("evaluate", run, "--json").document["accuracy"] == document["scores"]["test"]["accuracy"]
    predicted = tlcli("predict", run, photos / "red" / "00.bmp", "--json").document[0]
    model = keras.saving.load_model(run / "model.keras", compile=False)
    pixels = keras.utils.img_to_array(keras.utils.load_img(photos / "red" / "00.bmp"))
    assert max(model(pixels[None])[0].numpy()) == pytest.approx(predicted["probability"], abs=1e-4)
