"""`tlcli inspect --diff`: what a real fine-tuning run changed, and what it did not."""

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
  - {name: thaw, train: "block12..block13", epochs: 1, lr: 1.0e-3, batch_norm: affine}
"""
TRAINED = {"block12", "block13"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tlcli: Callable, photos: Path) -> Path:
    """A run that trained two groups of the bundled network and kept what came out. Not to be changed."""
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
        said = tlcli(*words)
    assert said.code == 0, said.stderr
    assert [phase["kept"] for phase in said.document["phases"]] == [True]
    return folder / "run"


def test_frozen_groups_are_bit_identical_and_trained_ones_are_not(run: Path, tlcli: Callable) -> None:
    found = tlcli("inspect", "--diff", "mobilenet_synthetic", run, "--json").document
    assert (found["a"], found["b"]["kind"]) == (
        {"name": "mobilenet_synthetic", "kind": "card", "model": "mobilenet_synthetic"},
        "run",
    )
    changed = {group["name"] for group in found["groups"] if not group["identical"]}
    assert changed == TRAINED
    for group in found["groups"]:
        assert (group["relative_change"] > 0) == (group["name"] in TRAINED)
        assert group["statistics_identical"], "with affine, statistics stay"
        assert (group["most_changed_layer"] is not None) == (group["name"] in TRAINED)
    assert 0 < found["relative_change"] < 0.5
    assert sum(group["parameters"] for group in found["groups"]) == found["parameters"] == 639_996
    assert found["only_a"] == []
    assert {each["group"] for each in found["only_b"]} == {"head"}


def test_layer_by_layer(run: Path, tlcli: Callable) -> None:
    found = tlcli("inspect", "--diff", "mobilenet_synthetic", run, "--by", "layer", "--json").document
    assert {layer["group"] for layer in found["layers"] if not layer["identical"]} == TRAINED
    norms = [layer for layer in found["layers"] if layer["name"] == "conv_dw_13_bn"]
    assert [(layer["weights"], layer["changed_weights"]) for layer in norms] == [(4, 2)]
    text = tlcli("inspect", "--diff", "mobilenet_synthetic", run, "--by", "layer", "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == [layer["name"] for layer in found["layers"]]


def test_the_table_names_what_stayed(run: Path, tlcli: Callable) -> None:
    said = tlcli("inspect", "--diff", "mobilenet_synthetic", run)
    assert said.code == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0] == f"from mobilenet_synthetic to {run}"
    assert lines[-2] == f"bit-identical: stem, {', '.join(f'block{n}' for n in range(1, 12))}"
    assert lines[-1] == "changed: block12, block13"
    assert f"only in {run}: head_probabilities (1.35 k)" in lines


def test_a_copy_of_the_classifier_is_compared_as_its_run_is(finished: tuple, tlcli: Callable, tmp_path: Path) -> None:
    """With the network of the run's width, which is not the card's own; a file has weights of that width."""
    import keras

    narrow = keras.applications.MobileNet(alpha=0.25, include_top=False, weights=None, input_shape=(32, 32, 3))
    narrow.save_weights(tmp_path / "narrow.weights.h5")
    copy = shutil.copy(finished[0] / "model.keras", tmp_path / "copy.keras")
    words = ("--set", f"model.weights={tmp_path / 'narrow.weights.h5'}", "--json")
    found, same = (tlcli("inspect", "--diff", "mobilenet", other, *words) for other in (finished[0], copy))
    assert found.code == same.code == 0, same.stderr
    assert found.document["groups"] == same.document["groups"]
    assert not found.document["identical"]


def test_a_run_its_file_and_itself_are_the_same(run: Path, tlcli: Callable) -> None:
    for other in (run, run / "model.keras"):
        found = tlcli("inspect", "--diff", run, other, "--json").document
        assert found["identical"]
        assert (found["only_a"], found["only_b"]) == ([], [])
        assert "head" in {group["name"] for group in found["groups"]}
    assert "All 137 weights that both have are bit-identical." in tlcli("inspect", "--diff", run, run).stdout


def test_another_width_is_told_by_its_shapes(run: Path, finished: tuple, tlcli: Callable) -> None:
    """MobileNet of alpha 0.25 and 0.4375: the same names, other shapes."""
    said = tlcli("inspect", "--diff", run, finished[0], "--json")
    assert said.code == 2
    assert "differ in shape: conv1/kernel 3×3×3×14 and 3×3×3×8" in said.document["error"]["message"]


def test_weights_that_are_not_to_be_had_are_told(tlcli: Callable) -> None:
    said = tlcli("inspect", "--diff", "resnet50", "resnet50", "--json")
    assert said.code == 2
    assert said.document["error"]["where"] == "--diff resnet50"
    assert "--set model.weights=FILE" in said.document["error"]["hint"]


def test_an_unfinished_run_has_nothing_to_compare(run: Path, tlcli: Callable, tmp_path: Path) -> None:
    text = (run / "run.json").read_text(encoding="utf-8").replace('"complete"', '"interrupted"')
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    said = tlcli("inspect", "--diff", "mobilenet_synthetic", tmp_path)
    assert (said.code, "the run is interrupted" in said.stderr) == (2, True)
