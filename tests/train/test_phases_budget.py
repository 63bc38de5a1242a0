"""Runs under a time budget: what is shortened, left out and told, and what counts as the time of an epoch."""

import time

import numpy as np
import pytest

from tlcli.train import phases, policy
from tlcli.train.budget import DEFAULT_SETUP_S, Budget
from tlcli.train.calibration import score
from tlcli.train.events import BatchDone, Noticed, StepBegun, StepDone
from tlcli.train.step import _Each


def is_batch_of(step: str, epoch: int):
    return lambda event: isinstance(event, BatchDone) and (event.step.name, event.epoch) == (step, epoch)


def test_what_does_not_fit_the_budget_is_left_out_and_told(lab, tmp_path, recorder):
    record = recorder()
    recipe = lab.recipe({"train": "head", "epochs": 2}, {"policy": "all", "epochs": 5}, {"train": "top:1", "epochs": 2})
    session = lab.session(recipe, tmp_path, observe=record)
    session.budget = Budget(0.001, 0.0)
    phases.run(session)
    assert [event.step.name for event in record.of(StepBegun)] == ["phase0"]
    head, everything, top = session.outcomes
    assert head.epochs == 1
    assert head.reason.endswith("ended early, as no further epoch fits the time budget")
    assert head.out_of_time
    for outcome in (everything, top):
        assert (outcome.kept, outcome.epochs) == (False, 0)
        assert outcome.reason.startswith("not tried: one epoch of it takes about")
        assert outcome.out_of_time
    assert [event.outcome for event in record.of(StepDone)] == session.outcomes
    # What was tried is what there is to score with.
    assert np.isfinite(score(session, session.val).losses).all()


def test_gradients_are_not_measured_where_there_is_no_time_to_train_by_them(lab, tmp_path, recorder):
    record = recorder(is_batch_of("last", 1))
    head = {"train": "head", "init": "probe", "epochs": 0}
    last = {"name": "last", "train": "head", "epochs": 1}
    recipe = lab.recipe(head, {"policy": "surgical", "epochs": 2}, last)
    session = lab.session(recipe, tmp_path / "run", observe=record)
    slow = session.work(everything(lab)).epoch_flops / 1e7
    session.budget = Budget(1e6, time.perf_counter(), trained_flops_per_second=slow)
    with pytest.raises(KeyboardInterrupt):
        phases.run(session)
    assert not session.norms
    assert not any("gradient" in event.message for event in record.of(Noticed))
    assert session.outcomes[1].reason.startswith("not tried: one epoch of it takes about")
    again = lab.session(recipe, tmp_path / "run")
    phases.run(again, saved=again.checkpoint.read())
    assert [outcome.out_of_time for outcome in again.outcomes] == [False, True, False]


def everything(lab) -> policy.Step:
    layers = frozenset(layer.name for layer in lab.groups.layers)
    return policy.Step(1, 0, "phase1", lab.groups.names, layers, 2)


def test_a_batch_that_is_traced_does_not_count_for_the_epochs_to_come(lab, tmp_path):
    session = lab.session(lab.recipe({"train": "head", "epochs": 2}), tmp_path)
    shown = _Each(session, None, 4)
    shown.began, shown.ended = 10.0, [16.0, 16.5, 17.0, 17.5]
    assert shown.setup_s == 5.5
    shown.ended = [10.4, 10.9, 11.4, 11.9]
    assert shown.setup_s == 0.0
    shown.ended = [16.0]
    assert shown.setup_s == 0.0
    phases.run(session)
    # Two epochs of three batches, the first of which was traced.
    assert 0.0 < session.budget.setup_s != DEFAULT_SETUP_S


def test_a_budget_shortens_a_step_and_resuming_keeps_it_short(lab, tmp_path, recorder):
    recipe = lab.recipe({"policy": "all", "epochs": 5})

    def limited(**kinds) -> object:
        session = lab.session(recipe, tmp_path / "run", **kinds)
        work = session.work(policy.next_step(recipe.phases, lab.groups, []))
        # Slow enough on paper that two epochs fit into what is left, and ample time to do them.
        session.budget = Budget(2000.0, time.perf_counter(), flops_per_second=work.epoch_flops / 900, setup_s=0.0)
        return session

    with pytest.raises(KeyboardInterrupt):
        phases.run(limited(observe=recorder(is_batch_of("phase0", 2))))
    again = lab.session(recipe, tmp_path / "run", seed=7)
    phases.run(again, saved=again.checkpoint.read())
    assert again.outcomes[0].epochs == 2
