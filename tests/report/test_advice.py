"""Advice: the diagnosis from two error rates, and commands that work as they are."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.report import advice, record


@pytest.fixture
def run(finished: tuple) -> Callable[..., record.RunRecord]:
    """Makes the record of the finished run with other error rates."""

    def make(train_error: float, val_error: float, count: int = 400, **augment: object) -> record.RunRecord:
        changed = record.read(finished[0])
        changed.scores["train"] |= {"accuracy": 1 - train_error}
        changed.scores["val"] |= {"accuracy": 1 - val_error, "count": count}
        changed.recipe["augment"] |= augment
        return changed

    return make


@pytest.mark.parametrize(
    ("train_error", "val_error", "count", "diagnosis"),
    [
        (0.00, 0.02, 400, "neither"),
        (0.04, 0.08, 400, "neither"),
        (0.10, 0.12, 400, "bias"),
        (0.01, 0.15, 400, "variance"),
        (0.10, 0.30, 400, "both"),
        # One wrong image in ten is within chance.
        (0.00, 0.10, 10, "unclear"),
        (0.00, 0.67, 3, "unclear"),
        (0.00, 0.00, 10, "unclear"),
        (0.20, 0.10, 400, "bias"),
    ],
)
def test_the_diagnosis(run: Callable, train_error: float, val_error: float, count: int, diagnosis: str) -> None:
    result = advice.advise(run(train_error, val_error, count), Path("run"))
    assert result is not None
    assert result.diagnosis == diagnosis
    few = f"{count} validation images do not tell; " if diagnosis == "unclear" else ""
    assert result.because.startswith(f"{few}error rate {train_error:.1%} on training images, {val_error:.1%} on val")
    assert re.search(r"images \(95 % interval \d+% to \d+%\)$", result.because)
    assert result.suggestions


def test_without_validation_images_there_is_no_advice(run: Callable) -> None:
    unvalidated = run(0.1, 0.1)
    del unvalidated.scores["val"]
    assert advice.advise(unvalidated, Path("run")) is None


@pytest.mark.parametrize(
    ("errors", "preset"),
    [((0.3, 0.3), "strong"), ((0.0, 0.3), "light"), ((0.3, 0.6), "none"), ((0.0, 0.0), "light")],
)
def test_every_command_works_as_it_is(
    errors: tuple[float, float], preset: str, run: Callable, finished: tuple, tlcli: Callable, tmp_path: Path
) -> None:
    result = advice.advise(run(*errors, preset=preset), finished[0])
    assert result is not None
    for suggestion in result.suggestions:
        if not suggestion.command:
            continue
        words = shlex.split(suggestion.command)
        assert words[0] == "tlcli"
        if words[1] == "finetune":
            plan = tlcli("plan", *words[2:], "--json")
            assert plan.code == 0, plan.stderr
        else:
            assert tlcli(words[1], "--help").code == 0
            assert Path(words[2]).is_dir()


def test_high_variance_names_the_classes_with_few_images(run: Callable) -> None:
    result = advice.advise(run(0.0, 0.3), Path("run"))
    assert result is not None
    assert "classes with few training images: " in result.suggestions[0].what
    assert "blue (" in result.suggestions[0].what


def test_run_json_has_the_advice(finished: tuple) -> None:
    saved = record.read(finished[0])
    assert saved.scores["train"]["count"] == saved.data["counts"]["train"]
    expected = advice.advise(saved, finished[0])
    assert expected is not None
    assert saved.advice == json.loads(json.dumps(expected.to_json()))


def commands(run: record.RunRecord) -> list[str]:
    result = advice.advise(run, Path("run"))
    assert result is not None
    return [suggestion.command for suggestion in result.suggestions if suggestion.command]


def test_what_was_tried_is_not_suggested_again(run: Callable) -> None:
    biased = run(0.3, 0.3)
    biased.phases = [step(biased, "all", groups=biased.model["groups"][-1:])]
    assert any("--recipe full" in command for command in commands(biased))
    biased.phases = [step(biased, "all", kept=False)]
    assert not any("--recipe full" in command for command in commands(biased))
    overfitted = run(0.0, 0.3)
    overfitted.phases = [step(overfitted, "all", kept=False)]
    assert any("--recipe depth-search" in command for command in commands(overfitted))
    overfitted.recipe["phases"][0]["policy"] = "depth_search"
    assert not any("--recipe depth-search" in command for command in commands(overfitted))


def step(run: record.RunRecord, name: str, *, groups: list[str] | None = None, **values: object) -> dict[str, object]:
    """An entry of `phases` in run.json."""
    trained = run.model["groups"] if groups is None else groups
    entry = {"step": name, "trained_groups": trained, "epochs": 4, "best_epoch": 2, "kept": True, "out_of_time": False}
    return entry | values


def test_a_phase_that_was_still_improving_gets_more_epochs(run: Callable) -> None:
    biased = run(0.3, 0.3)
    phase = biased.recipe["phases"][0]
    biased.recipe["phases"] = [
        phase | {"name": name, "epochs": epochs} for name, epochs in (("head", 5), ("head up", 7))
    ]
    for name, best, setting in (
        ("head", 4, "phases.0.epochs=15"),
        ("head up 2", 4, "phases.1.epochs=21"),
        ("head", 3, ""),
    ):
        biased.phases = [step(biased, name, best_epoch=best), step(biased, "head up 3", kept=False)]
        longer = [command for command in commands(biased) if ".epochs=" in command]
        assert [command.split("--set ")[1] for command in longer] == ([setting] if setting else [])


def test_a_larger_network_is_probed_beside_the_own_one(run: Callable) -> None:
    """The own network is left out if its name does not describe it fully, as with other arguments."""
    changed = run(0.3, 0.3)
    changed.data["path"], changed.recipe["data"]["exclude"] = "photos", "bad.txt"
    changed.recipe["model"] |= {"name": "mobilenet_v2", "arguments": {}, "weights": None}
    for parameters, larger in ((2e6, "resnet50"), (24e6, "efficientnet_v2_m"), (90e6, "convnext_large")):
        changed.model["parameters"] = parameters
        assert f"tlcli probe photos --model mobilenet_v2 --model {larger} --exclude bad.txt" in commands(changed)
    changed.model["parameters"] = 3e8
    assert not any("probe" in command for command in commands(changed))
    assert "tlcli check photos --exclude bad.txt" in commands(changed)
    changed.model["parameters"] = 2e6
    changed.recipe["model"]["arguments"] = {"alpha": 0.35}
    assert "tlcli probe photos --model resnet50 --exclude bad.txt" in commands(changed)


def test_l2_sp_is_not_suggested_for_random_weights(run: Callable) -> None:
    changed = run(0.0, 0.3)
    changed.phases = [step(changed, "all")]
    changed.recipe["model"]["weights"] = "weights.h5"
    assert any("l2_sp" in command for command in commands(changed))
    changed.recipe["model"]["weights"] = "random"
    assert not any("l2_sp" in command for command in commands(changed))


def test_with_enough_images_the_classes_with_the_lowest_recall_are_named(run: Callable) -> None:
    changed = run(0.0, 0.3)
    changed.data["per_class"] = {name: {"train": 500, "val": 50, "test": 50} for name in changed.data["per_class"]}
    result = advice.advise(changed, Path("run"))
    assert result is not None
    assert "lowest recall" in result.suggestions[0].what


def test_a_run_without_the_time_budget_is_suggested_first(run: Callable) -> None:
    changed = run(0.0, 0.3)
    assert "budget" not in str(advice.advise(changed, Path("run")))
    changed.phases[-1]["out_of_time"] = True
    changed.recipe["performance"]["budget"] = "20s"
    result = advice.advise(changed, Path("run"))
    assert result is not None
    assert result.suggestions[0].command == "tlcli finetune --recipe run/recipe.yaml --set performance.budget=null"


def test_compared_recipes_are_not_suggested() -> None:
    commands = ["tlcli finetune x --recipe unfreeze-until-plateau --model mobilenet_synthetic", "tlcli probe x", ""]
    suggestions = [{"what": "", "command": command} for command in commands]
    before = {"diagnosis": "bias", "because": "", "suggestions": suggestions}
    after = advice.without_recipes(before, ["head-only", "unfreeze-until-plateau"])
    assert after is not None
    assert [suggestion["command"] for suggestion in after["suggestions"]] == commands[1:]
    assert advice.without_recipes(before, ["full"]) == before
    assert advice.without_recipes(None, ["full"]) is None


def test_features_that_do_no_better_than_guessing_suggest_a_lower_depth(run: Callable) -> None:
    blind = run(0.3, 0.6)
    blind.recipe["model"]["weights"] = None
    blind.recipe["phases"][1]["policy"] = "gradual"
    blind.phases[0] |= {"trained_groups": [], "val_loss": 1.12}
    result = advice.advise(blind, Path("run"))
    assert result is not None
    assert "--recipe depth-search" in result.suggestions[0].command
    blind.phases[0]["val_loss"] = 1.08
    seeing = advice.advise(blind, Path("run"))
    assert seeing is not None
    assert not seeing.suggestions[0].what.startswith("drop top groups"), "ln 3 is 1.0986"
