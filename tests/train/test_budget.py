"""The time budget on an invented clock: what fits, what is shortened, what is left out."""

import math
from dataclasses import replace

import pytest

from tlcli.recipe.fields import seconds_of
from tlcli.train.budget import Budget, StepCost
from tlcli.train.policy import Step

STEP = Step(1, 0, "thaw 1", ("top",), frozenset({"top_conv"}), 10)
# At a million operations a second: 2 s before, 4 s an epoch.
WORK = StepCost(2e6, 4e6)


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def budget(total_s: float, *, spent_s: float = 0.0) -> Budget:
    clock = Clock()
    made = Budget(total_s, clock(), flops_per_second=1e6, setup_s=1.0, clock=clock)
    clock.now += spent_s
    return made


@pytest.mark.parametrize(
    ("left_s", "epochs"), [(1000.0, 10), (43.0, 10), (42.9, 9), (11.0, 2), (7.0, 1), (6.9, None), (-5.0, None)]
)
def test_as_many_epochs_as_fit(left_s, epochs):
    made = budget(10_000.0, spent_s=10_000.0 - 60.0 - left_s)
    assert made.left_s == pytest.approx(left_s)
    step, why = made.fit(STEP, WORK)
    assert (step.epochs if step else None) == epochs
    assert bool(why) == (step is None)
    if step is None:
        assert why == f"not tried: one epoch of it takes about 7 s, and {max(left_s, 0):.0f} s of the budget are left"


def test_the_first_step_is_given_an_epoch_in_any_case():
    step, why = budget(10.0, spent_s=500.0).fit(STEP, WORK, is_first=True)
    assert (step.epochs, why) == (1, "")


def test_without_a_budget_everything_fits():
    made = Budget()
    assert made.fit(STEP, StepCost(1e30, 1e30)) == (STEP, "")
    assert not made.is_over
    assert not made.would_exceed(1e12)
    assert math.isinf(made.left_s)


def test_a_step_without_epochs_costs_nothing():
    probe = Step(0, 0, "head", (), frozenset(), 0)
    assert budget(10.0, spent_s=500.0).fit(probe, WORK) == (probe, "")


@pytest.mark.parametrize(("total_s", "reserve_s"), [(10.0, 3.0), (100.0, 10.0), (6000.0, 60.0)])
def test_some_time_is_kept_for_the_end(total_s, reserve_s):
    made = budget(total_s)
    assert made.left_s == total_s - reserve_s
    assert not made.would_exceed(total_s - reserve_s)
    assert made.would_exceed(total_s - reserve_s + 0.1)
    made.clock.now += total_s - reserve_s
    assert made.is_over


def test_costs_are_those_measured_last():
    made = budget(10_000.0)
    made.note_pass(3e6, 1.0)
    made.note_epoch(4e6, 40.0)
    made.clock.now += 10_000.0 - 60.0 - 100.0
    # 1 s to set up, two thirds of a second before, 40 s an epoch.
    assert made.fit(STEP, WORK)[0].epochs == 2
    # Nothing was computed, since all of it was stored: nothing is learnt.
    made.note_pass(0.0, 1.0)
    made.note_epoch(0.0, 1.0)
    assert (made.flops_per_second, made.trained_flops_per_second) == (3e6, 1e5)


def test_what_the_first_epoch_took_to_set_up_is_no_part_of_the_others():
    made = budget(10_000.0)
    made.note_epoch(4e6, 8.0, 5.0)
    made.note_epoch(4e6, 4.0)
    made.clock.now += 10_000.0 - 60.0 - 100.0
    # 5 s to set up, 2 s before, 4 s an epoch.
    assert made.setup_s == 5.0
    assert made.fit(replace(STEP, epochs=99), WORK)[0].epochs == 23


def test_what_was_spent_before_counts():
    made = replace(budget(100.0, spent_s=20.0), spent_s=30.0)
    assert (made.taken_s, made.left_s) == (50.0, 100.0 - 10.0 - 50.0)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("10m", 600.0), ("2 h", 7200.0), ("1.5m", 90.0)])
def test_times_as_people_write_them(text, seconds):
    assert seconds_of(text) == seconds
