"""Half precision, used if measured to be faster: only for training images, and without lasting effects."""

import json

import keras
import numpy as np
import pytest

from tlcli.model import precision
from tlcli.model.backbone import preprocess
from tlcli.model.classifier import lower_model
from tlcli.model.head import POOLED
from tlcli.train import checkpoint, phases
from tlcli.train.cached_results import step_key
from tlcli.train.compile import prepare_step
from tlcli.train.events import EpochDone, Noticed
from tlcli.train.policy import Step, next_step
from tlcli.train.session import Session
from tlcli.train.stage import cut_point_of

UNFREEZE = {"train": "top:2", "epochs": 2, "lr": 0.05}
BATCH = (np.ones((4, 6, 6, 6), np.float32), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.ones(4, np.float32))
SLOWER, FASTER = {"float32": 1.0, "bfloat16": 2.0}, {"float32": 2.0, "bfloat16": 1.0}


@pytest.fixture
def always_measured(monkeypatch) -> None:
    """Every training is long enough to measure its precision."""
    monkeypatch.setattr(precision, "MIN_OPERATIONS_CPU", 1.0)


def first_step(session: Session) -> Step:
    """The first step of a session."""
    step = next_step(session.recipe.phases, session.groups, [])
    assert isinstance(step, Step)
    return step


def test_only_long_trainings_are_measured():
    assert precision.is_worth_measuring(1e13, "cpu:0")
    assert not precision.is_worth_measuring(1e12, "cpu:0")
    assert not precision.is_worth_measuring(1e13, "gpu:0")


def test_layers_compute_in_half_precision_only_inside_the_context():
    image = keras.Input((6, 6, 3))
    inner = keras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()])
    model = keras.Model(image, keras.layers.Dense(2, dtype="float64")(inner(image)))
    pixels = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    before = model.get_config()
    full = keras.ops.convert_to_numpy(inner(pixels))
    with precision.computing_in(model, precision.HALF):
        half = inner(pixels)
        assert [layer.compute_dtype for layer in inner.layers] == ["bfloat16", "bfloat16"]
        assert model.layers[-1].compute_dtype == "float64"
    assert keras.backend.standardize_dtype(half.dtype) == "bfloat16"
    difference = np.abs(keras.ops.convert_to_numpy(keras.ops.cast(half, "float32")) - full).max()
    assert 0 < difference < 0.05 * np.abs(full).max()
    assert model.get_config() == before
    assert keras.backend.standardize_dtype(inner(pixels).dtype) == "float32"


def test_preprocessing_computes_in_float32():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(preprocess(inputs, "torch")))
    with precision.computing_in(model, precision.HALF):
        dtypes = {layer.name: layer.compute_dtype for layer in model.layers if layer.name.startswith("preprocess")}
        assert dtypes == {"preprocess_scale": "float32", "preprocess_normalize": "float32"}
        assert model.layers[-1].compute_dtype == "bfloat16"


def test_measuring_changes_no_weight(lab, tmp_path, always_measured):
    session = lab.entered(lab.session(lab.recipe({**UNFREEZE, "batch_norm": "train"}), tmp_path))
    weights = session.classifier.model.weights
    before = checkpoint.copy_values(weights)
    prepare_step(session, first_step(session))
    assert session.precisions.keys() == {"phase0", "frozen layers"}
    for measured in session.precisions.values():
        assert measured["seconds_a_step"].keys() == {"float32", "bfloat16"}
        assert min(measured["seconds_a_step"].values()) > 0
    assert all(np.array_equal(*pair) for pair in zip(before, checkpoint.copy_values(weights), strict=True))


@pytest.mark.parametrize(("seconds", "chosen"), [(SLOWER, "float32"), (FASTER, "bfloat16")])
def test_a_step_computes_in_the_faster_precision(lab, tmp_path, always_measured, seconds, chosen):
    float32 = lab.session(lab.recipe(UNFREEZE, performance={"batch": 16, "precision": "float32"}), tmp_path / "usual")
    phases.run(float32)
    session = lab.session(lab.recipe(UNFREEZE), tmp_path / "measured")
    phases.run(session)
    assert set(session.precisions["phase0"]["seconds_a_step"]) == {"float32", "bfloat16"}
    stored = json.loads(session.measurements.read_text())
    session.measurements.write_text(json.dumps(dict.fromkeys(stored, seconds)))

    again = lab.session(lab.recipe(UNFREEZE), tmp_path / "measured")
    phases.run(again)
    expected = {"chosen": chosen, "seconds_a_step": seconds}
    assert again.precisions == {"phase0": expected, "frozen layers": expected}
    losses = [row["loss"] for row in again.history], [row["loss"] for row in float32.history]
    assert (losses[0] == losses[1]) == (chosen == "float32")
    np.testing.assert_allclose(*losses, rtol=0.02)


def test_scores_are_computed_in_float32(lab, tmp_path, always_measured):
    session = lab.entered(lab.session(lab.recipe(UNFREEZE), tmp_path))
    fed, stage = session.stage.plain_inputs(session.val), session.stage
    before = stage.trainee(fed, training=False)
    stage.trainee.precision = precision.HALF
    assert np.array_equal(before, stage.trainee(fed, training=False))
    assert not np.array_equal(before, stage.trainee(fed, training=True))


@pytest.fixture
def halved(lab, tmp_path, always_measured) -> Session:
    """A session in which bfloat16 was measured to be faster."""
    measured = lab.entered(lab.session(lab.recipe(UNFREEZE), tmp_path))
    prepare_step(measured, first_step(measured))
    stored = json.loads(measured.measurements.read_text())
    measured.measurements.write_text(json.dumps(dict.fromkeys(stored, FASTER)))
    return lab.entered(lab.session(lab.recipe(UNFREEZE), tmp_path))


def test_frozen_layers_compute_in_half_precision_only_for_training_images(halved):
    lower = lower_model(halved.classifier, [cut_point_of(halved.stage.placement)])
    for part, is_exact in ((halved.val, True), (halved.train, False)):
        full = keras.ops.convert_to_numpy(lower(part.pixels[part.rows].astype(np.float32), training=False))
        error = np.abs(halved.stage.plain_inputs(part) - full).max() / np.abs(full).max()
        assert (error < 1e-5) == is_exact
        assert error < 0.05


def test_the_probe_is_fitted_on_half_precision_features_and_scored_on_full(halved):
    pooled = halved.pooled()
    lower = lower_model(halved.classifier, [POOLED])
    for part, is_exact in ((halved.val, True), (halved.train, False)):
        full = keras.ops.convert_to_numpy(lower(part.pixels[part.rows].astype(np.float32), training=False))
        error = np.abs(pooled(part) - full).max() / np.abs(full).max()
        assert (error < 1e-5) == is_exact
        assert error < 0.05


def test_results_in_different_precisions_are_stored_separately(halved, lab, tmp_path):
    recipe = lab.recipe(UNFREEZE, performance={"batch": 16, "precision": "float32"})
    session = lab.entered(lab.session(recipe, tmp_path))
    assert session.feature_cache.folder == halved.feature_cache.folder
    assert session.frozen_precision != halved.frozen_precision
    assert not np.array_equal(session.stage.plain_inputs(session.train), halved.stage.plain_inputs(halved.train))
    assert step_key(session, first_step(session)) != step_key(halved, first_step(halved))


def test_a_precision_set_in_the_recipe_is_not_measured(lab, tmp_path, always_measured, recorder):
    record = recorder()
    recipe = lab.recipe(UNFREEZE, performance={"batch": 16, "precision": "float32"})
    session = lab.session(recipe, tmp_path, observe=record)
    phases.run(session)
    assert session.precisions == {}
    assert not session.measurements.exists()
    assert not [event for event in record.of(Noticed) if "bfloat16" in event.message]


def test_a_resumed_run_keeps_its_precision(lab, tmp_path, always_measured, recorder):
    stop = recorder(lambda event: isinstance(event, EpochDone) and event.epoch == 2)
    session = lab.session(lab.recipe(UNFREEZE), tmp_path, observe=stop)
    with pytest.raises(KeyboardInterrupt):
        phases.run(session)
    stored = json.loads(session.measurements.read_text())
    session.measurements.write_text(json.dumps({key: {"float32": 9.0, "bfloat16": 9.0} for key in stored}))
    later = lab.session(lab.recipe(UNFREEZE), tmp_path)
    phases.run(later, saved=later.checkpoint.read())
    assert later.precisions == session.precisions


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": 1}', '{"a": {"float32": 1}}', '{"a": {"float32": 1, "bfloat16": "x"}}']
)
def test_damaged_measurements_are_replaced(tmp_path, text):
    path = tmp_path / "precision.json"
    path.write_text(text)
    assert precision.load_measurement(path, "a") is None
    precision.save_measurement(path, "a", FASTER)
    assert precision.load_measurement(path, "a") == FASTER
