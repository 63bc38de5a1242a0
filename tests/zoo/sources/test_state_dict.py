"""Weights of PyTorch by a map: features equal PyTorch's, imports are whole or fail, imported networks fine-tune."""

import importlib
import io
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import torch_references
from safetensors.numpy import save_file

from tlcli.errors import ModelError, WeightsError
from tlcli.zoo import weight_map
from tlcli.zoo.architectures import table
from tlcli.zoo.formats import arrays, torch_file
from tlcli.zoo.sources import state_dict


def features(name: str, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The features of a small network in Keras, with these tensors."""
    module, options, map_name = torch_references.NETWORKS[name]
    builder = importlib.import_module(f"tlcli.zoo.architectures.{module}")
    network = builder.build(torch_references.SIZE, **options)
    rules = weight_map.read_map(weight_map.bundled_maps()[map_name])
    report = state_dict.fill(network, rules, tensors)
    report.require_complete(Path("small.pth"), name)
    return keras.ops.convert_to_numpy(network(torch_references.image()))


LARGE = ("timm_efficientnet", "timm_mobilenetv3_large")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in torch_references.NETWORKS]
)
def test_features_are_those_of_pytorch(name):
    tensors, expected = torch_references.stored(name)
    actual = features(name, tensors)[..., ::4]
    assert expected.std() > 0.01
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=2e-4 * float(np.abs(expected).max()))


@pytest.mark.extras
@pytest.mark.parametrize("name", torch_references.NETWORKS)
def test_features_are_those_of_the_installed_pytorch(name):
    pytest.importorskip("torch")
    pytest.importorskip("timm" if name.startswith("timm") else "torchvision")
    shapes, expected = torch_references.compute(name)
    actual = features(name, torch_references.state(shapes))
    np.testing.assert_allclose(actual.transpose(0, 3, 1, 2), expected, rtol=1e-3, atol=2e-4 * np.abs(expected).max())


@pytest.mark.extras  # Takes long.
def test_a_published_file_becomes_a_network_of_ones_own(tlcli, sample, photos, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCLI_ZOO", str(tmp_path / "zoo"))
    file = sample("cifar10_resnets_pytorch") / "resnet20-12fca82f.th"
    words = ("zoo", "import", file, "--architecture", "cifar_resnet20", "--name", "cifar", "--licence", "BSD-2-Clause")
    done = tlcli(*words, "--json")
    assert done.code == 0, done.stderr
    assert len(done.document["matched"]) == 95
    assert done.document["ignored"] == ["linear.weight", "linear.bias"]
    assert tlcli(*words, "--json").code == 2
    card = tlcli("zoo", "show", "cifar", "--json").document
    assert (card["source"], card["size"], card["licence"]) == ("state_dict:cifar_resnet20", 32, "BSD-2-Clause")
    check_published("cifar", file)

    options = ["--model", "cifar", "--set", "model.arguments={}", "--set", "model.weights=null", "--recipe", tiny]
    run = tlcli("finetune", photos, *options, "--out", tmp_path / "run", "--json")
    assert run.code == 0, run.stderr
    assert run.document["phases"][-1]["trained_groups"]
    planned = tlcli("plan", photos, *options, "--json")
    assert planned.code == 0, planned.stderr
    loaded = keras.saving.load_model(tmp_path / "run" / "model.keras")
    predicted = tlcli("predict", tmp_path / "run", *sorted(photos.glob("*/00.bmp")), "--json")
    assert predicted.code == 0, predicted.stderr
    assert loaded.output_shape == (None, 3)
    groups = tlcli("inspect", "cifar", "--json").document["groups"]
    assert sum(group["parameters"] for group in groups) == card["parameters"] == 270_448
    probed = tlcli("probe", photos, "--model", "cifar", "--json")
    assert probed.code == 0, probed.stderr
    assert len(probed.document["models"][0]["depths"]) == len(groups)


def check_published(name: str, file: Path) -> None:
    """Compare the features with those of the ResNet of the paper in NumPy, at another input size than the card's."""
    from tlcli.model import backbone
    from tlcli.zoo import catalogue

    built = backbone.build(catalogue.find(name), size=torch_references.SIZE, arguments={}, weights=None)
    expected = resnet_in_numpy(torch_file.read(file), torch_references.image()[0])
    actual = keras.ops.convert_to_numpy(built.network(torch_references.image()))[0]
    assert expected.std() > 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def resnet_in_numpy(weights: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """Features of the ResNet-20 for CIFAR-10 with shortcuts of option A: He et al. 2015, arXiv 1512.03385, section 4.2.

    Args:
        weights: Arrays by the names of PyTorch, kernels (outputs, inputs, 3, 3).
        image: Float (height, width, 3).
    """
    weights = {name.removeprefix("module."): array.astype(np.float64) for name, array in weights.items()}

    def normed(x: np.ndarray, conv: str, norm: str, stride: int = 1) -> np.ndarray:
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[::stride, ::stride]
        x = np.einsum("hwcij,ocij->hwo", windows, weights[f"{conv}.weight"], optimize=True)
        scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + 1e-5)
        return (x - weights[f"{norm}.running_mean"]) * scale + weights[f"{norm}.bias"]

    x = np.maximum(normed(image.astype(np.float64), "conv1", "bn1"), 0)
    for stage in (1, 2, 3):
        for block in range(3):
            stride, name = 2 if stage > 1 and block == 0 else 1, f"layer{stage}.{block}"
            inner = np.maximum(normed(x, f"{name}.conv1", f"{name}.bn1", stride), 0)
            inner = normed(inner, f"{name}.conv2", f"{name}.bn2")
            missing = (inner.shape[-1] - x.shape[-1]) // 2
            x = np.maximum(inner + np.pad(x[::stride, ::stride], ((0, 0), (0, 0), (missing, missing))), 0)
    return x


def tensors() -> dict[str, np.ndarray]:
    return torch_references.stored("cifar_resnet")[0]


def write(path: Path, values: dict[str, np.ndarray]) -> Path:
    """Write arrays in the format of the suffix."""
    if path.suffix == ".npz":
        np.savez(path, **values)
    else:
        save_file(values, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_formats_of_arrays(tmp_path, suffix):
    values = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(3, np.int64)}
    read = arrays.read(write(tmp_path / f"w{suffix}", values))
    assert read.keys() == values.keys()
    assert all(np.array_equal(read[name], values[name]) for name in values)


def test_bfloat16_becomes_float32(tmp_path):
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\x80\x3f\x00\xc0")
    assert arrays.read(tmp_path / "w.safetensors")["a"].tolist() == [1.0, -2.0]


def with_pickle(path: Path) -> Path:
    """An .npz with an object array, which NumPy stores as a pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("conv1.weight.npy", buffer.getvalue())
    return path


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda home: home / "gone.safetensors", r"gone\.safetensors: there is no such file"),
        (
            lambda home: truncated(write(home / "w.safetensors", tensors())),
            r"w\.safetensors: cannot be read as safetensors",
        ),
        (lambda home: truncated(write(home / "w.npz", tensors())), r"w\.npz: cannot be read as an \.npz"),
        (lambda home: with_pickle(home / "w.npz"), r"w\.npz: cannot be read as an \.npz of arrays .*pickle"),
        (lambda home: Path(__file__), r"unknown suffix '\.py'.*\.safetensors"),
    ],
)
def test_damaged_and_hostile_files_are_one_error(tmp_path, make, message):
    with pytest.raises(WeightsError, match=message):
        arrays.read(make(tmp_path))


def renamed(old: str, new: str) -> dict[str, np.ndarray]:
    return {new if name == old else name: array for name, array in tensors().items()}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (renamed("bn1.bias", "bn9.bias"), r"variables of cifar_resnet without an array: bn1 beta; .*: bn9\.bias"),
        (tensors() | {"layer4.0.conv1.weight": np.ones((2, 2, 3, 3))}, r"arrays without a variable: layer4\.0\.conv1"),
        (
            tensors() | {"conv1.weight": np.ones((16, 3, 5, 5), np.float32)},
            r"conv1\.weight \(16, 3, 5, 5\) does not fit conv1 kernel \(3, 3, 3, 16\)",
        ),
        (tensors() | {"bn1.bias": np.full(16, np.nan)}, r"bn1\.bias .*NaN"),
        (tensors() | {"bn1.bias": np.array(["a"] * 16)}, "bn1.bias .*type"),
        (tensors() | {"module.bn1.bias": np.ones(16)}, r"module\.bn1\.bias"),
    ],
)
def test_what_does_not_fit_is_named_from_both_sides(values, message):
    with pytest.raises(WeightsError, match=message):
        features("cifar_resnet", values)


def test_nothing_is_imported_by_halves(tlcli, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCLI_ZOO", str(tmp_path / "zoo"))
    file = write(tmp_path / "w.npz", tensors())
    done = tlcli("zoo", "import", file, "--architecture", "cifar_resnet20", "--name", "mine", "--json")
    assert done.code == 2
    # Two blocks in each stage instead of three.
    assert "layer1.2.conv1 kernel" in done.document["error"]["message"]
    assert not list((tmp_path / "zoo").glob("**/*.h5"))
    assert tlcli("zoo", "show", "mine").code == 2


def test_a_map_of_ones_own_for_a_network_of_keras(tlcli, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCLI_ZOO", str(tmp_path / "zoo"))
    network = keras.applications.MobileNet(weights=None, include_top=False, input_shape=(224, 224, 3))
    random = np.random.default_rng(0)
    values, rules = {}, ["rules:"]
    for layer in network.layers:
        for variable in layer.weights:
            array = random.normal(size=variable.shape).astype(np.float32)
            variable.assign(array)
            values[f"{layer.name}:{variable.name}"] = array
    rules += ["- {match: '(.+):(.+)', layer: '{1}', variable: '{2}', transpose: none}"]
    (tmp_path / "map.yaml").write_text("\n".join(rules))
    file = write(tmp_path / "w.safetensors", values)
    words = ("zoo", "import", file, "--architecture", "mobilenet", "--name", "mine", "--map", tmp_path / "map.yaml")
    done = tlcli(*words)
    assert done.code == 0, done.stderr
    matched, *_, next_step = done.stdout.splitlines()
    assert (matched, next_step) == ("135 arrays matched, 0 ignored", "use it: tlcli finetune DATA --model mine")
    assert len(done.stdout.splitlines()) == 3
    assert tlcli("zoo", "remove", "mine").code == 0
    with (tmp_path / "map.yaml").open("a") as rest:
        rest.write("\nignore: ['head.*']")
    file = write(tmp_path / "w.safetensors", values | {f"head{number}": np.zeros(1, "float32") for number in range(6)})
    done = tlcli(*words, "--verbose")
    assert "conv1 kernel" in done.stdout
    assert tlcli("zoo", "remove", "mine").code == 0
    assert "6 ignored: head0, head1, head2, head3 and 2 more" in tlcli(*words).stdout
    from tlcli.model import backbone
    from tlcli.zoo import catalogue

    built = backbone.build(catalogue.find("mine"), size=(64, 64), arguments={}, weights=None).network
    for ours, theirs in zip(built.get_weights(), network.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)


def test_depthwise_kernels_keep_the_order_of_channels():
    rng = np.random.default_rng(0)
    kernel, image = rng.normal(size=(6, 1, 3, 3)), rng.normal(size=(1, 5, 5, 3)).astype(np.float32)
    layer = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="d")
    network = keras.Model(inputs := keras.Input((5, 5, 3)), layer(inputs))
    rules = weight_map.WeightMap.model_validate({"rules": [{"match": "d", "layer": "d", "variable": "weight"}]})
    assert not state_dict.fill(network, rules, {"d": kernel}).misfits
    # Output channel o of a grouped convolution reads input channel o // 2.
    expected = [[np.sum(kernel[o, 0] * image[0, y : y + 3, x : x + 3, o // 2]) for o in range(6)] for y, x in [(0, 2)]]
    np.testing.assert_allclose(network(image)[0, 0, 2], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: []", r"m\.yaml: is not a map of weights \(line 1, rules: must have at least 1"),
        ("rules: [{match: '(', layer: a, variable: b}]", "is not a map of weights"),
        ("rules: [{match: a, layer: a}]", r"line 1, rules\[0\]\.variable: is missing"),
        ("- a", "is not a map"),
        ("rules: [", "is not a map"),
        ("rules: !!python/object/apply:os.system [ls]", "is not a map"),
    ],
)
def test_a_wrong_map_is_an_error(tmp_path, text, message):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ModelError, match=message):
        weight_map.read_map(tmp_path / "m.yaml")


def test_every_bundled_map_is_used_and_valid():
    used = {architecture.map for architecture in table.ARCHITECTURES.values()}
    assert used == set(weight_map.bundled_maps())
    for path in weight_map.bundled_maps().values():
        weight_map.read_map(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--architecture", "torchvision_resnet19", "--map", "torchvision"], "Did you mean 'torchvision_resnet1"),
        (["--architecture", "mobilenet"], "no bundled map"),
        (["--architecture", "cifar_resnet20", "--map", "gone.yaml"], "gone.yaml"),
        (["--architecture", "cifar_resnet20", "--name", "mobilenet"], "bundled network"),
    ],
)
def test_a_wrong_import_is_one_sentence(tlcli, tmp_path, words, message):
    file = write(tmp_path / "w.npz", {"a": np.ones(3)})
    done = tlcli("zoo", "import", file, *([] if "--name" in words else ["--name", "mine"]), *words)
    assert done.code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
