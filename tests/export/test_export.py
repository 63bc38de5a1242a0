"""Exports without optional libraries: bundles, refusals, trust, damage, and wrong requests."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlcli.errors import ModelError
from tlcli.evaluate.runtimes import keras_model, open_model
from tlcli.export import bundle
from tlcli.export.comparison import compare, objections
from tlcli.export.snippets import usage
from tlcli.export.targets import TARGETS, ExportRequest
from tlcli.model import classifier as classifiers
from tlcli.model.metadata import read_metadata
from tlcli.workflows.export_images import export_images

FILES = {"card.json", "labels.txt", "usage.py"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def keras_bundle(home: Path, finished: tuple, tlcli: Callable) -> Path:
    result = tlcli("export", finished[0], "--to", "keras", "--raw-input", "--out", home / "keras")
    assert result.code == 0, result.stderr
    return home / "keras"


@pytest.fixture(scope="module")
def saved_model(home: Path, finished: tuple, tlcli: Callable) -> SimpleNamespace:
    result = tlcli("export", finished[0], "--to", "saved_model", "--out", home / "saved", "--json")
    assert result.code == 0, result.stderr
    return SimpleNamespace(folder=home / "saved", document=result.document)


def labels(result: Any) -> list[str]:
    return [row["label"] for row in result.document]


def probabilities(result: Any) -> np.ndarray:
    return np.array([[entry["probability"] for entry in row["top"]] for row in result.document])


def test_a_bundle_holds_classifier_labels_card_and_usage(saved_model: SimpleNamespace, finished: tuple) -> None:
    card, found = saved_model.document, saved_model.document["comparison"]
    assert {path.name for path in saved_model.folder.iterdir()} == FILES | {"saved_model"}
    assert (saved_model.folder / "labels.txt").read_text() == "blue\ngreen\nred\n"
    assert json.loads((saved_model.folder / "card.json").read_text()) == {
        key: value for key, value in card.items() if key != "bundle"
    }
    assert card["accepted"]
    assert len(card["sha256"]) == 64
    run = finished[1].document
    # That of the weights: random ones have none.
    assert card["licence"] == run["model"]["licence"]
    assert card["training"] == {
        "images": run["data"]["counts"],
        "recipe": "tiny",
        "seed": run["seed"],
        "started": run["started"],
    }
    assert card["scores"]["test"]["accuracy"] == run["scores"]["test"]["accuracy"]
    assert card["bytes"] > 10_000
    counts = finished[1].document["data"]["counts"]
    assert found["images"] == counts["val"]
    assert found["threads"] >= 1
    assert found["milliseconds"] > 0
    assert found["agreement"] == 1.0
    assert found["largest_difference"] < 1e-3
    assert found["accuracy"] == found["classifier_accuracy"]


@pytest.mark.parametrize("form", ["keras", "saved_model"])
def test_a_bundle_predicts_as_the_run(
    form: str, keras_bundle: Path, saved_model: SimpleNamespace, finished: tuple, photos: Path, tlcli: Callable
) -> None:
    folder = keras_bundle if form == "keras" else saved_model.folder
    expected = tlcli("predict", finished[0], photos / "red", "--top", 3, "--json")
    for model in (folder, next(path for path in folder.iterdir() if path.name not in FILES)):
        found = tlcli("predict", model, photos / "red", "--top", 3, "--json", "--trust")
        assert found.code == 0, found.stderr
        assert labels(found) == labels(expected)
        # The SavedModel takes whole numbers, and so gets rounded pixels.
        np.testing.assert_allclose(probabilities(found), probabilities(expected), atol=0.02)


def test_a_bundle_is_scored_as_the_run(
    saved_model: SimpleNamespace, finished: tuple, photos: Path, tlcli: Callable
) -> None:
    own, exported = (
        tlcli("evaluate", model, photos, "--json", "--trust").document for model in (finished[0], saved_model.folder)
    )
    assert exported["confusion"] == own["confusion"]
    missing = tlcli("evaluate", saved_model.folder)
    assert missing.code == 2
    assert "has no test images" in missing.stderr


def test_usage_programs_are_short() -> None:
    for to in TARGETS:
        short, long = (
            usage(ExportRequest(Path("run"), to, raw_input=is_raw), "uint8", (32, 32), "crop").splitlines()
            for is_raw in (False, True)
        )
        assert len(short) <= 12
        assert len(long) == len(short) + 3, "cropping and resizing"


def test_mistakes_are_answered_before_keras_loads(
    finished: tuple, keras_bundle: Path, photos: Path, tiny: Path, tmp_path: Path
) -> None:
    run = str(finished[0])
    mistakes = {
        "already exists": ["export", run, "--to", "keras", "--out", str(keras_bundle)],
        "--data": ["export", f"{run}/model.keras", "--to", "keras", "--out", str(tmp_path / "x")],
        "Name the run that it came from": ["export", str(keras_bundle), "--to", "keras", "--out", str(tmp_path / "x")],
        "pip install 'tlcli[mlflow]'": ["finetune", str(photos), "-r", str(tiny), "--log", "mlflow"],
        "there is no such run, bundle or file": ["predict", str(tmp_path / "nowhere"), "x.jpg"],
    }
    program = """
import json, sys
from click.testing import CliRunner
from tlcli.cli.main import cli
sys.modules["mlflow"] = None  # as if it were not installed
results = [CliRunner().invoke(cli, words) for words in json.loads(sys.argv[1])]
print(json.dumps([[result.exit_code, result.stderr, "keras" in sys.modules] for result in results]))
"""
    words = [sys.executable, "-c", program, json.dumps(list(mistakes.values()))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    for remedy, (code, stderr, has_keras) in zip(mistakes, json.loads(done.stdout), strict=True):
        assert (code, has_keras) == (2, False), stderr
        assert remedy in stderr


def test_training_images_of_the_run_in_data_are_told(
    finished: tuple, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    words = ("export", finished[0], "--to", "keras", "--data", photos, "--out", tmp_path / "x", "--json")
    result = tlcli(*words)
    counts = finished[1].document["data"]["counts"]
    assert result.document["comparison"]["trained"] == counts["train"]
    assert f"trained on {counts['train']} of these 30 images: the accuracies are too high" in result.stderr


def test_ranges_of_8_bits_come_from_other_images_than_the_comparison(finished: tuple, photos: Path) -> None:
    run, classes = finished[0], ("blue", "green", "red")
    own = export_images(ExportRequest(run, "onnx", "int8"), classes)
    assert len(own.calibration) == finished[1].document["data"]["counts"]["train"]
    assert not set(own.calibration) & set(own.paths)
    alone = export_images(ExportRequest(run / "model.keras", "onnx", "int8", data=photos), classes)
    assert (len(alone.calibration), len(alone.paths)) == (15, 15)
    assert not set(alone.calibration) & set(alone.paths)
    assert [classes[label] for label in alone.labels] == [path.parent.name for path in alone.paths]
    assert {path.parent.name for path in alone.calibration} == set(classes)
    given = export_images(ExportRequest(run, "onnx", "int8", data=photos), classes)
    assert (given.calibration, len(given.paths)) == (own.calibration, 30)


def test_a_failed_rename_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("kept")
    with pytest.raises(OSError, match="missing"):
        bundle.take_place(tmp_path / "missing", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text() == "kept"


@pytest.mark.extras  # Loading TensorFlow twice more takes long.
@pytest.mark.parametrize("form", ["keras", "saved_model"])
def test_the_usage_program_runs(
    form: str, keras_bundle: Path, saved_model: SimpleNamespace, photos: Path, tlcli: Callable
) -> None:
    folder = keras_bundle if form == "keras" else saved_model.folder
    image = photos / "green" / "03.bmp"
    program = folder / "usage.py"
    assert len(program.read_text().splitlines()) <= 19
    found = subprocess.run([sys.executable, str(program), str(image)], capture_output=True, text=True, check=True)
    (row,) = tlcli("predict", folder, image, "--json", "--trust").document
    label, probability = found.stdout.split()
    alone = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    # Before it stands what TensorFlow says at its start.
    assert (alone.returncode, alone.stderr.splitlines()[-1]) == (1, "usage: python usage.py IMAGE")
    assert label == row["label"]
    assert float(probability) == pytest.approx(row["probability"], abs=0.05)


def test_a_foreign_saved_model_needs_trust(saved_model: SimpleNamespace, photos: Path, tlcli: Callable) -> None:
    image = photos / "red" / "00.bmp"
    refused = tlcli("predict", saved_model.folder, image)
    assert refused.code == 2
    assert "not trusted" in refused.stderr
    assert "--trust" in refused.stderr
    assert tlcli("predict", saved_model.folder, image, "--trust").code == 0
    assert tlcli("predict", saved_model.folder, image).code == 0
    foreign = shutil.copytree(saved_model.folder / "saved_model", saved_model.folder.parent / "foreign")
    shutil.rmtree(foreign / "assets.extra")
    with pytest.raises(ModelError, match="holds no class names"):
        open_model(foreign, trust=True)


def test_a_changed_bundle_is_refused(keras_bundle: Path, tmp_path: Path, tlcli: Callable, photos: Path) -> None:
    copy = shutil.copytree(keras_bundle, tmp_path / "copy")
    with (copy / "model.keras").open("ab") as stream:
        stream.write(b"x")
    result = tlcli("predict", copy, photos / "red")
    assert result.code == 2
    assert "has changed since it was exported" in result.stderr
    (copy / "card.json").write_text('{"file": 1}')
    result = tlcli("predict", copy, photos / "red")
    assert result.code == 2
    assert "card.json: is damaged" in result.stderr


def test_a_card_cannot_point_outside_its_bundle(keras_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(keras_bundle, tmp_path / "inner" / "copy")
    shutil.move(copy / "model.keras", tmp_path / "inner" / "model.keras")
    card = json.loads((copy / "card.json").read_text()) | {"file": "../model.keras"}
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="is missing"):
        open_model(copy)


def test_other_answers_are_refused_and_set_aside(
    finished: tuple, photos: Path, tmp_path: Path, tlcli: Callable, home: Path
) -> None:
    """A classifier whose last weights were lost, as a conversion might lose them, beside the true one."""
    file = finished[0] / "model.keras"
    true, broken = classifiers.load(file), classifiers.load(file)
    for weight in broken.model.layers[-1].weights:
        weight.assign(weight * 0)
    paths = sorted(photos.rglob("*.bmp"))
    truth = [("blue", "green", "red").index(path.parent.name) for path in paths]
    found = compare(keras_model.of(true), keras_model.of(broken), paths, truth, is_raw=True, progress=lambda *_: None)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.largest_difference > 0.2
    request = ExportRequest(finished[0], "keras", out=tmp_path / "bundle")
    reasons = objections(found, request)
    assert len(reasons) == 2
    assert "accuracy falls by" in reasons[0]
    assert "99% required" in reasons[1]
    assert objections(found, ExportRequest(finished[0], "litert", "int8", max_drop=1.0)) == []
    assert objections(found, ExportRequest(finished[0], "keras", max_drop=1.0, sparse=0.1)) == []
    assert objections(found, ExportRequest(finished[0], "keras", sparse=0.1)) == objections(found, request)[:1]
    with bundle.unfinished(request.folder) as folder:
        classifiers.save(broken, folder / "model.keras")
        bundle.complete(folder, request, read_metadata(file), found, reasons)
    assert {path.name for path in request.folder.iterdir()} == FILES | {"model.keras.refused"}
    refused = tlcli("predict", request.folder, photos / "red")
    assert refused.code == 2
    assert "the export was refused" in refused.stderr
    # A better export takes the place of a refused one, but of nothing else.
    assert tlcli("export", finished[0], "--to", "keras", "--out", request.folder).code == 0
    again = tlcli("export", finished[0], "--to", "keras", "--out", request.folder)
    assert again.code == 2
    assert "already exists" in again.stderr


def test_wrong_requests_are_explained(
    finished: tuple, tlcli: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = finished[0]
    result = tlcli("export", run, "--to", "keras", "--quantize", "int8")
    assert result.code == 2
    assert "keras has no int8" in result.stderr
    assert "litert, onnx" in result.stderr
    monkeypatch.setitem(sys.modules, "openvino", None)
    result = tlcli("export", run, "--to", "openvino")
    assert result.code == 2
    assert "pip install 'tlcli[openvino]'" in result.stderr
    result = tlcli("export", run / "model.keras", "--to", "keras", "--out", tmp_path / "x")
    assert result.code == 2
    assert "--data" in result.stderr
    assert not (tmp_path / "x").exists()
    result = tlcli("export", tmp_path / "nowhere", "--to", "keras")
    assert result.code == 2
    assert "there is no such run" in result.stderr


def test_a_file_alone_is_compared_on_given_images(
    finished: tuple, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    result = tlcli(
        *("export", finished[0] / "model.keras", "--to", "keras", "--data", photos, "--out", tmp_path / "x"), "--json"
    )
    assert result.code == 0
    assert result.document["comparison"]["images"] == 30
    assert (tmp_path / "x" / "model.keras").stat().st_size > 1000
