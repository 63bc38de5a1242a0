"""SavedModels as networks: the same function, trained where the module allows, saved inside the classifier."""

import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import saved_models
import tensorflow as tf

from tlcli.data import pixels
from tlcli.errors import ModelError, WeightsError
from tlcli.model import backbone, graph
from tlcli.train import events
from tlcli.zoo import catalogue, trust
from tlcli.zoo.sources import saved_model

SIZE = (saved_models.SIDE, saved_models.SIDE)
RECIPE = """\
recipe: 1
name: short
data: {size: [32, 32], val: 0.2, test: 0.2}
head: {dropout: 0.3}
phases:
  - {name: head, train: head, epochs: 2}
  - {name: unfreeze, policy: gradual, step: 1, epochs: 4, lr: 3.0e-3, batch_norm: train, until: {confidence: 0.5}}
performance: {batch: 8, reuse_results: false}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules `new`, `maps`, `export` and `old`. Tests must not change them."""
    path = tmp_path_factory.mktemp("modules")
    saved_models.module(path / "new")
    saved_models.module(path / "maps", pools=False)
    saved_models.keras_export(path / "export")
    saved_models.old_module(path / "old")
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "short.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def original(folder: Path, images: np.ndarray) -> np.ndarray:
    """The features as TensorFlow itself computes them."""
    loaded = tf.saved_model.load(str(folder), tags=[] if folder.name == "old" else None)
    if folder.name == "old":
        return loaded.signatures["default"](x=tf.constant(images))["default"].numpy()
    return (loaded.serve(images) if folder.name == "export" else loaded(images, training=False)).numpy()


def build(folder: Path, *, size: tuple[int, int] = SIZE, weights: str | None = None) -> backbone.Backbone:
    with trust.allowing():
        card = catalogue.find(f"tfhub:{folder}")
        return backbone.build(card, size=size, arguments={}, weights=weights)


@pytest.mark.parametrize(
    ("name", "parameters", "trainable", "preprocessing", "title"),
    [
        ("new", 174, 168, "unit", "SavedModel for anyxany pixels; it states no input size, so 224 is the default"),
        ("maps", 174, 168, "unit", "SavedModel for anyxany pixels; it states no input size, so 224 is the default"),
        ("export", 192, 180, None, "SavedModel for 32x32 pixels"),
        ("old", 162, 0, "unit", "TensorFlow 1 module, not trainable for 32x32 pixels"),
    ],
)
def test_a_module_is_one_group_that_computes_what_tensorflow_computes(
    folder: Path, name: str, parameters: int, trainable: int, preprocessing: str | None, title: str
) -> None:
    images = np.random.default_rng(0).random((3, *SIZE, 3), "float32")
    built = build(folder / name)
    expected = original(folder / name, images)
    np.testing.assert_allclose(built.network.predict(images, verbose=0), expected, rtol=0, atol=1e-6)
    assert built.network.output_shape == (None, *expected.shape[1:])
    assert (built.card.preprocessing, built.card.title) == (preprocessing, title)

    measured = graph.groups_of(built.network, built.card, SIZE)
    assert (measured.names, measured.parameters, measured.trainable_parameters) == ((name,), parameters, trainable)
    assert (
        sum(group.flops for group in measured) == 16 * 16 * 27 * saved_models.CHANNELS - (name == "export") * 31 * 162
    )
    unweighted = graph.groups_of(graph.build_unweighted(built.card, {}, SIZE), built.card, SIZE)
    assert unweighted == measured


def test_every_hash_of_weights_is_that_of_the_values(folder: Path) -> None:
    first, second = build(folder / "new"), build(folder / "new")
    assert first.weights_sha256 == second.weights_sha256
    first.network.weights[0].assign(first.network.weights[0] + 1)
    assert backbone.weights_sha256(first.network) != second.weights_sha256 == backbone.weights_sha256(second.network)


def test_training_mode_moves_statistics_only_in_a_trainable_layer(folder: Path) -> None:
    layer = build(folder / "new").network.layers[-1]
    mean, images = layer.non_trainable_weights[0], np.ones((2, *SIZE, 3), "float32")
    before = mean.numpy().copy()
    layer(images, training=False)
    layer.trainable = False
    layer(images, training=True)
    np.testing.assert_array_equal(mean.numpy(), before)
    layer.trainable = True
    layer(images, training=True)
    assert np.abs(mean.numpy() - before).max() > 1e-3


def weights_of(run: Path) -> dict[str, np.ndarray]:
    """The weights of the SavedModel in a classifier, loaded by Keras alone."""
    model = keras.saving.load_model(run / "model.keras", safe_mode=False)
    layer = next(layer for layer in model.layers if type(layer).__name__ == "SavedModelLayer")
    return {weight.name: weight.numpy() for weight in layer.weights}


def test_fine_tuning_changes_the_module_and_the_file_needs_nothing_else(
    folder: Path, recipe: Path, photos: Path, tlcli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(folder / "new", tmp_path / "own")
    run = tmp_path / "run"
    words = (photos, "--model", f"tfhub:{own}", "--recipe", recipe)
    assert "is not trusted yet" in tlcli("plan", *words).stderr
    result = tlcli("finetune", *words, "--out", run, "--json", "--trust")
    assert result.code == 0, result.stderr
    planned = tlcli("plan", *words, "--json")
    assert [phase["trainable_parameters"] for phase in planned.document["phases"]] == [21, 189]
    assert result.document["phases"][-1]["kept"], result.document["phases"]
    assert result.document["model"]["weights"] == f"tfhub:{own}"

    before = {weight.name: weight.numpy() for weight in build(folder / "new").network.weights}
    after = weights_of(run)
    assert list(after) == list(before)
    assert all(not np.array_equal(after[name], before[name]) for name in before), "statistics follow the batches, too"

    inspected = tlcli("inspect", run, "--json")
    assert [group["name"] for group in inspected.document["groups"]] == ["own"]
    shutil.rmtree(own)
    predicted = tlcli("predict", run, photos / "red" / "00.bmp", "--top", 3, "--json").document[0]["top"]
    image = pixels.read_exactly(photos / "red" / "00.bmp", SIZE, "crop")[None]
    by_keras = keras.saving.load_model(run / "model.keras", safe_mode=False).predict(image, verbose=0)[0]
    np.testing.assert_allclose(sorted(entry["probability"] for entry in predicted), sorted(by_keras), atol=1e-5)

    again = tlcli("probe", photos, "--model", run, "--json")
    assert again.code == 0, again.stderr
    assert again.document["models"][0]["depths"][0]["channels"] == saved_models.CHANNELS

    monkeypatch.setenv("TLCLI_CONFIG", str(tmp_path / "of another user"))
    refused = tlcli("predict", run, photos / "red" / "00.bmp")
    assert refused.code == 2
    assert "is not trusted yet" in refused.stderr
    with pytest.raises(ModelError, match="is not trusted yet"):
        keras.saving.load_model(run / "model.keras")
    assert weights_of(run).keys() == before.keys(), "Keras's safe_mode=False does not ask"
    assert tlcli("evaluate", run, "--trust").code == 0
    assert tlcli("evaluate", run).code == 0


def test_a_module_that_allows_no_training_stays_as_it_is(
    folder: Path, recipe: Path, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = tlcli(
        "finetune", photos, "--model", f"tfhub:{folder / 'old'}", "--recipe", recipe, "--out", run, "--trust"
    )
    assert result.code == 0, result.stderr
    assert "old allows no training of its own weights: only the head is trained" in result.stderr
    before = build(folder / "old").network.weights
    for weight, value in zip(before, weights_of(run).values(), strict=True):
        np.testing.assert_array_equal(value, weight.numpy())


def test_an_interrupted_run_resumes_to_the_same_weights(
    folder: Path, recipe: Path, photos: Path, tmp_path: Path
) -> None:
    from tlcli.workflows.finetune import finetune
    from tlcli.workflows.request import Request, check_request

    options = {"data.path": str(photos), "model.name": f"tfhub:{folder / 'new'}"}

    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.BatchDone) and event.step.name != "head" and event.epoch == 3:
            raise KeyboardInterrupt

    def train(request: Request, observe: Callable[[events.Event], Any]) -> Path:
        return finetune(request, check_request(request), observe)[0]

    with trust.allowing():
        whole = train(Request(str(recipe), options=options, out=tmp_path / "whole"), lambda event: None)
        with pytest.raises(KeyboardInterrupt):
            train(Request(str(recipe), options=options, out=tmp_path / "halted"), interrupt)
        halted = train(Request(resume=tmp_path / "halted"), lambda event: None)
    for first, second in zip(weights_of(whole).values(), weights_of(halted).values(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_module_that_is_not_trusted_never_runs(photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    target = tmp_path / "written"
    module = saved_models.writing_module(tmp_path / "module", target)
    name = f"tfhub:{module}"
    for words in (["inspect", name], ["plan", photos, "-m", name], ["probe", photos, "-m", name]):
        refused = tlcli(*words)
        assert refused.code == 2
        assert "a SavedModel is a program" in refused.stderr
        assert "WriteFile" in refused.stderr
        assert trust.folder_sha256(module) in refused.stderr
        assert name in refused.stderr
    refused = tlcli("finetune", photos, "-m", name, "--out", tmp_path / "run")
    assert (refused.code, (tmp_path / "run").exists()) == (2, False)
    assert not target.exists()

    assert tlcli("probe", photos, "-m", name, "--trust", "--set", "data.val=0.3").code == 0
    assert target.exists(), "the module does write when it runs"
    assert tlcli("probe", photos, "-m", name, "--set", "data.val=0.3").code == 0, "the hash is remembered"
    (module / "fingerprint.pb").write_bytes(b"other")
    changed = tlcli("inspect", name)
    assert changed.code == 2
    assert "has changed since it was trusted" in changed.stderr


def test_a_file_of_somebody_else_never_runs(folder: Path, photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    target, foreign, lying = tmp_path / "written", tmp_path / "foreign.keras", tmp_path / "lying.keras"
    build(folder / "new")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CONFIG", str(tmp_path / "another"))
        build(saved_models.writing_module(tmp_path / "module", target)).network.save(foreign)
    target.unlink()
    with zipfile.ZipFile(foreign) as source, zipfile.ZipFile(lying, "w") as copy:
        for name in source.namelist():
            hashes = (trust.folder_sha256(path) for path in (tmp_path / "module", folder / "new"))
            content = source.read(name)
            copy.writestr(name, content.replace(*(value.encode() for value in hashes)))
    for path in (foreign, lying):
        result = tlcli("probe", photos, "-m", path, "--set", "model.preprocessing=none")
        assert result.code == 2
        assert f"{path}: the SavedModel is not trusted yet" in result.stderr
        # Keras alone warns about a layer that refuses, and raises its own error. While the trusted module is in use,
        # the layer of the lying file is given that one, whose variables are others.
        refused = pytest.raises((ModelError, ValueError), match=r"not trusted yet|other variables than its layer")
        with warnings.catch_warnings(action="ignore"), refused:
            keras.saving.load_model(path)
    assert not target.exists()


def test_what_a_module_does_not_take_is_an_error(folder: Path, tlcli: Callable, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes images of 32x32 pixels only"):
        build(folder / "export", size=(48, 48))
    with trust.allowing():
        card = catalogue.find(f"tfhub:{folder / 'new'}")
        with pytest.raises(ModelError, match="takes no arguments"):
            saved_model.network(card, size=SIZE, arguments={"alpha": 0.5}, weights=True)
    with pytest.raises(ModelError, match="takes no RGB images"):
        build(saved_models.text_module(tmp_path / "text"))
    result = tlcli("plan", photos, "-m", f"tfhub:{folder / 'new'}", "--weights", "random", "--trust")
    assert (result.code, WeightsError.exit_code) == (2, 2)
    assert "has its weights inside" in result.stderr


def test_files_that_change_after_loading_are_not_saved(folder: Path, tmp_path: Path) -> None:
    module = Path(shutil.copytree(folder / "new", tmp_path / "module"))
    network = build(module).network
    (module / "fingerprint.pb").write_bytes(b"changed")
    with pytest.raises(ModelError, match="has changed since it was loaded"):
        network.save(tmp_path / "saved.keras")


def test_damaged_variables_are_an_error(folder: Path, tmp_path: Path) -> None:
    module = Path(shutil.copytree(folder / "new", tmp_path / "module"))
    next((module / "variables").glob("*.index")).write_bytes(b"")
    with pytest.raises(ModelError, match="TensorFlow cannot run the SavedModel"):
        build(module)
