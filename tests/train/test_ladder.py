"""The ladder of `quality: best`: which rung follows, and which runs become one classifier."""

import numpy as np
import pytest

from tlcli.recipe.load import load
from tlcli.train import ladder
from tlcli.train.ensemble_choice import choose, mean
from tlcli.train.ladder import Climbed, Rung

COUNT = 200


def climbed(name: str, settings: tuple[str, ...] = (), *, loss: float = 0.5, learnable: bool = True) -> Climbed:
    """A rung with a fifth of the answers wrong, less certain than the right ones if the errors are learnable."""
    hits = [0.0 if number % 5 == 0 else 1.0 for number in range(COUNT)]
    certainties = [0.4 if learnable and not hit else 0.9 - number / 1000 for number, hit in enumerate(hits)]
    losses = [loss + 0.001 * number for number in range(COUNT)]
    return Climbed(Rung(name, "", settings), losses, hits, certainties, (224, 224), 10.0)


def names_of(recipe_settings: tuple[str, ...] = (), **options: object) -> list[str]:
    """The rungs if none is better than the first."""
    recipe, done = load("unfreeze-until-plateau", settings=recipe_settings), []
    while rung := ladder.next_rung(recipe, done, **options):
        done.append(climbed(rung.name, rung.settings))
    return [one.rung.name for one in done]


def test_every_rung_is_tried_once() -> None:
    assert names_of() == ["balanced", "larger", "longer", "again-1"]
    assert names_of(("data.size=[96, 96]",)) == ["balanced", "longer", "again-1"], "a chosen size is kept"
    assert names_of(networks=["efficientnet_lite2"])[:3] == ["balanced", "efficientnet_lite2", "larger"]
    assert names_of(left_out=["larger"]) == ["balanced", "longer", "again-1"]


def test_a_budget_is_used_up() -> None:
    assert names_of(("performance.budget=10m",), left_s=100.0)[-1] == f"again-{ladder.MOST_REPEATS}"
    assert names_of(("performance.budget=10m",), left_s=4.0) == ["balanced"], "too little for half a rung of 10 s"


@pytest.mark.parametrize("nothing", ["no error", "errors like chance"])
def test_the_ladder_ends_where_nothing_is_to_be_found(nothing: str) -> None:
    first = climbed("balanced", learnable=nothing == "no error")
    if nothing == "no error":
        first = Climbed(first.rung, first.losses, [1.0] * COUNT, first.certainties, first.size, first.seconds)
    assert ladder.next_rung(load("unfreeze-until-plateau"), [first]) is None


def test_the_next_rung_starts_from_the_best() -> None:
    recipe = load("unfreeze-until-plateau")
    larger = ("quality=balanced", "data.size=[320, 320]")
    done = [climbed("balanced", ("quality=balanced",)), climbed("larger", larger, loss=0.4)]
    assert ladder.next_rung(recipe, done).settings[:2] == larger
    assert "start here" in ladder.verdict(done[0], done[1])
    done[1] = climbed("larger", larger, loss=0.6)
    assert ladder.next_rung(recipe, done).settings[:1] == ("quality=balanced",)
    assert "data.size" not in " ".join(ladder.next_rung(recipe, done).settings)
    assert "not better than balanced" in ladder.verdict(done[0], done[1])


def test_every_rung_is_a_valid_recipe() -> None:
    recipe, done = load("unfreeze-until-plateau"), []
    while rung := ladder.next_rung(recipe, done):
        changed = load("unfreeze-until-plateau", settings=rung.settings)
        assert changed.quality == "balanced"
        done.append(climbed(rung.name, rung.settings))
    assert changed.seed == 1
    assert load("unfreeze-until-plateau", settings=done[2].rung.settings).phases[1].epochs == [4, ladder.LONG_ROUND]


def probabilities(signal: float, seed: int) -> np.ndarray:
    """Probabilities of three classes, right by chance and by so much signal; the noise depends on the seed."""
    logits = np.random.default_rng(seed).normal(0, 1, (COUNT, 3))
    logits[np.arange(COUNT), np.arange(COUNT) % 3] += signal
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_runs_join_the_result_as_long_as_the_mean_gets_better() -> None:
    labels = np.arange(COUNT) % 3
    runs = [probabilities(2.0, 1), probabilities(2.0, 2), probabilities(0.0, 3), probabilities(2.0, 1)]
    choice = choose(runs, labels, first=0)
    assert choice.members == (0, 1), "neither one that knows nothing nor the same again"
    joined = mean([runs[0], runs[1]])
    assert (joined.argmax(axis=1) == labels).mean() > (runs[0].argmax(axis=1) == labels).mean()
    assert choice.scores.hits.mean() == (joined.argmax(axis=1) == labels).mean()


def test_a_run_alone_is_the_result_if_no_other_helps() -> None:
    assert choose([probabilities(2.0, 1), probabilities(0.0, 2)], np.arange(COUNT) % 3, first=0).members == (0,)
