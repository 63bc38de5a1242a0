"""The time budget on a fake clock: steps that fit, are shortened, or are left out."""

import math
from dataclasses import replace

import pytest

from tlcli.recipe.fields import seconds_of
from tlcli.train.budget import Budget, StepCost
from tlcli.train.policy import Step

STEP = Step(1, 0, "unfreeze 1", ("top",), frozenset({"top_conv"}), 10)
# At a million multiply-adds per second: 2 s before the first epoch, 4 s per epoch.
COST = StepCost(setup_flops=2e6, epoch_flops=4e6)


class Clock:
    """A clock that moves only when it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_budget(total_s: float, *, spent_s: float = 0.0) -> Budget:
    clock = Clock()
    budget = Budget(total_s, clock(), flops_per_second=1e6, setup_s=1.0, clock=clock)
    clock.now += spent_s
    return budget


@pytest.mark.parametrize(
    ("left_s", "epochs"), [(1000.0, 10), (43.0, 10), (42.9, 9), (11.0, 2), (7.0, 1), (6.9, None), (-5.0, None)]
)
def test_a_step_keeps_as_many_epochs_as_fit(left_s, epochs):
    budget = make_budget(10_000.0, spent_s=10_000.0 - 60.0 - left_s)
    assert budget.left_s == pytest.approx(left_s)
    step, reason = budget.shorten(STEP, COST)
    assert (step.epochs if step else None) == epochs
    assert bool(reason) == (step is None)
    if step is None:
        assert reason == f"skipped: one epoch takes about 7 s ({max(left_s, 0):.0f} s of the budget left)"


def test_the_first_step_always_keeps_one_epoch():
    step, reason = make_budget(10.0, spent_s=500.0).shorten(STEP, COST, is_first=True)
    assert (step.epochs, reason) == (1, "")


def test_without_a_budget_everything_fits():
    budget = Budget()
    assert budget.shorten(STEP, StepCost(1e30, 1e30)) == (STEP, "")
    assert not budget.is_over
    assert not budget.would_exceed(1e12)
    assert math.isinf(budget.left_s)


def test_a_step_without_epochs_costs_nothing():
    probe = Step(0, 0, "head", (), frozenset(), 0)
    assert make_budget(10.0, spent_s=500.0).shorten(probe, COST) == (probe, "")


@pytest.mark.parametrize(("total_s", "reserve_s"), [(10.0, 3.0), (100.0, 10.0), (6000.0, 60.0)])
def test_time_is_reserved_for_scoring_and_saving(total_s, reserve_s):
    budget = make_budget(total_s)
    assert budget.left_s == total_s - reserve_s
    assert not budget.would_exceed(total_s - reserve_s)
    assert budget.would_exceed(total_s - reserve_s + 0.1)
    budget.clock.now += total_s - reserve_s
    assert budget.is_over


def test_the_latest_measured_speed_is_used():
    budget = make_budget(10_000.0)
    budget.record_pass(3e6, 1.0)
    budget.record_epoch(4e6, 40.0)
    budget.clock.now += 10_000.0 - 60.0 - 100.0
    # 1 s to build, two thirds of a second of multiply-adds before the first epoch, 40 s per epoch.
    assert budget.shorten(STEP, COST)[0].epochs == 2
    # With everything read from the cache, nothing was computed, so the speed stays as it is.
    budget.record_pass(0.0, 1.0)
    budget.record_epoch(0.0, 1.0)
    assert (budget.flops_per_second, budget.trained_flops_per_second) == (3e6, 1e5)


def test_setup_time_is_counted_once_per_step():
    budget = make_budget(10_000.0)
    budget.record_epoch(4e6, 8.0, 5.0)
    budget.record_epoch(4e6, 4.0)
    budget.clock.now += 10_000.0 - 60.0 - 100.0
    # 5 s to build, 2 s of multiply-adds before the first epoch, 4 s per epoch.
    assert budget.setup_s == 5.0
    assert budget.shorten(replace(STEP, epochs=99), COST)[0].epochs == 23


def test_time_spent_before_an_interruption_counts():
    budget = replace(make_budget(100.0, spent_s=20.0), spent_s=30.0)
    assert (budget.taken_s, budget.left_s) == (50.0, 100.0 - 10.0 - 50.0)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("10m", 600.0), ("2 h", 7200.0), ("1.5m", 90.0)])
def test_durations_are_read_with_their_units(text, seconds):
    assert seconds_of(text) == seconds
