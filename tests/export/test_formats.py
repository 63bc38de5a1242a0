"""Exports by optional libraries, run by their own runtimes."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tlcli.errors import ModelError
from tlcli.evaluate.runtimes import open_model

pytestmark = pytest.mark.extras

FORMS = [
    ("litert", "none", False),
    ("litert", "float16", False),
    ("litert", "dynamic", False),
    ("litert", "int8", False),
    ("litert", "none", True),
    ("onnx", "none", False),
    ("onnx", "float16", False),
    ("onnx", "dynamic", False),
    ("onnx", "int8", False),
    ("onnx", "none", True),
    ("openvino", "none", False),
    ("openvino", "float16", False),
    ("openvino", "none", True),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, photos: Path, tlcli: Callable) -> tuple:
    """A run on a pretrained network, whose numbers are sound in few bits, unlike those of a random one."""
    home = tmp_path_factory.mktemp("sound")
    (home / "head.yaml").write_text(
        "recipe: 1\nname: head\ndata: {size: [32, 32], val: 0.2, test: 0.2}\nmodel: {name: mobilenet_synthetic}\n"
        "phases: [{name: head, train: head, init: probe, epochs: 0}]\n"
    )
    result = tlcli("finetune", photos, "--recipe", home / "head.yaml", "--out", home / "run", "--json")
    assert result.code == 0, result.stderr
    return home / "run", result


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: "-".join(map(str, form)))
def exported(request: pytest.FixtureRequest, sound: tuple, tlcli: Callable, tmp_path_factory: pytest.TempPathFactory):
    """A bundle, its form and its JSON document."""
    to, quantize, is_raw = request.param
    folder = tmp_path_factory.mktemp("exports") / "bundle"
    options = ["--raw-input"] if is_raw else []
    words = ("export", sound[0], "--to", to, "--quantize", quantize, "--out", folder, "--json", "--max-drop", 0.2)
    result = tlcli(*words, *options)
    assert result.code == 0, result.stderr
    return folder, request.param, result.document


def test_a_bundle_predicts_as_the_run(exported: tuple, sound: tuple, photos: Path, tlcli: Callable) -> None:
    folder, (_, quantize, _), document = exported
    expected = tlcli("predict", sound[0], photos, "--top", 3, "--json").document
    found = tlcli("predict", folder, photos, "--top", 3, "--json").document
    same = np.mean([a["label"] == b["label"] for a, b in zip(found, expected, strict=True)])
    is_float = quantize in ("none", "float16")
    assert same >= (1.0 if is_float else 0.75)
    if is_float:
        assert document["comparison"]["largest_difference"] < 0.02
    else:
        # In 8 bits a single image near a border may get any probability; the labels and the accuracy bind.
        comparison = document["comparison"]
        assert comparison["accuracy"] >= comparison["classifier_accuracy"] - 0.25


def test_a_bundle_loads_no_keras(exported: tuple, photos: Path) -> None:
    folder, (_, quantize, is_raw), _ = exported
    if quantize != "none" or is_raw:
        pytest.skip("the runtime is that of plain files")
    program = """
import sys
from tlcli.cli.main import cli
for words in (["predict", sys.argv[1], sys.argv[2]], ["evaluate", sys.argv[1], sys.argv[2]]):
    try:
        cli(words)
    except SystemExit as ended:
        assert ended.code == 0
assert not {"keras", "tensorflow"} & set(sys.modules)
"""
    words = [sys.executable, "-c", program, str(folder), str(photos)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_smaller_numbers_make_smaller_files(exported: tuple, sound: tuple) -> None:
    _, (_, quantize, _), document = exported
    # float32 weights, half or a quarter of them; the graph itself takes up to 150 kB.
    weights = 4 * sound[1].document["model"]["parameters"]
    share = {"none": 1.0, "float16": 0.5, "dynamic": 0.6, "int8": 0.3}[quantize]
    assert document["bytes"] < share * weights + 250_000


def test_the_usage_program_runs(exported: tuple, photos: Path, tlcli: Callable) -> None:
    (folder, (_, quantize, _), _), image = exported, photos / "green" / "03.bmp"
    command = [sys.executable, str(folder / "usage.py"), str(image)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    (row,) = tlcli("predict", folder, image, "--json").document
    label, probability = found.stdout.split()
    assert label == row["label"]
    assert float(probability) == pytest.approx(row["probability"], abs=0.05 if quantize in ("none", "float16") else 0.2)


def test_a_file_without_its_bundle_knows_its_classes(exported: tuple, tmp_path: Path) -> None:
    folder, (to, _, _), document = exported
    file = folder / document["file"]
    runtime = open_model(file)
    assert runtime.classes == ("blue", "green", "red")
    assert runtime.size == (32, 32)
    assert runtime.resize == "crop"
    if to == "onnx":
        import onnx

        properties = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        assert json.loads(properties["labels"]) == ["blue", "green", "red"]
    if to == "litert":
        with zipfile.ZipFile(file) as archive:
            assert archive.read("labels.txt") == b"blue\ngreen\nred\n"


def test_images_of_any_size_go_in(exported: tuple) -> None:
    folder, (to, quantize, is_raw), _ = exported
    runtime = open_model(folder)
    random = np.random.default_rng(0)
    own = random.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    together, one_by_one = runtime.probabilities(own), [runtime.probabilities(image[None])[0] for image in own]
    assert together.dtype == np.float32
    assert together.shape == (5, 3)
    np.testing.assert_allclose(together, one_by_one, atol=1e-3 if quantize != "dynamic" else 0.1)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=0.02)
    other = random.integers(0, 256, (1, 45, 70, 3), dtype=np.uint8)
    if is_raw or (to, quantize) == ("litert", "int8"):
        with pytest.raises(ModelError, match="takes images of 32 × 32"):
            runtime.probabilities(other)
    else:
        assert runtime.probabilities(other).shape == (1, 3)
    assert runtime.probabilities(own[:0]).shape == (0, 3)


def test_damaged_and_foreign_files_are_one_clear_error(
    exported: tuple, tmp_path: Path, tlcli: Callable, photos: Path
) -> None:
    folder, _, document = exported
    source = folder / document["file"]
    for number, data in enumerate([b"", b"no model", source.read_bytes()[:2000]]):
        file = tmp_path / f"{number}{source.suffix}"
        file.write_bytes(data)
        result = tlcli("predict", file, photos / "red")
        assert result.code == 2
        assert str(file) in result.stderr
        assert "bug in tlcli" not in result.stderr


def test_numbers_too_large_for_8_bits_are_an_error(finished: tuple, tlcli: Callable, tmp_path: Path) -> None:
    """LiteRT would end the process without a word."""
    result = tlcli("export", finished[0], "--to", "litert", "--quantize", "int8", "--out", tmp_path / "x")
    assert result.code == 2
    assert "too large for 8-bit numbers" in result.stderr
    assert not (tmp_path / "x").exists()
