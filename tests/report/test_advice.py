"""The advice at the end of a run: the diagnosis from two error rates, and commands that can be typed as they are."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.report import advice, record


@pytest.fixture
def note(finished: tuple) -> Callable[..., record.RunRecord]:
    """The record of the finished run with other error rates."""

    def make(train_error: float, val_error: float, count: int = 400, **augment: object) -> record.RunRecord:
        found = record.read(finished[0])
        found.scores["train"] |= {"accuracy": 1 - train_error}
        found.scores["val"] |= {"accuracy": 1 - val_error, "count": count}
        found.recipe["augment"] |= augment
        return found

    return make


@pytest.mark.parametrize(
    ("train_error", "val_error", "count", "diagnosis"),
    [
        (0.00, 0.02, 400, "neither"),
        (0.04, 0.08, 400, "neither"),
        (0.10, 0.12, 400, "bias"),
        (0.01, 0.15, 400, "variance"),
        (0.10, 0.30, 400, "both"),
        # One of ten wrong images more says nothing.
        (0.00, 0.10, 10, "neither"),
        (0.00, 0.00, 10, "neither"),
        (0.20, 0.10, 400, "bias"),
    ],
)
def test_the_diagnosis(note: Callable, train_error: float, val_error: float, count: int, diagnosis: str) -> None:
    found = advice.advise(note(train_error, val_error, count), Path("run"))
    assert found is not None
    assert found.diagnosis == diagnosis
    assert f"{train_error:.1%} of the training images and {val_error:.1%} of the validation images" in found.because
    assert found.suggestions


def test_without_validation_images_there_is_no_advice(note: Callable) -> None:
    found = note(0.1, 0.1)
    del found.scores["val"]
    assert advice.advise(found, Path("run")) is None


@pytest.mark.parametrize(
    ("errors", "preset"),
    [((0.3, 0.3), "strong"), ((0.0, 0.3), "light"), ((0.3, 0.6), "none"), ((0.0, 0.0), "light")],
)
def test_every_command_can_be_typed(
    errors: tuple[float, float], preset: str, note: Callable, finished: tuple, tlcli: Callable, tmp_path: Path
) -> None:
    found = advice.advise(note(*errors, preset=preset), finished[0])
    assert found is not None
    for suggestion in found.suggestions:
        if not suggestion.command:
            continue
        words = shlex.split(suggestion.command)
        assert words[0] == "tlcli"
        if words[1] == "finetune":
            said = tlcli("plan", *words[2:], "--json")
            assert said.code == 0, said.stderr
        else:
            assert tlcli(words[1], "--help").code == 0
            assert Path(words[2]).is_dir()


def test_high_variance_names_the_classes_with_few_images(note: Callable) -> None:
    found = advice.advise(note(0.0, 0.3), Path("run"))
    assert found is not None
    assert "few to learn from: " in found.suggestions[0].what
    assert "blue (" in found.suggestions[0].what


def test_a_run_keeps_its_advice(finished: tuple) -> None:
    found = record.read(finished[0])
    assert found.scores["train"]["count"] == found.data["counts"]["train"]
    expected = advice.advise(found, finished[0])
    assert expected is not None
    assert found.advice == json.loads(json.dumps(expected.to_json()))


def commands(found: record.RunRecord) -> list[str]:
    suggested = advice.advise(found, Path("run"))
    assert suggested is not None
    return [suggestion.command for suggestion in suggested.suggestions if suggestion.command]


def test_what_was_tried_is_not_advised_again(note: Callable) -> None:
    biased = note(0.3, 0.3)
    biased.phases = [step(biased, "all", groups=biased.model["groups"][-1:])]
    assert any("--recipe full" in command for command in commands(biased))
    biased.phases = [step(biased, "all", kept=False)]
    assert not any("--recipe full" in command for command in commands(biased))
    varied = note(0.0, 0.3)
    varied.phases = [step(varied, "all", kept=False)]
    assert any("--recipe depth-search" in command for command in commands(varied))
    varied.recipe["phases"][0]["policy"] = "depth_search"
    assert not any("--recipe depth-search" in command for command in commands(varied))


def step(note: record.RunRecord, name: str, *, groups: list[str] | None = None, **facts: object) -> dict[str, object]:
    """A line of phases.jsonl."""
    trained = note.model["groups"] if groups is None else groups
    line = {"step": name, "trained_groups": trained, "epochs": 4, "best_epoch": 2, "kept": True, "out_of_time": False}
    return line | facts


def test_the_phase_that_was_cut_short_is_made_longer(note: Callable) -> None:
    found = note(0.3, 0.3)
    phase = found.recipe["phases"][0]
    found.recipe["phases"] = [
        phase | {"name": name, "epochs": epochs} for name, epochs in (("head", 5), ("head up", 7))
    ]
    for name, best, setting in (
        ("head", 4, "phases.0.epochs=15"),
        ("head up 2", 4, "phases.1.epochs=21"),
        ("head", 3, ""),
    ):
        found.phases = [step(found, name, best_epoch=best), step(found, "head up 3", kept=False)]
        longer = [command for command in commands(found) if ".epochs=" in command]
        assert [command.split("--set ")[1] for command in longer] == ([setting] if setting else [])


def test_a_larger_network_is_larger_and_the_own_one_is_the_own_one(note: Callable) -> None:
    found = note(0.3, 0.3)
    found.data["path"], found.recipe["data"]["exclude"] = "photos", "bad.txt"
    found.recipe["model"] |= {"name": "mobilenet_v2", "arguments": {}, "weights": None}
    for parameters, larger in ((2e6, "resnet50"), (24e6, "efficientnet_v2_m"), (90e6, "convnext_large")):
        found.model["parameters"] = parameters
        assert f"tlcli probe photos --model mobilenet_v2 --model {larger} --exclude bad.txt" in commands(found)
    found.model["parameters"] = 3e8
    assert not any("probe" in command for command in commands(found))
    assert "tlcli check photos --exclude bad.txt" in commands(found)
    found.model["parameters"] = 2e6
    found.recipe["model"]["arguments"] = {"alpha": 0.35}
    assert "tlcli probe photos --model resnet50 --exclude bad.txt" in commands(found)


def test_nothing_is_held_near_weights_that_were_random(note: Callable) -> None:
    found = note(0.0, 0.3)
    found.phases = [step(found, "all")]
    found.recipe["model"]["weights"] = "weights.h5"
    assert any("l2_sp" in command for command in commands(found))
    found.recipe["model"]["weights"] = "random"
    assert not any("l2_sp" in command for command in commands(found))


def test_the_largest_classes_do_not_count_as_few(note: Callable) -> None:
    found = note(0.0, 0.3)
    found.data["per_class"] = {name: {"train": 500, "val": 50, "test": 50} for name in found.data["per_class"]}
    suggested = advice.advise(found, Path("run"))
    assert suggested is not None
    assert "found least" in suggested.suggestions[0].what


def test_what_lacked_time_is_told_first_and_given_it(note: Callable) -> None:
    found = note(0.0, 0.3)
    assert "budget" not in str(advice.advise(found, Path("run")))
    found.phases[-1]["out_of_time"] = True
    found.recipe["performance"]["budget"] = "20s"
    suggested = advice.advise(found, Path("run"))
    assert suggested is not None
    assert suggested.suggestions[0].command == ("tlcli finetune --recipe run/recipe.yaml --set performance.budget=null")


def test_recipes_that_were_compared_are_not_advised() -> None:
    commands = ["tlcli finetune x --recipe unfreeze-until-plateau --model mobilenet_synthetic", "tlcli probe x", ""]
    found = {"diagnosis": "bias", "because": "", "suggestions": [{"what": "", "command": each} for each in commands]}
    left = advice.without_recipes(found, ["head-only", "unfreeze-until-plateau"])
    assert left is not None
    assert [each["command"] for each in left["suggestions"]] == commands[1:]
    assert advice.without_recipes(found, ["full"]) == found
    assert advice.without_recipes(None, ["full"]) is None
