"""What training minimises: focal loss, a teacher, balanced sampling and mixed images, in whole steps."""

from dataclasses import replace

import numpy as np
import pytest

from tlcli.data.pixels import Examples
from tlcli.train import cached_results, calibration, checkpoint, loss, phases, policy
from tlcli.train.calibration import predict
from tlcli.train.events import BatchDone

STILL = {"train": "head", "lr": 1e-12}


def taught(session, recipe) -> np.ndarray:
    """What a teacher might say of the training images."""
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), len(session.train)).astype(np.float32)
    return calibration.apply_temperature(probabilities, recipe.teacher.temperature)


def focal(probabilities: np.ndarray, labels: np.ndarray, gamma: float) -> np.ndarray:
    correct = probabilities[np.arange(len(labels)), labels]
    return (1 - correct) ** gamma * -np.log(correct)


def test_the_loss_is_focal_and_imitates_the_teacher(lab, tmp_path):
    """The loss equals its formula, at a learning rate that leaves the weights unchanged."""
    teacher = {"run": "runs/teacher", "temperature": 3.0, "weight": 0.3}
    recipe = lab.recipe(STILL, loss={"name": "focal", "gamma": 1.5}, teacher=teacher)
    session = lab.entered(lab.session(recipe, tmp_path))
    session.taught = taught(session, recipe)
    probabilities, labels = predict(session, session.train).astype(np.float64), session.train.labels
    soft = -(session.taught * np.log(calibration.apply_temperature(probabilities, 3.0))).sum(axis=1)
    expected = 0.7 * focal(probabilities, labels, 1.5) + 0.3 * 9 * soft
    phases.run(session)
    assert session.history[0]["loss"] == pytest.approx(expected.mean(), rel=1e-4)
    assert session.history[0]["accuracy"] == pytest.approx((probabilities.argmax(axis=1) == labels).mean())
    # The scores that decide know neither the focal loss nor the teacher.
    scored = predict(session, session.val)
    temperature = calibration.fit_temperature(scored, session.val.labels)
    correct = calibration.apply_temperature(scored, temperature)[np.arange(32), session.val.labels]
    assert session.history[0]["val_loss"] == pytest.approx(-np.log(correct).mean(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_focal_loss_of_gamma_zero_is_the_cross_entropy(lab, smoothing):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 20).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[np.arange(20) % 3]
    plain, zero, strong = (
        float(
            loss.label_loss(lab.recipe(STILL, loss=spec, augment={"label_smoothing": smoothing}))(labels, probabilities)
        )
        for spec in ({}, {"name": "focal", "gamma": 0.0}, {"name": "focal", "gamma": 2.0})
    )
    assert zero == pytest.approx(plain, rel=1e-4)
    assert strong < 0.8 * plain


def test_a_fold_has_the_answers_for_its_own_images(lab, tmp_path):
    session = lab.session(lab.recipe(STILL, teacher={"run": "t"}), tmp_path)
    assert session.taught_of_train() is None
    session.taught = np.arange(42 * 3, dtype=np.float32).reshape(42, 3)
    np.testing.assert_array_equal(session.taught_of_train(), session.taught)
    mask = np.arange(42) % 3 == 1
    session.train = Examples(lab.train.pixels, lab.train.rows[mask], lab.train.labels[mask])
    np.testing.assert_array_equal(session.taught_of_train(), session.taught[mask])


def test_a_surgical_survey_runs_with_a_teacher_and_balanced_sampling(lab, tmp_path):
    recipe = lab.recipe({"policy": "surgical", "group_count": 1}, teacher={"run": "t"}, data={"sampling": "balanced"})
    session = lab.session(recipe, tmp_path)
    session.taught = taught(session, recipe)
    phases.run(session)
    assert max(session.norms[0].values()) > 0


@pytest.fixture(scope="module")
def mixing(lab):
    """A recipe with every new source of randomness, and unequal classes."""
    chosen = np.flatnonzero((lab.train.labels != 2) | (np.arange(42) < 15))
    uneven = replace(lab, train=Examples(lab.train.pixels, lab.train.rows[chosen], lab.train.labels[chosen]))
    custom = {"preset": "custom", "crop": 0.3, "erasing": 0.2}
    recipe = uneven.recipe(
        {"train": "head", "epochs": 2, "lr": 0.02},
        augment={**custom, "mixup": 0.2, "cutmix": 1.0},
        data={"sampling": "balanced"},
        loss={"name": "focal"},
        teacher={"run": "t"},
    )
    return uneven, recipe


def test_a_resumed_run_repeats_every_random_choice(mixing, tmp_path, recorder):
    lab, recipe = mixing

    def session(folder, **options):
        session = lab.session(recipe, tmp_path / folder, **options)
        session.taught = taught(session, recipe)
        return session

    whole = session("whole")
    phases.run(whole)
    interrupted = session("parts", observe=recorder(lambda event: isinstance(event, BatchDone) and event.epoch == 2))
    with pytest.raises(KeyboardInterrupt):
        phases.run(interrupted)
    resumed = session("parts", seed=9)
    phases.run(resumed, saved=resumed.checkpoint.read())
    assert [row["loss"] for row in resumed.history] == pytest.approx([row["loss"] for row in whole.history], rel=1e-4)
    for left, right in zip(
        *(checkpoint.copy_values(s.classifier.model.weights) for s in (whole, resumed)), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"sampling": "balanced"}},
        {"loss": {"name": "focal"}},
        {"loss": {"name": "focal", "gamma": 3.0}},
        {"teacher": {"run": "t"}},
        {"teacher": {"run": "t", "temperature": 5.0}},
        {"augment": {"preset": "none", "cutmix": 1.0}},
        {"augment": {"preset": "custom", "hue": 0.1}},
        {"augment": {"preset": "trivialaugment"}},
    ],
    ids=str,
)
def test_the_key_of_a_cached_result_has_what_changes_it(lab, tmp_path, sections):
    keys = []
    for changes in ({}, sections):
        recipe = lab.recipe({"train": "head"}, **changes)
        session = lab.session(recipe, tmp_path)
        keys.append(cached_results.step_key(session, policy.next_step(recipe.phases, session.groups, [])))
        if recipe.teacher:
            session.taught = np.zeros((42, 3), np.float32)
            keys.append(cached_results.step_key(session, policy.next_step(recipe.phases, session.groups, [])))
    assert len(set(keys)) == len(keys)
