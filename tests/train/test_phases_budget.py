"""Runs with a time budget: shortened and skipped steps, and the measured time of an epoch."""

import time
from dataclasses import replace

import numpy as np
import pytest

from tlcli.cache.results import ResultCache
from tlcli.train import phases, policy
from tlcli.train.batch_callback import BatchCallback
from tlcli.train.budget import DEFAULT_SETUP_S, Budget
from tlcli.train.calibration import score
from tlcli.train.events import BatchDone, Noticed, StepBegun, StepDone


def is_batch_of(step: str, epoch: int):
    return lambda event: isinstance(event, BatchDone) and (event.step.name, event.epoch) == (step, epoch)


def test_steps_that_do_not_fit_the_budget_are_skipped_with_a_reason(lab, tmp_path, recorder):
    record = recorder()
    recipe = lab.recipe({"train": "head", "epochs": 2}, {"policy": "all", "epochs": 5}, {"train": "top:1", "epochs": 2})
    session = lab.session(recipe, tmp_path, observe=record)
    session.budget = Budget(0.001, 0.0)
    phases.run(session)
    assert [event.step.name for event in record.of(StepBegun)] == ["phase0"]
    head, everything, top = session.outcomes
    assert head.epochs == 1
    assert head.reason.endswith("stopped early: the time budget does not allow another epoch")
    assert head.out_of_time
    for outcome in (everything, top):
        assert (outcome.kept, outcome.epochs) == (False, 0)
        assert outcome.reason.startswith("skipped: one epoch takes about")
        assert outcome.out_of_time
    assert [event.outcome for event in record.of(StepDone)] == session.outcomes
    # The run can still score with the last step that was trained.
    assert np.isfinite(score(session, session.val).losses).all()


def test_gradients_are_not_measured_if_their_step_does_not_fit_the_budget(lab, tmp_path, recorder):
    record = recorder(is_batch_of("last", 1))
    head = {"train": "head", "init": "probe", "epochs": 0}
    last = {"name": "last", "train": "head", "epochs": 1}
    recipe = lab.recipe(head, {"policy": "surgical", "epochs": 2}, last)
    session = lab.session(recipe, tmp_path / "run", observe=record)
    slow_flops = session.cost_of(everything(lab)).epoch_flops / 1e7
    session.budget = Budget(1e6, time.perf_counter(), trained_flops_per_second=slow_flops)
    with pytest.raises(KeyboardInterrupt):
        phases.run(session)
    assert not session.norms
    assert not any("gradient" in event.message for event in record.of(Noticed))
    assert session.outcomes[1].reason.startswith("skipped: one epoch takes about")
    resumed = lab.session(recipe, tmp_path / "run")
    phases.run(resumed, saved=resumed.checkpoint.read())
    assert [outcome.out_of_time for outcome in resumed.outcomes] == [False, True, False]


def test_a_resumed_run_without_time_for_another_step_can_be_scored(lab, tmp_path, recorder):
    recipe = lab.recipe({"train": "head", "init": "probe", "epochs": 0}, {"policy": "all", "epochs": 2})
    cut = lab.session(recipe, tmp_path, observe=recorder(is_batch_of("phase1", 1)))
    with pytest.raises(KeyboardInterrupt):
        phases.run(cut)
    resumed = lab.session(recipe, tmp_path, seed=7)
    resumed.budget = Budget(0.001, 0.0)
    phases.run(resumed, saved=resumed.checkpoint.read())
    probe, skipped = resumed.outcomes
    assert (probe.kept, skipped.kept, skipped.epochs, skipped.out_of_time) == (True, False, 0, True)
    assert score(resumed, resumed.val).losses.mean() == pytest.approx(probe.val_loss, rel=1e-3)


def test_an_epoch_that_the_budget_cuts_short_is_said_and_not_cached(lab, tmp_path):
    """Also if it is the last one."""
    recipe = lab.recipe({"train": "head", "init": "probe", "epochs": 0}, {"policy": "all", "epochs": 1})

    def run(name, budget):
        session = replace(lab.session(recipe, tmp_path / name), results=ResultCache(tmp_path / "results", 10**8))
        session.budget = budget
        phases.run(session)
        return session.outcomes[1]

    class Ending(Budget):
        """Over with the first batch."""

        is_over = True

    short = run("short", Ending(1e9, time.perf_counter(), setup_s=0.0))
    assert (short.epochs, short.out_of_time) == (1, True)
    assert "stopped early" in short.reason
    assert not run("whole", Budget()).from_cache
    assert run("again", Budget()).from_cache


def everything(lab) -> policy.Step:
    layers = frozenset(layer.name for layer in lab.groups.layers)
    return policy.Step(1, 0, "phase1", lab.groups.names, layers, 2)


def test_tracing_the_first_batch_does_not_count_for_later_epochs(lab, tmp_path):
    session = lab.session(lab.recipe({"train": "head", "epochs": 2}), tmp_path)
    callback = BatchCallback(session, None, 4)
    callback.began_s, callback.batch_ends_s = 10.0, [16.0, 16.5, 17.0, 17.5]
    assert callback.setup_s == 5.5
    callback.batch_ends_s = [10.4, 10.9, 11.4, 11.9]
    assert callback.setup_s == 0.0
    callback.batch_ends_s = [16.0]
    assert callback.setup_s == 0.0
    phases.run(session)
    # Two epochs of three batches; the first batch is traced.
    assert 0.0 < session.budget.setup_s != DEFAULT_SETUP_S


def test_a_budget_shortens_a_step_and_resuming_keeps_it_short(lab, tmp_path, recorder):
    recipe = lab.recipe({"policy": "all", "epochs": 5})

    def limited(**options) -> object:
        session = lab.session(recipe, tmp_path / "run", **options)
        cost = session.cost_of(policy.next_step(recipe.phases, lab.groups, []))
        # At this nominal speed two epochs fit into the budget; the actual time is ample.
        session.budget = Budget(2000.0, time.perf_counter(), flops_per_second=cost.epoch_flops / 900, setup_s=0.0)
        return session

    with pytest.raises(KeyboardInterrupt):
        phases.run(limited(observe=recorder(is_batch_of("phase0", 2))))
    resumed = lab.session(recipe, tmp_path / "run", seed=7)
    phases.run(resumed, saved=resumed.checkpoint.read())
    assert resumed.outcomes[0].epochs == 2
