"""`lr: find`: the range test, its rate in training, checkpoints and cached results."""

from dataclasses import replace

import numpy as np
import pytest

from tlcli.cache.results import ResultCache
from tlcli.recipe.optimizer import OptimizerSpec
from tlcli.train import checkpoint, lr_range, phases
from tlcli.train.cached_results import step_key
from tlcli.train.compile import prepare_step
from tlcli.train.events import BatchDone, EpochDone, Noticed
from tlcli.train.lr_range import BATCHES, HIGHEST, LOWEST, range_test
from tlcli.train.pace import pace_of
from tlcli.train.policy import next_step

FOUND = {"train": "head", "lr": "find", "epochs": 2}


class Bowl:
    """Gradient descent on w² / 2 from 1, which diverges at rates above 2, in the shape of a trainee."""

    def __init__(self) -> None:
        self.optimizer, self.weight, self.losses = self, 1.0, []

    def reset_metrics(self) -> None:
        pass

    def train_on_batch(self, batch: int, return_dict: bool) -> dict[str, float]:
        self.losses.append(self.weight**2 / 2)
        self.weight -= self.learning_rate * self.weight
        return {"loss": self.losses[-1]}


def test_the_rate_is_a_tenth_of_that_of_the_lowest_smoothed_loss():
    bowl = Bowl()
    found = range_test(bowl, ((number,) for number in range(1000)))
    assert len(bowl.losses) <= BATCHES
    ratios = np.diff(np.log(found.rates))
    np.testing.assert_allclose(ratios, np.log(HIGHEST / LOWEST) / (BATCHES - 1), rtol=1e-6)
    weights = 0.8 ** np.arange(len(found.rates))
    for number, smoothed in enumerate(found.losses):
        window = weights[: number + 1][::-1]
        assert smoothed == pytest.approx(window @ bowl.losses[: number + 1] / window.sum())
    assert found.lr == pytest.approx(0.1 * found.rates[int(np.argmin(found.losses))], rel=0.05)
    assert 0.01 < found.lr < 2


def test_a_loss_that_is_not_finite_ends_the_test():
    bowl = Bowl()
    bowl.weight = float("nan")
    assert range_test(bowl, ((number,) for number in range(9))) == lr_range.LrRange(LOWEST, [], [])


@pytest.fixture(scope="module")
def recipe(lab):
    return lab.recipe(FOUND, {"train": "head", "lr": 0.5}, optimizer={"name": "adam", "schedule": "cosine"})


@pytest.fixture(scope="module")
def found(lab, recipe, recorder, tmp_path_factory):
    """A finished session, its events, and the rates of its batches."""
    record, rates = recorder(), []
    session = lab.session(recipe, tmp_path_factory.mktemp("run"))
    session.results = ResultCache(tmp_path_factory.mktemp("results"), 10**8)

    def observe(event) -> None:
        record(event)
        if isinstance(event, EpochDone):
            rates.extend(pace_of(session.stage.trainee.optimizer).rates.numpy()[:3])

    session.observe = observe
    phases.run(session)
    return session, record, rates


def test_the_phase_trains_at_the_rate_that_was_found(found):
    session, record, rates = found
    ((name, result),) = session.lr_ranges.items()
    assert name == "phase0"
    assert 1e-5 < result.lr < 1
    expected = [result.lr * 0.5 * (1 + np.cos(np.pi * batch / 6)) for batch in range(6)]
    np.testing.assert_allclose(rates[:6], expected, rtol=1e-5)
    assert rates[6] == pytest.approx(0.5)
    (notice,) = [event for event in record.of(Noticed) if "range test" in event.message]
    assert notice.message == f"phase0: learning rate {result.lr:g}, by a range test of {len(result.rates)} batches"


def test_a_range_test_changes_no_weight_and_repeats(lab, recipe, found, tmp_path):
    session = lab.session(recipe, tmp_path)
    before = [array.tobytes() for array in checkpoint.copy_values(session.classifier.model.weights)]
    prepare_step(session, next_step(recipe.phases, lab.groups, []))
    assert [array.tobytes() for array in checkpoint.copy_values(session.classifier.model.weights)] == before
    assert session.lr_ranges == found[0].lr_ranges


def test_a_run_that_goes_on_does_not_search_again(lab, recipe, found, recorder, tmp_path):
    stop = recorder(lambda event: isinstance(event, BatchDone) and event.epoch == 2)
    broken = lab.session(recipe, tmp_path, observe=stop)
    with pytest.raises(KeyboardInterrupt):
        phases.run(broken)
    record = recorder()
    resumed = lab.session(recipe, tmp_path, observe=record, seed=5)
    phases.run(resumed, saved=resumed.checkpoint.read())
    assert not record.of(Noticed)
    assert resumed.lr_ranges == found[0].lr_ranges
    for left, right in zip(
        *(checkpoint.copy_values(run.classifier.model.weights) for run in (resumed, found[0])), strict=True
    ):
        assert left.tobytes() == right.tobytes()


def test_cached_results_bring_the_rate_along(lab, recipe, found, tmp_path):
    session = lab.session(recipe, tmp_path)
    session.results = found[0].results
    phases.run(session)
    assert [outcome.from_cache for outcome in session.outcomes] == [True, True]
    assert session.lr_ranges == found[0].lr_ranges


CHANGES = [
    {"ema": 0.9}, {"accumulate": 2}, {"clip_norm_each": 1.0}, {"beta_1": 0.8}, {"schedule": "cosine_restarts"},
    {"soup": 2}, {"patience": "9 steps"}, {"batch_norm_momentum": 0.5, "batch_norm": "train"},
    {"spatial_dropout": 0.1}, {"input_dropout": 0.1},
]  # fmt: skip


def test_every_key_belongs_to_the_key_of_cached_results(lab, tmp_path):
    def key(optimizer=None, phase=None, head=None) -> str:
        named = {"train": "top:1", **(phase or {})}
        built = lab.recipe(
            named, optimizer={"name": "adam", **(optimizer or {})}, head={"dropout": 0.0, **(head or {})}
        )
        session = replace(base, recipe=built)
        return step_key(session, next_step(built.phases, lab.groups, []))

    base = lab.session(lab.recipe({"train": "top:1"}, optimizer={"name": "adam"}), tmp_path)
    keys = {key()}
    for change in CHANGES:
        section = "optimizer" if next(iter(change)) in OptimizerSpec.model_fields else "phase"
        section = "head" if "dropout" in next(iter(change)) else section
        keys.add(key(**{section: change}))
    assert len(keys) == 1 + len(CHANGES)
