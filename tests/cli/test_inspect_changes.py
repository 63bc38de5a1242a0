"""`tlcli inspect --diff`: the weights that a fine-tuning run changed."""

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """\
recipe: 1
name: short
data: {size: [32, 32], val: 0.2, test: 0.2}
augment: {preset: none}
phases:
  - {name: unfreeze, train: "block12..block13", epochs: 1, lr: 1.0e-3, batch_norm: affine}
"""
TRAINED = {"block12", "block13"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tlcli: Callable, photos: Path) -> Path:
    """A run that trained two groups of the bundled network and kept the weights. Do not change it."""
    folder = tmp_path_factory.mktemp("diff")
    (folder / "short.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(folder / "cache"))
        words = (
            "finetune",
            photos,
            "-m",
            "mobilenet_synthetic",
            "-r",
            folder / "short.yaml",
            "--out",
            folder / "run",
            "--json",
        )
        result = tlcli(*words)
    assert result.code == 0, result.stderr
    assert [phase["kept"] for phase in result.document["phases"]] == [True]
    return folder / "run"


def test_only_frozen_groups_are_bit_identical(run: Path, tlcli: Callable) -> None:
    found = tlcli("inspect", "--diff", "mobilenet_synthetic", run, "--json").document
    assert (found["a"], found["b"]["kind"]) == (
        {"name": "mobilenet_synthetic", "kind": "card", "model": "mobilenet_synthetic"},
        "run",
    )
    changed = {group["name"] for group in found["groups"] if not group["identical"]}
    assert changed == TRAINED
    for group in found["groups"]:
        assert (group["relative_change"] > 0) == (group["name"] in TRAINED)
        assert group["statistics_identical"], "affine keeps the statistics"
        assert (group["most_changed_layer"] is not None) == (group["name"] in TRAINED)
    assert 0 < found["relative_change"] < 0.5
    assert sum(group["parameters"] for group in found["groups"]) == found["parameters"] == 639_996
    assert found["only_a"] == []
    assert {layer["group"] for layer in found["only_b"]} == {"head"}


def test_changes_by_layer(run: Path, tlcli: Callable) -> None:
    found = tlcli("inspect", "--diff", "mobilenet_synthetic", run, "--by", "layer", "--json").document
    assert {layer["group"] for layer in found["layers"] if not layer["identical"]} == TRAINED
    norms = [layer for layer in found["layers"] if layer["name"] == "conv_dw_13_bn"]
    assert [(layer["weights"], layer["changed_weights"]) for layer in norms] == [(4, 2)]
    text = tlcli("inspect", "--diff", "mobilenet_synthetic", run, "--by", "layer", "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == [layer["name"] for layer in found["layers"]]


def test_the_table_ends_with_identical_and_changed_groups(run: Path, tlcli: Callable) -> None:
    result = tlcli("inspect", "--diff", "mobilenet_synthetic", run)
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"from mobilenet_synthetic to {run}"
    assert lines[-2] == f"bit-identical: stem, {', '.join(f'block{n}' for n in range(1, 12))}"
    assert lines[-1] == "changed: block12, block13"
    assert f"only in {run}: head_probabilities (1.35 k)" in lines


def test_a_copied_classifier_gives_the_changes_of_its_run(finished: tuple, tlcli: Callable, tmp_path: Path) -> None:
    """The width of the run is not that of the card; the weights file has the width of the run."""
    import keras

    narrow = keras.applications.MobileNet(alpha=0.25, include_top=False, weights=None, input_shape=(32, 32, 3))
    narrow.save_weights(tmp_path / "narrow.weights.h5")
    copy = shutil.copy(finished[0] / "model.keras", tmp_path / "copy.keras")
    words = ("--set", f"model.weights={tmp_path / 'narrow.weights.h5'}", "--json")
    of_run, of_copy = (tlcli("inspect", "--diff", "mobilenet", path, *words) for path in (finished[0], copy))
    assert of_run.code == of_copy.code == 0, of_copy.stderr
    assert of_run.document["groups"] == of_copy.document["groups"]
    assert not of_run.document["identical"]


def test_a_run_is_identical_to_itself_and_its_file(run: Path, tlcli: Callable) -> None:
    for path in (run, run / "model.keras"):
        found = tlcli("inspect", "--diff", run, path, "--json").document
        assert found["identical"]
        assert (found["only_a"], found["only_b"]) == ([], [])
        assert "head" in {group["name"] for group in found["groups"]}
    assert "All 137 shared weights are bit-identical." in tlcli("inspect", "--diff", run, run).stdout


def test_networks_of_different_widths_are_an_error(run: Path, finished: tuple, tlcli: Callable) -> None:
    """MobileNet with alpha 0.25 and 0.4375 has the same layer names and different shapes."""
    result = tlcli("inspect", "--diff", run, finished[0], "--json")
    assert result.code == 2
    assert "differ in shape: conv1/kernel 3×3×3×14 and 3×3×3×8" in result.document["error"]["message"]


def test_unavailable_weights_are_an_error(tlcli: Callable) -> None:
    result = tlcli("inspect", "--diff", "resnet50", "resnet50", "--json")
    assert result.code == 2
    assert result.document["error"]["where"] == "--diff resnet50"
    assert "--set model.weights=FILE" in result.document["error"]["hint"]


def test_an_unfinished_run_is_an_error(run: Path, tlcli: Callable, tmp_path: Path) -> None:
    text = (run / "run.json").read_text(encoding="utf-8").replace('"complete"', '"interrupted"')
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    result = tlcli("inspect", "--diff", "mobilenet_synthetic", tmp_path)
    assert (result.code, "the run is interrupted" in result.stderr) == (2, True)
