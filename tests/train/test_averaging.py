"""Averages of weights and gradients: moving averages, the mean of the best epochs, accumulation, patience in steps."""

import keras
import numpy as np
import pytest

from tlcli.recipe.optimizer import OptimizerSpec
from tlcli.recipe.phase import PhaseSpec
from tlcli.train import averaging, checkpoint, optimizer, phases, policy
from tlcli.train.calibration import score
from tlcli.train.compile import prepare_step
from tlcli.train.events import BatchDone, EpochDone

RANDOM = np.random.default_rng(0)
START = RANDOM.normal(size=(2, 3)).astype(np.float32)
GRADIENTS = [RANDOM.normal(size=(2, 3)).astype(np.float32) for _ in range(6)]


def applied(spec: OptimizerSpec, *, limit: float | None = None, gradients=GRADIENTS) -> tuple[keras.Variable, object]:
    """A variable after a step with each gradient, and its optimiser."""
    variable = keras.Variable(START, name="kernel")
    variable.constraint = None if limit is None else keras.constraints.MaxNorm(limit)
    rule = optimizer.build(spec, 0.1, scales=[1.0])
    rule.build([variable])
    for gradient in gradients:
        rule.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    return variable, rule


def value(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)


def test_a_moving_average_is_that_of_the_formula():
    variable, rule = applied(OptimizerSpec(name="sgd", ema=0.8))
    trained = START - 0.1 * np.cumsum(GRADIENTS, axis=0)
    expected = trained[0]
    for weights in trained[1:]:
        expected = 0.8 * expected + 0.2 * weights
    with averaging.averaged(rule, [variable]):
        np.testing.assert_allclose(value(variable), expected, rtol=1e-5)
    np.testing.assert_allclose(value(variable), trained[-1], rtol=1e-5)


def test_a_moving_average_is_that_of_updates_if_gradients_accumulate():
    """Each update is averaged once it has been in place for all of its batches."""
    variable, rule = applied(OptimizerSpec(name="sgd", ema=0.8, accumulate=2), gradients=[*GRADIENTS, GRADIENTS[0]])
    trained = START - 0.1 * np.cumsum(np.reshape(GRADIENTS, (3, 2, 2, 3)).mean(axis=1), axis=0)
    expected = trained[0]
    for weights in trained[1:]:
        expected = 0.8 * expected + 0.2 * weights
    averaging.take_average(rule, [variable])
    np.testing.assert_allclose(value(variable), expected, rtol=1e-5)


def test_the_norm_limit_holds_for_the_moving_average():
    variable, rule = applied(OptimizerSpec(name="sgd", ema=0.5), limit=0.3, gradients=[np.full((2, 3), 9.0)] * 4)
    averaging.take_average(rule, [variable])
    assert np.linalg.norm(value(variable), axis=0).max() <= 0.3 + 1e-6
    assert np.linalg.norm(value(rule._model_variables_moving_average[0]), axis=0).max() > 0.3


@pytest.mark.parametrize("name", ["sgd", "adam", "ftrl"])
def test_accumulated_gradients_are_one_step_with_their_mean(name):
    parameters = {"clip_norm": 0.5}
    found, _ = applied(OptimizerSpec(name=name, accumulate=3, **parameters))
    means = [np.mean(GRADIENTS[:3], axis=0), np.mean(GRADIENTS[3:], axis=0)]
    expected, _ = applied(OptimizerSpec(name=name, **parameters), gradients=means)
    np.testing.assert_allclose(value(found), value(expected), rtol=1e-5)
    partial, _ = applied(OptimizerSpec(name=name, accumulate=3, **parameters), gradients=GRADIENTS[:5])
    first, _ = applied(OptimizerSpec(name=name, **parameters), gradients=means[:1])
    np.testing.assert_allclose(value(partial), value(first), rtol=1e-5)


def weights_of(session) -> list[np.ndarray]:
    return checkpoint.copy_values(session.classifier.model.weights)


def test_averaged_weights_are_scored_and_saved_and_training_goes_on_from_the_others(lab, tmp_path):
    """Weights trained with an average equal those without, which is then computed here batch by batch."""
    phase = {"train": "head", "epochs": 2, "lr": 0.5}
    raw = []

    def run(folder: str, **parts):
        session = lab.session(lab.recipe(phase, optimizer={"name": "sgd", **parts}), tmp_path / folder)
        head = session.classifier.model.get_layer("head_probabilities")
        if not parts:
            session.observe = lambda event: raw.append(head.get_weights()) if isinstance(event, BatchDone) else None
        phases.run(session)
        return session, head.get_weights()

    run("raw")
    session, found = run("ema", ema=0.9)
    expected = raw[0]
    for weights in raw[1:]:
        expected = [0.9 * old + 0.1 * new for old, new in zip(expected, weights, strict=True)]
    assert session.outcomes[0].best_epoch == 2
    for left, right, last in zip(found, expected, raw[-1], strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
        assert np.abs(left - last).max() > 1e-3
    assert score(session, session.val).losses.mean() == pytest.approx(session.outcomes[0].val_loss, rel=1e-5)


# At this rate the validation loss goes up and down.
UNSTEADY = {"train": "head", "epochs": 8, "lr": 2.0}


@pytest.fixture(scope="module")
def unsteady(lab, tmp_path_factory):
    """The weights after each epoch, and the validation losses."""
    session, weights = lab.session(lab.recipe(UNSTEADY), tmp_path_factory.mktemp("run")), []
    session.observe = lambda event: weights.append(weights_of(session)) if isinstance(event, EpochDone) else None
    phases.run(session)
    return weights, [row["val_loss"] for row in session.history]


def test_the_mean_of_the_best_epochs_is_taken_if_it_is_better(lab, unsteady, tmp_path):
    weights, losses = unsteady
    best = np.argsort(losses)[:3]
    session = lab.session(lab.recipe({**UNSTEADY, "soup": 3}), tmp_path / "soup")
    phases.run(session)
    mean = [np.mean([weights[epoch][number] for epoch in best], axis=0) for number in range(len(weights[0]))]
    assert len({*best.tolist(), int(np.argmin(losses))}) == 3
    (outcome,) = session.outcomes
    assert outcome.reason.endswith("mean of the 3 best epochs"), "the example must have a better mean"
    assert outcome.val_loss < min(losses)
    for left, right in zip(weights_of(session), mean, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


def test_a_worse_mean_leaves_the_weights_of_the_last_epoch(lab, tmp_path):
    """Interpolation starts from them if no epoch was better than before."""
    session = lab.session(lab.recipe({"train": "head", "epochs": 3, "soup": 3}), tmp_path)
    state = prepare_step(session, policy.next_step(session.recipe.phases, session.groups, [], {}))
    last = checkpoint.copy_values(state.moving)
    state.snapshots = [[value + share for value in last] for share in (1, 3)]
    state.progress.best_loss, state.progress.best_accuracy = 0.0, 1.0
    assert averaging.mix_best(session, state) == 1
    assert [array.tobytes() for array in checkpoint.copy_values(state.moving)] == [array.tobytes() for array in last]


def test_a_worse_mean_leaves_the_best_epoch(lab, tmp_path):
    """A head that learns slowly: the last epoch is the best, and every mean is behind it."""
    session = lab.session(lab.recipe({"train": "head", "epochs": 3, "lr": 0.01, "soup": 3}), tmp_path / "run")
    last = []
    session.observe = lambda event: last.append(weights_of(session)) if isinstance(event, EpochDone) else None
    phases.run(session)
    assert "mean" not in session.outcomes[0].reason
    assert [a.tobytes() for a in weights_of(session)] == [a.tobytes() for a in last[-1]]


@pytest.mark.extras  # Takes long.
def test_resumed_averages_are_those_of_an_uninterrupted_run(lab, recorder, tmp_path):
    """Moving averages, accumulated gradients across the end of an epoch, snapshots, momentum of BatchNorm."""
    phase = {"train": "top:2", "epochs": 3, "lr": 1.5, "soup": 2, "batch_norm": "train", "batch_norm_momentum": 0.3}
    later = {"train": "top:1", "batch_norm": "train"}
    parts = {"optimizer": {"name": "nesterov", "lr": 0.1, "ema": 0.7, "accumulate": 2}}
    recipe = lab.recipe(phase, later, performance={"batch": 16, "cache": "off"}, **parts)
    whole = lab.session(recipe, tmp_path / "whole")
    phases.run(whole)
    interrupt = recorder(lambda event: isinstance(event, BatchDone) and (event.epoch, event.batch) == (2, 2))
    broken = lab.session(recipe, tmp_path / "broken", observe=interrupt)
    with pytest.raises(KeyboardInterrupt):
        phases.run(broken)
    resumed = lab.session(recipe, tmp_path / "broken", seed=9)
    phases.run(resumed, saved=resumed.checkpoint.read())
    assert [a.tobytes() for a in weights_of(resumed)] == [a.tobytes() for a in weights_of(whole)]


@pytest.mark.parametrize(
    ("patience", "batches", "epochs"),
    [(None, 3, None), (4, 3, 4), ("6 steps", 3, 2), ("7 steps", 3, 3), ("1 steps", 9, 1)],
)
def test_patience_in_steps_counts_whole_epochs(patience, batches, epochs):
    assert PhaseSpec(name="x", policy="all", patience=patience).patience_epochs(batches) == epochs


def test_a_phase_ends_after_so_many_steps_without_a_better_epoch(lab, tmp_path):
    """The head starts at its optimum, and the rate is too high for many better epochs. An epoch has three steps."""
    phase = {"train": "head", "init": "probe", "epochs": 9, "lr": 3.0, "patience": "4 steps"}
    session = lab.session(lab.recipe(phase), tmp_path)
    phases.run(session)
    (outcome,) = session.outcomes
    assert outcome.epochs == outcome.best_epoch + 2 < 9
