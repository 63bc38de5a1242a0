"""Whole runs: probe, phases, gradual thawing with roll-back, and exact resuming."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tlcli.train import checkpoint, compile, phases, policy, step
from tlcli.train.calibration import Scored, score
from tlcli.train.checkpoint import Progress
from tlcli.train.events import BatchDone, EpochDone, Noticed, StepBegun, StepDone
from tlcli.train.step import _interpolate

# Everything that is random, or has a state of its own, at once.
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
THAW = {"policy": "gradual", "step": 2, "epochs": 3, "batch_norm": "train", "layer_decay": 0.7}


def weights_of(session) -> list[np.ndarray]:
    return checkpoint.copy_values(session.classifier.model.weights)


def same_bytes(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return [array.tobytes() for array in one] == [array.tobytes() for array in other]


def alike(one: list[dict], other: list[dict]) -> bool:
    """Whether rows say the same but for times, and for the last digits of sums over threads."""
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key in left.keys() - {"seconds", "images_per_second", "reason"}:
            is_float = isinstance(left[key], float)
            assert left[key] == (pytest.approx(right[key], rel=1e-4) if is_float else right[key]), key
    return True


def lines_of(session) -> list[dict]:
    return [policy.record(outcome) for outcome in session.outcomes]


@pytest.fixture(scope="module")
def whole(lab, tmp_path_factory, recorder):
    """A gradual run, uninterrupted; with its events and its weights at the end of each step."""
    session = lab.session(lab.recipe(THAW, **EVERYTHING), tmp_path_factory.mktemp("whole"))
    record, ends = recorder(), []

    def observe(event) -> None:
        record(event)
        if isinstance(event, StepDone):
            ends.append(weights_of(session))

    session.observe = observe
    phases.run(session)
    return session, record, ends


def test_the_example_is_worth_resuming(whole):
    """Two steps, both kept: otherwise the tests below would compare weights that went back to the start."""
    session, _, ends = whole
    assert [outcome.kept for outcome in session.outcomes] == [True, True]
    assert [outcome.best_epoch > 0 for outcome in session.outcomes] == [True, True]
    assert not same_bytes(ends[0], ends[1])


def test_the_story_of_a_run(whole):
    session, record, _ = whole
    kinds = [type(event) for event in record.seen]
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


def test_each_step_is_measured_from_where_the_last_one_ended(whole):
    session, _, ends = whole
    first, second = session.outcomes
    assert second.loss_before == pytest.approx(first.val_loss, rel=1e-6)
    assert second.accuracy_before == first.val_accuracy
    assert second.val_loss == pytest.approx(score(session, session.val).losses.mean(), rel=1e-6)
    assert same_bytes(weights_of(session), ends[-1])


def in_epoch(kind: type, step: str, epoch: int):
    return lambda event: isinstance(event, kind) and (event.step.name, event.epoch) == (step, epoch)


@pytest.mark.parametrize(
    "stop",
    [
        in_epoch(EpochDone, "phase0 1", 2),
        lambda event: isinstance(event, StepDone),
        in_epoch(BatchDone, "phase0 2", 3),
    ],
    ids=["in the first step", "after a step", "in a later step"],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(whole, lab, tmp_path, recorder, stop):
    """A new session, of other weights and seeds, takes up what the interrupted one left on disk."""
    recipe = lab.recipe(THAW, **EVERYTHING)
    with pytest.raises(KeyboardInterrupt):
        phases.run(lab.session(recipe, tmp_path, observe=recorder(stop)))
    again = lab.session(recipe, tmp_path, seed=99)
    phases.run(again, saved=again.checkpoint.read())
    session, _, ends = whole
    for variable, one, other in zip(again.classifier.model.weights, weights_of(again), ends[-1], strict=True):
        # Equal to the bit where threads add up in the same order.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=variable.path)
    assert alike(again.history, session.history)
    assert alike(lines_of(again), lines_of(session))


def test_a_resumed_run_keeps_its_probe(lab, tmp_path, recorder):
    """Interrupted before the first epoch was saved: the probe is in the checkpoint, and is not solved again."""
    recipe = lab.recipe({"train": "head", "init": "probe", "lr": 0.01})
    whole = lab.session(recipe, tmp_path)
    phases.run(whole)
    assert whole.outcomes[0].loss_before < 0.8, "a head that was not solved has 1.1"
    with pytest.raises(KeyboardInterrupt):
        phases.run(lab.session(recipe, tmp_path, observe=recorder(in_epoch(BatchDone, "phase0", 1))))
    again = lab.session(recipe, tmp_path, observe=recorder(), seed=9)
    saved = again.checkpoint.read()
    phases.run(again, saved=saved)
    assert again.observe.of(Noticed) == []
    assert again.prefix_s > 0, "the time of the pass that was not repeated"
    assert again.outcomes[0].loss_before == pytest.approx(whole.outcomes[0].loss_before, rel=1e-6)
    for one, other in zip(weights_of(again), weights_of(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    # A head that knows nothing in the place of the probe's: what was saved is what is taken up.
    saved.arrays["start"][-2:] = [np.zeros_like(array) for array in saved.arrays["start"][-2:]]
    last = lab.session(recipe, tmp_path)
    phases.run(last, saved=saved)
    assert last.outcomes[0].loss_before == pytest.approx(np.log(3))


def test_an_interrupted_resumption_can_be_resumed(lab, tmp_path, recorder):
    """With early stopping under way: the count of stale epochs comes along, and the rate that hangs on it."""
    phase = {"train": "top:1", "epochs": 9, "patience": 3, "lr": 1e-9, "schedule": "plateau"}
    # A rate at which nothing changes: accuracy stays as it is after the first epoch.
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


def test_what_did_not_help_enough_is_rolled_back_to_the_bit(lab, tmp_path):
    """Statistics and all; the second try starts from the same weights, and patience ends the phase."""
    thaw = {**THAW, "epochs": 2, "step": 1, "until": {"min_delta": 50.0, "patience": 2}}
    session = lab.session(lab.recipe({"train": "head", "lr": 1e-9}, thaw, **EVERYTHING), tmp_path)
    seen = {StepBegun: [], EpochDone: [], StepDone: []}

    def observe(event) -> None:
        if type(event) in seen:
            seen[type(event)].append(weights_of(session))

    session.observe = observe
    phases.run(session)
    start = seen[StepDone][0]
    assert all(same_bytes(start, other) for other in [*seen[StepBegun][1:], *seen[StepDone], weights_of(session)])
    assert not any(same_bytes(start, epoch) for epoch in seen[EpochDone][1:])
    tried = session.outcomes[1:]
    assert [(outcome.kept, outcome.step.groups) for outcome in tried] == [(False, ("top",)), (False, ("block2", "top"))]
    assert all(outcome.best_epoch > 0 and "50 is asked" in outcome.reason for outcome in tried)
    # Measured above another frontier: the same network, rounded at other places.
    assert tried[0].loss_before == pytest.approx(tried[1].loss_before, rel=1e-6)


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_all_phases_run_with_their_own_settings(lab, tmp_path, cache):
    """A rolled-back BatchNorm phase must not leave its mode to the next: the layers are the same in all steps."""
    recipe = lab.recipe(
        {"train": "top:3", "batch_norm": "train", "lr": 0.03},
        {"train": "top:3", "batch_norm": "affine", "until": {"min_delta": 0.0}},
        {"train": "head", "lr": 0.2},
        performance={"batch": 16, "cache": cache},
    )
    session = lab.session(recipe, tmp_path)
    statistics = [variable for variable in session.classifier.model.weights if "moving" in variable.path]
    seen = [checkpoint.copy_values(statistics)]

    def observe(event) -> None:
        if isinstance(event, EpochDone):
            seen.append(checkpoint.copy_values(statistics))

    session.observe = observe
    phases.run(session)
    assert [same_bytes(one, other) for one, other in pairwise(seen)] == [False, True, True]
    assert [row["lr"] for row in session.history] == pytest.approx([0.03, 0.1, 0.2])
    assert [outcome.step.name for outcome in session.outcomes] == ["phase0", "phase1", "phase2"]
    assert session.outcomes[0].loss_before is None
    assert None not in (session.outcomes[1].loss_before, session.outcomes[2].loss_before)
    counts = [outcome.trainable_parameters for outcome in session.outcomes]
    assert counts[0] == counts[1] == counts[2] + (6 * 6 * 9 + 6) + 6 * 6 * 9 + 6 * 8 + 2 * (6 + 6 + 8)


def test_the_state_of_a_run_is_plain_json(whole):
    session, _, _ = whole
    state = json.loads(json.dumps(session.state(), allow_nan=False))
    fresh = replace(session, outcomes=[], history=[])
    fresh.restore(state)
    assert fresh.outcomes == session.outcomes
    assert fresh.history == session.history


def test_a_state_of_another_recipe_is_refused(whole, lab, tmp_path):
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


def test_surgery_moves_groups_by_their_gradients(lab, tmp_path):
    """A group whose rate is 0 stays, byte for byte, although it is trainable; of all others something moves."""
    session = lab.session(lab.recipe({"policy": "surgical", "epochs": 1, "lr": 0.02}), tmp_path)
    weights = session.classifier.model.trainable_variables
    before = {weight.path: value for weight, value in zip(weights, checkpoint.copy_values(weights), strict=True)}
    session.norms[0] = {"stem": 0.0, "block1": 1.0, "block2": 2.0, "top": 4.0}
    phases.run(session)
    (outcome,) = session.outcomes
    assert dict(outcome.step.rates) == {"stem": 0.0, "block1": 0.25, "block2": 0.5, "top": 1.0}
    moved = {
        weight.path.split("/")[0]: bool(np.any(value != before[weight.path]))
        for weight, value in zip(weights, checkpoint.copy_values(weights), strict=True)
        if weight.path.endswith("kernel")
    }
    assert moved, "the example must look at something"
    assert {name: each for name, each in moved.items() if name.startswith("stem")} == {"stem_conv": False}
    assert all(each for name, each in moved.items() if not name.startswith("stem"))


def test_surgery_measures_before_it_cuts(lab, tmp_path, recorder):
    record = recorder()
    session = lab.session(lab.recipe({"policy": "surgical", "group_count": 1, "epochs": 1}), tmp_path, observe=record)
    phases.run(session)
    assert record.of(Noticed)[0].message == "phase0: measuring the gradient of every layer group"
    (outcome,) = session.outcomes
    assert outcome.step.groups == (max(session.norms[0], key=session.norms[0].get),)


def test_an_interrupted_surgery_with_a_pull_ends_as_if_it_had_not_been(lab, tmp_path, recorder):
    """Neither the survey nor the pretrained weights can be found again in the network: the checkpoint has them."""
    recipe = lab.recipe(
        {"train": "head", "epochs": 1}, {"policy": "surgical", "epochs": 3, "l2_sp": 0.5, "lr": 0.05}, seed=3
    )
    whole = lab.session(recipe, tmp_path / "whole")
    phases.run(whole)
    with pytest.raises(KeyboardInterrupt):
        phases.run(lab.session(recipe, tmp_path / "cut", observe=recorder(in_epoch(EpochDone, "phase1", 2))))
    again = lab.session(recipe, tmp_path / "cut", seed=99)
    phases.run(again, saved=again.checkpoint.read())
    assert again.norms == whole.norms
    assert alike(lines_of(again), lines_of(whole))
    for one, other in zip(weights_of(again), weights_of(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def distance(session, start: list[np.ndarray]) -> float:
    """How far the backbone went from its weights at the start."""
    pairs = zip(checkpoint.copy_values(session.backbone_weights), start, strict=True)
    return float(np.sqrt(sum(np.sum((new - old) ** 2) for new, old in pairs)))


def test_a_pull_holds_the_backbone_near_the_pretrained_weights(lab, tmp_path):
    distances = []
    for strength in (0.0, 1.0, 8.0):
        recipe = lab.recipe({"policy": "all", "epochs": 3, "l2_sp": strength, "lr": 0.05})
        session = lab.session(recipe, tmp_path / str(strength), has_val=False)
        start = checkpoint.copy_values(session.backbone_weights)
        phases.run(session)
        distances.append(distance(session, start))
    assert distances[0] > 1.1 * distances[1] > 1.1 * 1.1 * distances[2] > 0, distances


def test_a_blend_lies_between_the_weights_before_and_after(lab, tmp_path):
    """Too large a rate overshoots; part of the way is better, and what is kept is exactly that."""
    head = {"train": "head", "epochs": 1}
    thaw = {"policy": "all", "epochs": 1, "lr": 0.8}
    plain, blended = (
        lab.session(lab.recipe(head, thaw | {"interpolate": blend}), tmp_path / str(blend)) for blend in (False, True)
    )
    ends: dict[str, list[np.ndarray]] = {}
    for session in (plain, blended):
        phases.run(session)
        ends[str(session is blended)] = weights_of(session)
    one, other = plain.outcomes[1], blended.outcomes[1]
    assert one.interpolation == 1.0
    assert other.interpolation in (0.25, 0.5, 0.75)
    assert other.val_loss < (one.val_loss if one.kept else other.loss_before)
    assert other.kept
    assert f"{other.interpolation:.0%} of the way" in other.reason
    assert other.best_epoch == 1
    assert score(blended, blended.val).losses.mean() == pytest.approx(other.val_loss, rel=1e-5)


def test_a_place_that_gains_nothing_does_not_stand_for_the_best(lab, tmp_path, monkeypatch):
    recipe = lab.recipe({**THAW, "interpolate": True, "until": {"confidence": 0.85}})
    session = lab.session(recipe, tmp_path)
    running = compile.prepare_step(session, policy.next_step(recipe.phases, lab.groups, []))
    running.before = running.best = checkpoint.copy_values(running.moving)
    # The epoch gained a little in the mean, and images differ much about it.
    running.progress = Progress(epoch=1, best_epoch=1, start_scores=[1.0] * 4, best_scores=[0.0, 2.1, 0.0, 1.8])
    running.progress.best_loss = 0.975
    for loss, chosen in ((1.01, 1.0), (0.99, 0.75)):
        monkeypatch.setattr(step, "score", lambda *_, loss=loss: Scored(np.full(4, loss), np.ones(4)))
        assert _interpolate(session, running) == chosen
        assert running.progress.best_loss == (0.975 if chosen == 1.0 else loss)
