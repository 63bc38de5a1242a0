"""Training on folds: each member equals an ordinary run on its images, and all decide together."""

from dataclasses import replace

import numpy as np
import pytest

from tlcli.data.pixels import Examples
from tlcli.data.strata import Unit, assign_folds
from tlcli.train import calibration, checkpoint, decision, folds, phases
from tlcli.train.events import EpochDone, StepBegun, StepDone

FOLDS = 3
# Low layers first: then the frozen layers of the second phase differ from fold to fold.
TWO_PHASES = (
    {"train": "stem, top", "epochs": 3, "batch_norm": "train"},
    {"train": "top:1", "epochs": 2, "lr": 0.05, "until": {"confidence": 0.5}},
)
RANDOM = {
    "head": {"dropout": 0.2, "hidden": [{"units": 6, "batch_norm": True}]},
    "augment": {"preset": "light", "views": 2},
    "optimizer": {"name": "adam", "lr": 0.03, "ema": 0.3},
    "seed": 5,
}


def chosen(examples: Examples, mask: np.ndarray) -> Examples:
    return Examples(examples.pixels, examples.rows[mask], examples.labels[mask])


def folded(lab, recipe, run, **options):
    """A session on folds of the training images of the laboratory; each fold has every class."""
    session = lab.session(recipe, run, has_val=False, **options)
    return replace(session, folds=tuple(index // 3 % FOLDS for index in range(len(lab.train))))


def same(left, right) -> bool:
    return all(np.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(left, right, strict=True))


@pytest.fixture(scope="module")
def whole(lab, tmp_path_factory, recorder):
    """A finished run of two phases on folds."""
    session = folded(lab, lab.recipe(*TWO_PHASES, **RANDOM), tmp_path_factory.mktemp("folds"), observe=recorder())
    folds.run(session)
    return session


def test_members_equal_ordinary_runs_on_the_other_folds(lab, tmp_path):
    """Also where the frozen layers differ from fold to fold. Both steps gain much, so every run keeps them."""
    barely = {"train": "stem, top", "epochs": 1, "lr": 0.001, "batch_norm": "train"}
    recipe = lab.recipe(
        barely, {"train": "top:1", "epochs": 4, "lr": 0.02}, **(RANDOM | {"augment": {"preset": "none"}})
    )
    session = folded(lab, recipe, tmp_path / "folds")
    folds.run(session)
    of_row = np.array(session.folds)
    for fold in (0, 2):
        parts = {"train": chosen(lab.train, of_row != fold), "val": chosen(lab.train, of_row == fold)}
        ordinary = replace(lab, **parts).session(recipe, tmp_path / f"ordinary {fold}")
        phases.run(ordinary)
        assert [outcome.kept for outcome in (*ordinary.outcomes, *session.outcomes)] == [True] * 4
        expected = calibration.predict(ordinary, ordinary.val)
        np.testing.assert_allclose(session.out_of_fold[of_row == fold], expected, rtol=2e-3, atol=2e-4)


def test_the_final_classifier_equals_an_ordinary_run_on_all_images(whole, lab, tmp_path):
    epochs = [outcome.best_epoch for outcome in whole.outcomes]
    recipe = lab.recipe(
        *({**phase, "epochs": count} for phase, count in zip(TWO_PHASES, epochs, strict=True)), **RANDOM
    )
    ordinary = lab.session(recipe, tmp_path, has_val=False)
    phases.run(ordinary)
    assert same(*(checkpoint.copy_values(one.classifier.model.weights) for one in (whole, ordinary)))


def test_a_step_that_diverges_is_rolled_back_for_all_folds(lab, tmp_path):
    solved = {"train": "head", "init": "probe", "epochs": 0}
    session = folded(lab, lab.recipe(solved, {"train": "top:1", "lr": 10, "batch_norm": "affine"}), tmp_path)
    lab.shrink_features(session)
    folds.run(session)
    assert [outcome.kept for outcome in session.outcomes] == [True, False]
    assert "loss is nan in epoch 1" in session.outcomes[1].reason
    assert np.isfinite(session.out_of_fold).all()
    assert all(np.isfinite(weight).all() for weight in checkpoint.copy_values(session.classifier.model.weights))


def test_the_pooled_predictions_of_all_folds_decide(lab, tmp_path, recorder):
    """Every round is judged by all images, each by a classifier that was not trained on it."""
    unfreeze = {"policy": "gradual", "step": 2, "epochs": 3, "interpolate": True, "until": {"confidence": 0.85}}
    recipe = lab.recipe({"train": "head", "init": "probe", "epochs": 0}, unfreeze, seed=3)
    session = folded(lab, recipe, tmp_path, observe=recorder())
    folds.run(session)
    head, *rounds = session.outcomes
    assert head.kept
    assert rounds
    kept = [outcome for outcome in session.outcomes if outcome.kept]
    hits = session.out_of_fold.argmax(axis=1) == session.pool.labels
    assert kept[-1].val_accuracy == pytest.approx(hits.mean())
    for outcome in rounds:
        assert outcome.loss_before == pytest.approx(
            next(
                other.val_loss for other in reversed(session.outcomes[: session.outcomes.index(outcome)]) if other.kept
            ),
            rel=1e-4,
        )
    assert len([event for event in session.observe.of(StepBegun) if "all images" not in event.step.name]) == len(
        session.observe.of(StepDone)
    )
    assert {row["phase"] for row in session.history} >= {outcome.step.name for outcome in rounds}


def test_a_step_without_a_gain_is_rolled_back_for_every_fold(lab, tmp_path):
    until = {"min_delta": 50.0}
    recipe = lab.recipe(
        {"train": "head", "init": "probe", "epochs": 0}, {"train": "top:1", "epochs": 2, "until": until}
    )
    session = folded(lab, recipe, tmp_path / "with")
    folds.run(session)
    assert [outcome.kept for outcome in session.outcomes] == [True, False]
    alone = folded(lab, lab.recipe({"train": "head", "init": "probe", "epochs": 0}), tmp_path / "alone")
    folds.run(alone)
    np.testing.assert_array_equal(session.out_of_fold, alone.out_of_fold)
    assert same(*(checkpoint.copy_values(one.classifier.model.weights) for one in (session, alone)))


def test_the_solved_head_is_the_result_if_every_step_is_rolled_back(lab, tmp_path):
    probe = {"train": "head", "init": "probe"}
    session = folded(lab, lab.recipe({**probe, "epochs": 2, "until": {"min_delta": 50.0}}), tmp_path / "with")
    folds.run(session)
    assert [outcome.kept for outcome in session.outcomes] == [False]
    alone = folded(lab, lab.recipe({**probe, "epochs": 0}), tmp_path / "alone")
    folds.run(alone)
    np.testing.assert_allclose(session.out_of_fold, alone.out_of_fold, rtol=1e-5, atol=1e-6)
    assert same(*(checkpoint.copy_values(one.classifier.model.weights) for one in (session, alone)))


@pytest.mark.extras  # Takes long.
@pytest.mark.parametrize(
    "begun",
    [2, pytest.param(3, marks=pytest.mark.slow)],
    ids=["in the second step", "while training on all images"],
)
def test_a_resumed_run_ends_like_an_uninterrupted_one(whole, lab, tmp_path, recorder, begun):
    recipe, stopping = lab.recipe(*TWO_PHASES, **RANDOM), recorder()
    stopping.interrupt_when = lambda event: len(stopping.of(StepBegun)) == begun
    with pytest.raises(KeyboardInterrupt):
        folds.run(folded(lab, recipe, tmp_path, observe=stopping))
    resumed = folded(lab, recipe, tmp_path, seed=99)
    folds.run(resumed, saved=resumed.checkpoint.read())
    np.testing.assert_allclose(resumed.out_of_fold, whole.out_of_fold, rtol=1e-3, atol=1e-4)
    assert same(*(checkpoint.copy_values(one.classifier.model.weights) for one in (resumed, whole)))


def test_a_run_that_was_cut_off_while_it_was_scored_is_resumed(lab, tmp_path):
    """No step is left, and none is repeated on all images."""
    recipe = lab.recipe({"train": "head", "init": "probe", "epochs": 0})
    cut = folded(lab, recipe, tmp_path)
    folds.run(cut)
    resumed = folded(lab, recipe, tmp_path, seed=99)
    folds.run(resumed, saved=resumed.checkpoint.read())
    expected = calibration.predict(cut, cut.pool)
    np.testing.assert_allclose(calibration.predict(resumed, resumed.pool), expected, rtol=1e-4, atol=1e-5)


def test_epochs_are_reported_as_means_over_the_folds(whole):
    rows = [row for row in whole.history if "all images" not in row["phase"]]
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        *(("phase0", epoch) for epoch in (1, 2, 3)),
        *(("phase1", epoch) for epoch in (1, 2)),
    ]
    shown = [event for event in whole.observe.of(EpochDone) if "all images" not in event.step.name]
    assert [event.val_loss for event in shown] == [row["val_loss"] for row in rows]
    assert all(0 < row["val_accuracy"] < 1 for row in rows)


def test_pooled_scores_are_those_of_the_test_of_all_images():
    """Three folds with a gain each: together they are surer than any of them."""
    gains = [0.3, -0.1, 0.2, 0.25, -0.05, 0.15, 0.1, -0.12, 0.4]
    parts = [decision.confidence(gains[start : start + 3]) for start in (0, 3, 6)]
    assert decision.confidence(gains) > max(parts)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_folds_spread_every_class_evenly_and_keep_units_whole(count):
    random = np.random.default_rng(count)
    units = []
    for label, images in enumerate((7, 30, 61)):
        while images:
            size = min(int(random.choice([1, 1, 1, 3])), images)
            contents = tuple(f"{label}-{images}-{number}" for number in range(size))
            units.append(Unit(float(random.random()), contents, {label: size}))
            images -= size
    fold_of = assign_folds(units, count)
    assert fold_of == assign_folds(list(reversed(units)), count)
    assert all(len({fold_of[sha] for sha in unit.contents}) == 1 for unit in units)
    for label in range(3):
        sizes = np.bincount([fold_of[sha] for sha in fold_of if sha.startswith(f"{label}-")], minlength=count)
        assert sizes.max() - sizes.min() <= 3
