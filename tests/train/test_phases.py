"""Complete runs: probe, phases, gradual unfreezing with rollback, and exact resuming."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tlcli.train import checkpoint, compile, interpolation, phases, policy
from tlcli.train.calibration import ImageScores, score
from tlcli.train.checkpoint import Progress
from tlcli.train.events import BatchDone, EpochDone, Noticed, StepBegun, StepDone

# A recipe with every source of randomness and state.
EVERYTHING = {
    "head": {
        "dropout": 0.2,
        "l2": 0.001,
        "max_norm": 1.5,
        "hidden": [{"units": 6, "batch_norm": True, "dropout": 0.1}],
    },
    "augment": {"preset": "strong", "mixup": 0.2, "label_smoothing": 0.05},
    "optimizer": {"name": "adam", "lr": 0.03, "schedule": "cosine", "clip_norm": 5.0},
    "data": {"class_weights": "balanced"},
    "seed": 5,
}
UNFREEZE = {"policy": "gradual", "step": 2, "epochs": 3, "batch_norm": "train", "layer_decay": 0.7}


def weights_of(session) -> list[np.ndarray]:
    return checkpoint.copy_values(session.classifier.model.weights)


def same_bytes(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return [array.tobytes() for array in left] == [array.tobytes() for array in right]


def alike(left: list[dict], right: list[dict]) -> bool:
    """True if rows are equal up to durations and the rounding of sums over threads."""
    for left_row, right_row in zip(left, right, strict=True):
        assert left_row.keys() == right_row.keys()
        for key in left_row.keys() - {"seconds", "images_per_second", "reason"}:
            value = right_row[key]
            assert left_row[key] == (pytest.approx(value, rel=1e-4) if isinstance(left_row[key], float) else value), key
    return True


def lines_of(session) -> list[dict]:
    return [policy.record(outcome) for outcome in session.outcomes]


@pytest.fixture(scope="module")
def whole(lab, tmp_path_factory, recorder):
    """An uninterrupted gradual run, its events, and its weights at the end of each step."""
    session = lab.session(lab.recipe(UNFREEZE, **EVERYTHING), tmp_path_factory.mktemp("whole"))
    record, ends = recorder(), []

    def observe(event) -> None:
        record(event)
        if isinstance(event, StepDone):
            ends.append(weights_of(session))

    session.observe = observe
    phases.run(session)
    return session, record, ends


def test_the_example_keeps_both_steps(whole):
    """Otherwise the tests below would compare weights that were rolled back to the start."""
    session, _, ends = whole
    assert [outcome.kept for outcome in session.outcomes] == [True, True]
    assert [outcome.best_epoch > 0 for outcome in session.outcomes] == [True, True]
    assert not same_bytes(ends[0], ends[1])


def test_the_events_of_a_run(whole):
    session, record, _ = whole
    kinds = [type(event) for event in record.recorded]
    step = [StepBegun, *[BatchDone, BatchDone, BatchDone, EpochDone] * 3, StepDone]
    assert kinds == [*step, *step]
    assert [event.step.name for event in record.of(StepBegun)] == ["phase0 1", "phase0 2"]
    assert [event.step.groups for event in record.of(StepBegun)] == [
        ("block2", "top"),
        ("stem", "block1", "block2", "top"),
    ]
    assert [event.outcome for event in record.of(StepDone)] == session.outcomes
    assert [(row["phase"], row["epoch"]) for row in session.history] == [
        (name, epoch) for name in ("phase0 1", "phase0 2") for epoch in (1, 2, 3)
    ]


def test_each_step_is_scored_from_the_end_of_the_previous_one(whole):
    session, _, ends = whole
    first, second = session.outcomes
    assert second.loss_before == pytest.approx(first.val_loss, rel=1e-6)
    assert second.accuracy_before == first.val_accuracy
    assert second.val_loss == pytest.approx(score(session, session.val).losses.mean(), rel=1e-6)
    assert same_bytes(weights_of(session), ends[-1])


def in_epoch(kind: type, step: str, epoch: int):
    return lambda event: isinstance(event, kind) and (event.step.name, event.epoch) == (step, epoch)


@pytest.mark.parametrize(
    ("stop", "saves_epochs"),
    [
        (in_epoch(EpochDone, "phase0 1", 2), True),
        (lambda event: isinstance(event, StepDone), True),
        (in_epoch(BatchDone, "phase0 2", 3), True),
        (in_epoch(BatchDone, "phase0 2", 3), False),
    ],
    ids=["in the first step", "after a step", "in a later step", "in a later step without a checkpoint of it"],
)
def test_a_resumed_run_ends_like_an_uninterrupted_one(whole, lab, tmp_path, recorder, monkeypatch, stop, saves_epochs):
    """The session that resumes the run starts with other weights and seeds."""
    if not saves_epochs:
        monkeypatch.setattr(checkpoint.Checkpoint, "is_due", lambda _: False)
    recipe = lab.recipe(UNFREEZE, **EVERYTHING)
    with pytest.raises(KeyboardInterrupt):
        phases.run(lab.session(recipe, tmp_path, observe=recorder(stop)))
    resumed = lab.session(recipe, tmp_path, seed=99)
    saved = resumed.checkpoint.read()
    assert saves_epochs or "progress" not in saved.state
    phases.run(resumed, saved=saved)
    session, _, ends = whole
    for variable, left, right in zip(resumed.classifier.model.weights, weights_of(resumed), ends[-1], strict=True):
        # Bit-identical only if threads sum in the same order.
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5, err_msg=variable.path)
    assert alike(resumed.history, session.history)
    assert alike(lines_of(resumed), lines_of(session))


def test_a_resumed_run_keeps_its_probe(lab, tmp_path, recorder):
    """The run is interrupted before the first epoch is saved. The probe comes from the checkpoint."""
    recipe = lab.recipe({"train": "head", "init": "probe", "lr": 0.01})
    whole = lab.session(recipe, tmp_path)
    phases.run(whole)
    assert whole.outcomes[0].loss_before < 0.8, "an untrained head has 1.1"
    with pytest.raises(KeyboardInterrupt):
        phases.run(lab.session(recipe, tmp_path, observe=recorder(in_epoch(BatchDone, "phase0", 1))))
    resumed = lab.session(recipe, tmp_path, observe=recorder(), seed=9)
    saved = resumed.checkpoint.read()
    phases.run(resumed, saved=saved)
    assert resumed.observe.of(Noticed) == []
    assert resumed.prefix_s > 0, "the time of the first pass, which is not repeated"
    assert resumed.outcomes[0].loss_before == pytest.approx(whole.outcomes[0].loss_before, rel=1e-6)
    for left, right in zip(weights_of(resumed), weights_of(whole), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
    # With an uninformed head in the checkpoint, the run continues from that head.
    saved.arrays["start"][-2:] = [np.zeros_like(array) for array in saved.arrays["start"][-2:]]
    last = lab.session(recipe, tmp_path)
    phases.run(last, saved=saved)
    assert last.outcomes[0].loss_before == pytest.approx(np.log(3))


def test_a_run_can_be_interrupted_and_resumed_twice(lab, tmp_path, recorder):
    """The number of stale epochs, which decides on early stopping and the learning rate, is restored."""
    phase = {"train": "top:1", "epochs": 9, "patience": 3, "lr": 1e-9, "schedule": "plateau"}
    # At this learning rate accuracy does not change after the first epoch.
    recipe = lab.recipe({**phase, "until": {"metric": "val_accuracy"}})
    session = lab.session(recipe, tmp_path / "whole")
    phases.run(session)
    assert [row["lr"] for row in session.history] == pytest.approx([1e-9, 1e-9, 1e-9, 5e-10])
    for epoch in (2, 4):
        part = lab.session(recipe, tmp_path / "parts", observe=recorder(in_epoch(EpochDone, "phase0", epoch)))
        with pytest.raises(KeyboardInterrupt):
            phases.run(part, saved=part.checkpoint.read())
    last = lab.session(recipe, tmp_path / "parts", seed=9)
    phases.run(last, saved=last.checkpoint.read())
    assert alike(lines_of(last), lines_of(session))
    assert alike(last.history, session.history)


def test_a_step_with_too_small_a_gain_is_rolled_back_exactly(lab, tmp_path):
    """BatchNorm statistics included. The second round starts from the same weights, and patience ends the phase."""
    unfreeze = {**UNFREEZE, "epochs": 2, "step": 1, "until": {"min_delta": 50.0, "patience": 2}}
    session = lab.session(lab.recipe({"train": "head", "lr": 1e-9}, unfreeze, **EVERYTHING), tmp_path)
    weights = {StepBegun: [], EpochDone: [], StepDone: []}

    def observe(event) -> None:
        if type(event) in weights:
            weights[type(event)].append(weights_of(session))

    session.observe = observe
    phases.run(session)
    start = weights[StepDone][0]
    unchanged = [*weights[StepBegun][1:], *weights[StepDone], weights_of(session)]
    assert all(same_bytes(start, values) for values in unchanged)
    assert not any(same_bytes(start, values) for values in weights[EpochDone][1:])
    rounds = session.outcomes[1:]
    assert [(outcome.kept, outcome.step.groups) for outcome in rounds] == [
        (False, ("top",)),
        (False, ("block2", "top")),
    ]
    assert all(outcome.best_epoch > 0 and "(more than 50 required)" in outcome.reason for outcome in rounds)
    # The two rounds score the same network above different cut points, with different rounding.
    assert rounds[0].loss_before == pytest.approx(rounds[1].loss_before, rel=1e-6)


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_all_phases_run_with_their_own_settings(lab, tmp_path, cache):
    """The BatchNorm mode of one phase must not affect the next phase of the same layers."""
    recipe = lab.recipe(
        {"train": "top:3", "batch_norm": "train", "lr": 0.03},
        {"train": "top:3", "batch_norm": "affine", "until": {"min_delta": 0.0}},
        {"train": "head", "lr": 0.2},
        performance={"batch": 16, "cache": cache},
    )
    session = lab.session(recipe, tmp_path)
    statistics = [variable for variable in session.classifier.model.weights if "moving" in variable.path]
    values = [checkpoint.copy_values(statistics)]

    def observe(event) -> None:
        if isinstance(event, EpochDone):
            values.append(checkpoint.copy_values(statistics))

    session.observe = observe
    phases.run(session)
    assert [same_bytes(left, right) for left, right in pairwise(values)] == [False, True, True]
    assert [row["lr"] for row in session.history] == pytest.approx([0.03, 0.1, 0.2])
    assert [outcome.step.name for outcome in session.outcomes] == ["phase0", "phase1", "phase2"]
    assert session.outcomes[0].loss_before is None
    assert None not in (session.outcomes[1].loss_before, session.outcomes[2].loss_before)
    counts = [outcome.trainable_parameters for outcome in session.outcomes]
    assert counts[0] == counts[1] == counts[2] + (6 * 6 * 9 + 6) + 6 * 6 * 9 + 6 * 8 + 2 * (6 + 6 + 8)


def test_the_state_of_a_run_survives_json(whole):
    session, _, _ = whole
    state = json.loads(json.dumps(session.state(), allow_nan=False))
    fresh = replace(session, outcomes=[], history=[])
    fresh.restore(state)
    assert fresh.outcomes == session.outcomes
    assert fresh.history == session.history


def test_a_state_of_another_recipe_is_an_error(whole, lab, tmp_path):
    session, _, _ = whole
    other = lab.session(lab.recipe({"train": "head", "name": "only"}), tmp_path)
    with pytest.raises(RuntimeError, match="step 'phase0 1' does not follow from the recipe"):
        other.restore(session.state())


# Policies


def test_lp_ft_starts_from_the_probe(lab, tmp_path, recorder):
    record = recorder()
    session = lab.session(lab.recipe({"policy": "lp_ft", "epochs": 2, "lr": 0.01}), tmp_path, observe=record)
    phases.run(session)
    assert [event.step.name for event in record.of(StepBegun)] == ["phase0 head", "phase0"]
    head, everything = session.outcomes
    assert (head.epochs, head.kept, head.step.groups) == (0, True, ())
    assert everything.step.groups == lab.groups.names
    probed = lab.session(lab.recipe({"train": "head", "init": "probe", "epochs": 0}), tmp_path / "probe")
    phases.run(probed)
    assert everything.loss_before == pytest.approx(probed.outcomes[0].val_loss, rel=1e-5)


def test_a_surgical_phase_changes_groups_by_their_gradients(lab, tmp_path):
    """A group at rate 0 stays bit-identical although it is trainable. All other groups change."""
    session = lab.session(lab.recipe({"policy": "surgical", "epochs": 1, "lr": 0.02}), tmp_path)
    weights = session.classifier.model.trainable_variables
    before = {weight.path: value for weight, value in zip(weights, checkpoint.copy_values(weights), strict=True)}
    session.norms[0] = {"stem": 0.0, "block1": 1.0, "block2": 2.0, "top": 4.0}
    phases.run(session)
    (outcome,) = session.outcomes
    assert dict(outcome.step.rates) == {"stem": 0.0, "block1": 0.25, "block2": 0.5, "top": 1.0}
    changes = {
        weight.path.split("/")[0]: bool(np.any(value != before[weight.path]))
        for weight, value in zip(weights, checkpoint.copy_values(weights), strict=True)
        if weight.path.endswith("kernel")
    }
    assert {name: changed for name, changed in changes.items() if name.startswith("stem")} == {"stem_conv": False}
    others = [changed for name, changed in changes.items() if not name.startswith("stem")]
    assert others, "the example must have other kernels"
    assert all(others)


def test_a_surgical_phase_measures_gradients_first(lab, tmp_path, recorder):
    record = recorder()
    session = lab.session(lab.recipe({"policy": "surgical", "group_count": 1, "epochs": 1}), tmp_path, observe=record)
    phases.run(session)
    assert record.of(Noticed)[0].message == "phase0: measuring the gradient of every layer group"
    (outcome,) = session.outcomes
    assert outcome.step.groups == (max(session.norms[0], key=session.norms[0].get),)


def test_a_resumed_surgical_phase_with_l2_sp_ends_like_an_uninterrupted_one(lab, tmp_path, recorder):
    """The survey and the pretrained weights come from the checkpoint; the network no longer has them."""
    recipe = lab.recipe(
        {"train": "head", "epochs": 1}, {"policy": "surgical", "epochs": 3, "l2_sp": 0.5, "lr": 0.05}, seed=3
    )
    whole = lab.session(recipe, tmp_path / "whole")
    phases.run(whole)
    with pytest.raises(KeyboardInterrupt):
        phases.run(lab.session(recipe, tmp_path / "cut", observe=recorder(in_epoch(EpochDone, "phase1", 2))))
    resumed = lab.session(recipe, tmp_path / "cut", seed=99)
    phases.run(resumed, saved=resumed.checkpoint.read())
    assert resumed.norms == whole.norms
    assert alike(lines_of(resumed), lines_of(whole))
    for left, right in zip(weights_of(resumed), weights_of(whole), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


def distance(session, start: list[np.ndarray]) -> float:
    """The Euclidean distance of the backbone from its weights at the start."""
    pairs = zip(checkpoint.copy_values(session.backbone_weights), start, strict=True)
    return float(np.sqrt(sum(np.sum((new - old) ** 2) for new, old in pairs)))


def test_l2_sp_keeps_the_backbone_near_the_pretrained_weights(lab, tmp_path):
    distances = []
    for strength in (0.0, 1.0, 8.0):
        recipe = lab.recipe({"policy": "all", "epochs": 3, "l2_sp": strength, "lr": 0.05})
        session = lab.session(recipe, tmp_path / str(strength), has_val=False)
        start = checkpoint.copy_values(session.backbone_weights)
        phases.run(session)
        distances.append(distance(session, start))
    assert distances[0] > 1.1 * distances[1] > 1.1 * 1.1 * distances[2] > 0, distances


def test_interpolated_weights_are_kept(lab, tmp_path):
    """The learning rate is too high, so that weights between those before and after the step are better."""
    head = {"train": "head", "epochs": 1}
    unfreeze = {"policy": "all", "epochs": 1, "lr": 0.8}
    plain, interpolated = (
        lab.session(lab.recipe(head, unfreeze | {"interpolate": is_on}), tmp_path / str(is_on))
        for is_on in (False, True)
    )
    for session in (plain, interpolated):
        phases.run(session)
    without, outcome = plain.outcomes[1], interpolated.outcomes[1]
    assert without.interpolation == 1.0
    assert outcome.interpolation in (0.25, 0.5, 0.75)
    assert outcome.val_loss < (without.val_loss if without.kept else outcome.loss_before)
    assert outcome.kept
    assert outcome.reason.endswith(
        f"; interpolated weights ({outcome.interpolation:.0%} of the step)".replace("%", " %")
    )
    assert outcome.best_epoch == 1
    assert score(interpolated, interpolated.val).losses.mean() == pytest.approx(outcome.val_loss, rel=1e-5)


def test_interpolated_weights_need_a_mean_gain(lab, tmp_path, monkeypatch):
    recipe = lab.recipe({**UNFREEZE, "interpolate": True, "until": {"confidence": 0.85}})
    session = lab.session(recipe, tmp_path)
    state = compile.prepare_step(session, policy.next_step(recipe.phases, lab.groups, []))
    state.start_weights = state.best_weights = checkpoint.copy_values(state.moving)
    # The epoch has a small mean gain that differs much between images.
    state.progress = Progress(epoch=1, best_epoch=1, start_scores=[1.0] * 4, best_scores=[0.0, 2.1, 0.0, 1.8])
    state.progress.best_loss = 0.975
    for loss, position in ((1.01, 1.0), (0.99, 0.75)):
        monkeypatch.setattr(
            interpolation, "score", lambda *_, loss=loss: ImageScores(np.full(4, loss), np.ones(4), np.ones(4))
        )
        assert interpolation.improve(session, state) == position
        assert state.progress.best_loss == (0.975 if position == 1.0 else loss)
