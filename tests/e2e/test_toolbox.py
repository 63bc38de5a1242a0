"""One run with many keys: its record, page, classifier and sparse export; keys that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RECIPE = """\
recipe: 1
name: toolbox
data: {size: [32, 32], val: 0.2, test: 0.2}
model: {name: mobilenet, weights: random, arguments: {alpha: 0.25}, batch_norm_epsilon: 0.05}
head: {l1: 0.01, spatial_dropout: 0.1, hidden: [{units: 4, activation: rrelu}, {units: 3, activation: prelu}]}
optimizer: {name: ftrl, l1: 0.001, lr: find, ema: 0.9, accumulate: 2}
phases: [{name: head, train: head, epochs: 2, soup: 2, patience: 9 steps}]
performance: {batch: 8}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "toolbox.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache folder for the run and the plans, which need the same layer groups."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def run(
    recipe: Path, photos: Path, cache: str, tlcli: Callable, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("runs") / "toolbox"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", cache)
        result = tlcli("finetune", photos, "--recipe", recipe, "--out", folder, "--json")
    assert result.code == 0, result.stderr
    return folder, result


def kernels(file: Path, *, prefix: str = "") -> np.ndarray:
    """All weights of the kernels of a classifier, flat."""
    from tlcli.model import classifier

    model = classifier.load(file).model
    layers = [layer for layer in model.layers if layer.name.startswith(prefix)]
    found = [weight.numpy().ravel() for layer in layers for weight in layer.weights if "kernel" in weight.name]
    return np.concatenate(found)


def test_near_zero_weights_and_the_found_rate_are_recorded_and_on_the_page(run: tuple) -> None:
    folder, result = run
    sparsity = result.document["model"]["sparsity"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    for name, prefix in (("head", "head_"), ("all", "")):
        share = (np.abs(kernels(folder / "model.keras", prefix=prefix)) < sparsity["threshold"]).mean()
        assert sparsity[name] == pytest.approx(share, abs=1e-4)
        assert f"{sparsity[name]:.1%}" in page
    assert "near zero" in page
    found = result.document["lr_ranges"]["head"]
    assert result.document["recipe"]["optimizer"]["lr"] == "find"
    assert f"{found['lr']:g}, by a range test of {len(found['rates'])} batches" in page
    assert f"learning rate {found['lr']:g}" in result.stderr


def test_a_run_without_penalty_records_no_sparsity(finished: tuple) -> None:
    assert "sparsity" not in finished[1].document["model"]
    assert finished[1].document["lr_ranges"] == {}
    assert "near zero" not in (finished[0] / "report.html").read_text(encoding="utf-8")


def test_the_classifier_has_the_epsilon_of_the_recipe(run: tuple) -> None:
    import keras

    from tlcli.model import classifier

    layers = classifier.load(run[0] / "model.keras").model._flatten_layers()
    assert {layer.epsilon for layer in layers if isinstance(layer, keras.layers.BatchNormalization)} == {0.05}


def test_a_sparse_export_has_zeros_and_is_scored_again(run: tuple, tlcli: Callable, tmp_path: Path) -> None:
    whole = kernels(run[0] / "model.keras")
    result = tlcli(
        "export", run[0], "--to", "keras", "--sparse", 0.05, "--max-drop", 1, "--out", tmp_path / "out", "--json"
    )
    assert result.code == 0, result.stderr
    expected = np.where(np.abs(whole) < 0.05, 0, whole)
    np.testing.assert_array_equal(kernels(tmp_path / "out" / "model.keras"), expected)
    card = json.loads((tmp_path / "out" / "card.json").read_text(encoding="utf-8"))
    assert card["sparse"] == {"threshold": 0.05, "zeros": pytest.approx((expected == 0).mean())}
    assert card["comparison"]["largest_difference"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.rho=0.5", "ftrl has l1, l2, l2_shrinkage, learning_rate_power, initial_accumulator_value"),
        ("phases=[{name: a, train: all, batch_norm_momentum: 0.5}]", "batch_norm_momentum: needs batch_norm: train"),
        ("optimizer.lr=fast", "optimizer.lr"),
        ("data.folds=3", "soup needs one set of validation images"),
        ("phases=[{name: a, train: all, patience: 5 epochs}]", "patience"),
    ],
)
def test_keys_that_do_not_fit_are_explained(change: str, message: str, recipe: Path, tlcli: Callable) -> None:
    result = tlcli("recipe", "validate", recipe, "--set", change)
    assert result.code == 2
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_keys_that_do_not_fit_the_images_are_explained(
    photos: Path, recipe: Path, cache: str, tlcli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLCLI_CACHE", cache)
    result = tlcli("plan", photos, "--recipe", recipe, "--set", "optimizer.accumulate=9", "--set", "data.val=0")
    assert result.code == 2
    assert "optimizer.accumulate: an epoch has fewer batches than one step (got 9)" in result.stderr
    assert "phases[0].soup: the best epochs are chosen by validation images, and there are none" in result.stderr
    assert " find " in tlcli("plan", photos, "--recipe", recipe).stdout
