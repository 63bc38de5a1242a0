"""The study: what is pruned, what a grid queues, what an interrupted search repeats. Without Keras."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.cli.tune import _resumed
from tlcli.errors import UsageError
from tlcli.recipe import load, space
from tlcli.report.tune_page import are_alike, ranked
from tlcli.train.events import StepDone
from tlcli.train.policy import Outcome, Step
from tlcli.tune.search import Search, begin
from tlcli.tune.study import Pruner, Study, TrialPruned

RECIPE = load.load("unfreeze-until-plateau")
SPACE = space.parse("head.dropout: [0.0, 0.2, 0.4]\nphases.1.lr: {low: 1e-4, high: 1e-2, log: true}", RECIPE)
GRID = space.parse("head.dropout: [0.0, 0.2, 0.4]\nphases.1.epochs: [2, 4]", RECIPE)


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Study]:
    """Opens the study of a search, like a new process."""

    def open_study(varied: space.Space = SPACE, **asked: object) -> Study:
        search = Search(out=tmp_path / "a ?#%" / "search", **asked)
        if not search.out.exists():
            with begin(search, RECIPE, varied):
                pass
        opened = Study(search, varied)
        opened.prepare()
        return opened

    return open_study


def done(val_loss: float, *, kept: bool = True) -> StepDone:
    step = Step(0, 0, "head", (), frozenset(), 1)
    return StepDone(Outcome(step, 1, 1, 1, None, None, val_loss, 0.5, None, kept, "", 1.0))


def test_a_trial_behind_the_median_is_stopped_after_its_first_round(study: Callable) -> None:
    opened = study()
    for value in (0.5, 0.6, 0.7, 0.8, 0.9):
        trial = opened.ask()
        prune = Pruner(trial, "val_loss")
        for _ in range(3):
            prune(done(value))
        opened.end(trial, value, {"seconds": 1.0})
    good, bad = Pruner(opened.ask(), "val_loss"), Pruner(opened.ask(), "val_loss")
    for _ in range(3):
        good(done(0.65))
    # A round that was rolled back does not count.
    good(done(9.0, kept=False))
    bad(done(2.0))
    with pytest.raises(TrialPruned, match=r"2\.0000 is behind the median after step 2"):
        bad(done(2.0))


def test_a_grid_is_asked_once_and_in_full(study: Callable) -> None:
    opened = study(GRID, sampler="grid")
    asked = []
    while trial := opened.ask():
        asked.append((trial.params["head.dropout"], trial.params["phases.1.epochs"]))
        opened.end(trial, 1.0, {"seconds": 1.0})
    assert sorted(asked) == [(dropout, epochs) for dropout in ("0.0", "0.2", "0.4") for epochs in ("2", "4")]


def test_a_grid_grows_when_more_trials_are_asked_for(study: Callable) -> None:
    before, asked = study(GRID, sampler="grid", trials=2), []
    while trial := before.ask():
        asked.append(trial.params)
        before.end(trial, 1.0, {"seconds": 1.0})
    assert len(asked) == 2
    # Asked for and killed before it had its values.
    cut_off = study(GRID, sampler="grid", trials=3).study.ask()
    assert cut_off.params == {}
    after = study(GRID, sampler="grid", trials=6)
    while trial := after.ask():
        asked.append(trial.params)
        after.end(trial, 1.0, {"seconds": 1.0})
    assert len({tuple(sorted(params.items())) for params in asked}) == len(asked) == 6


def test_an_interrupted_trial_is_repeated_and_not_counted(study: Callable) -> None:
    before = study(trials=2)
    ended, cut_off = before.ask(), before.ask()
    assert before.ask() is None
    before.end(ended, 0.5, {"seconds": 1.0})
    after = study(trials=2)
    again = after.ask()
    assert again.params == cut_off.params
    after.end(again, 0.4, {"seconds": 1.0})
    assert after.ask() is None
    assert [row["state"] for row in after.rows()] == ["complete", "complete"]
    assert after.ranked() == [again.number + 1, ended.number + 1]


def test_the_accuracy_is_maximised_and_losers_are_known(study: Callable) -> None:
    opened = study(metric="val_accuracy")
    for value in (0.1, 0.5, 0.3, 0.9, 0.7):
        opened.end(opened.ask(), value, {"seconds": 1.0})
    opened.end(opened.ask(), None, {"seconds": 1.0, "message": "no"})
    assert opened.ranked() == [4, 5, 2, 3, 1]
    assert opened.losers() == [1, 3, 6]
    assert opened.rows()[-1]["message"] == "no"


def test_equal_accuracies_are_ranked_by_loss_and_equal_trials_say_nothing(study: Callable) -> None:
    opened = study(metric="val_accuracy")
    for loss in (0.3, 0.1, 0.2, 0.4):
        opened.end(opened.ask(), 0.9, {"seconds": 1.0, "val_loss": loss, "val_accuracy": 0.9})
    assert opened.ranked() == [2, 3, 1, 4]
    assert [row["trial"] for row in ranked(opened.rows(), "val_accuracy")] == [2, 3, 1, 4]
    assert opened.importance() == {}
    alike = [row | {"val_loss": 0.1} for row in opened.rows()]
    assert (are_alike(opened.rows()), are_alike(alike), are_alike(alike[:1])) == (False, True, False)


@pytest.mark.parametrize(
    ("words", "code", "device"), [({"seed": 0}, 2, None), ({"device": "cpu"}, 0, "cpu"), ({"trials": 99}, 0, "auto")]
)
def test_a_resumed_search_may_change_device_and_trials_only(
    words: dict, code: int, device: str | None, study: Callable
) -> None:
    search = study(GRID, sampler="grid", trials=2).search
    options = {"seed": None, "device": "auto", "trials": None, "jobs": None, "budget": None, "strict": False}
    options |= {"resume": search.out, "settings": (), **words}
    if code:
        with pytest.raises(UsageError, match="got --seed"):
            _resumed(options)
    else:
        resumed, _ = _resumed(options)
        assert (resumed.device, resumed.trials) == (device, 6 if "trials" in words else 2)


def test_a_key_that_decides_everything_is_the_most_important(study: Callable) -> None:
    opened = study(sampler="random")
    for _ in range(20):
        trial = opened.ask()
        opened.end(trial, float(trial.params["head.dropout"]), {"seconds": 1.0})
    shares = opened.importance()
    assert list(shares) == ["head.dropout", "phases.1.lr"]
    assert shares["head.dropout"] > 0.9
