"""What to do next, from the errors on training and validation images: bias, variance, both or neither."""

import json
import math
import shlex
from collections.abc import Collection
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from tlcli.recipe import load
from tlcli.recipe.schema import RANDOM
from tlcli.report.comparison import differences
from tlcli.report.record import RunRecord
from tlcli.zoo import catalogue

Diagnosis = Literal["bias", "variance", "both", "neither"]
# Share of wrong answers on the training images from which on the network is too weak for them.
MUCH_ERROR = 0.05
# Difference to the validation images, in shares and in standard errors, from which on it does not carry over.
MUCH_GAP, SURE_GAP = 0.05, 2.0
# Images a class below which more of them are the first thing to ask for.
FEW_IMAGES = 100
# Classes that are named.
SHOWN = 3
# Networks of more and more capacity, and how many times as many parameters count as more.
LARGER, MUCH_LARGER = ("resnet50", "efficientnet_v2_m", "convnext_large"), 2
# Sections of a recipe that are about the images and the network, and hold for other recipes, too.
CARRIED = ("data", "model", "augment", "seed")


@dataclass(frozen=True)
class Suggestion:
    """Something to do, and the command for it where there is one."""

    what: str
    command: str = ""


@dataclass(frozen=True)
class Advice:
    """The diagnosis in a word and in a sentence, and what to do, most promising first."""

    diagnosis: Diagnosis
    because: str
    suggestions: tuple[Suggestion, ...]

    def to_json(self) -> dict[str, Any]:
        """What run.json holds of it."""
        return asdict(self)


def without_recipes(found: dict[str, Any] | None, recipes: Collection[str]) -> dict[str, Any] | None:
    """The JSON shape of some advice without what comes to one of these recipes, as it is."""
    if found is None:
        return None

    def is_new(suggestion: dict[str, Any]) -> bool:
        words = shlex.split(suggestion["command"])
        return not any(one == "--recipe" and other in recipes for one, other in pairwise(words))

    return found | {"suggestions": [each for each in found["suggestions"] if is_new(each)]}


def advise(note: RunRecord, run: Path) -> Advice | None:
    """Diagnose a run whose scores are noted, and say what may help; None without validation images.

    High bias: many training images are wrong. High variance: clearly more validation images than training images are,
    by more than chance explains.
    """
    if not {"train", "val"} <= note.scores.keys():
        return None
    train, val = 1 - note.scores["train"]["accuracy"], 1 - note.scores["val"]["accuracy"]
    count = note.scores["val"]["count"]
    # Even where no image, or every one, was wrong, the next may be otherwise.
    chance = math.sqrt(max(val * (1 - val), 1 / (4 * count)) / count)
    has_bias = train >= MUCH_ERROR
    has_variance = val - train >= max(MUCH_GAP, SURE_GAP * chance)
    because = (
        f"{train:.1%} of the training images and {val:.1%} of the validation images are wrong"
        f" (the latter give or take {chance:.1%})"
    )
    asked = _Asked(note, run)
    found = [*(_against_bias(asked) if has_bias else ()), *(_against_variance(asked) if has_variance else ())]
    found = found or _when_well(asked, chance)
    if asked.is_short_of_time:
        found.insert(0, Suggestion("give it the time it needs: the budget cut it short", asked.again()))
    # What helps against both stands once.
    unique = {suggestion.command or suggestion.what: suggestion for suggestion in reversed(found)}
    return Advice(_DIAGNOSES[has_bias, has_variance], because, tuple(reversed(unique.values())))


_DIAGNOSES: dict[tuple[bool, bool], Diagnosis] = {
    (True, True): "both",
    (True, False): "bias",
    (False, True): "variance",
    (False, False): "neither",
}


@dataclass(frozen=True)
class _Asked:
    """A run, and commands that begin where it did."""

    note: RunRecord
    run: Path

    @property
    def phases(self) -> list[dict[str, Any]]:
        """The phases of the recipe."""
        return list(self.note.recipe["phases"])

    @property
    def last(self) -> int:
        """Index of the last phase of the recipe."""
        return len(self.phases) - 1

    @property
    def is_all_tried(self) -> bool:
        """Whether a step trained every layer group, kept or not."""
        return any(
            phase["epochs"] and phase["trained_groups"] == self.note.model["groups"] for phase in self.note.phases
        )

    @property
    def cut_short(self) -> int | None:
        """Index of the phase of the last kept step, if that was still getting better when it ended."""
        kept = [phase for phase in self.note.phases if phase["kept"] and phase["epochs"]]
        if not kept or kept[-1]["best_epoch"] < kept[-1]["epochs"]:
            return None
        # Steps of a phase are called as it is, most with something behind.
        name = kept[-1]["step"]
        found = [index for index, phase in enumerate(self.phases) if f"{name} ".startswith(f"{phase['name']} ")]
        return max(found, key=lambda index: len(self.phases[index]["name"]), default=None)

    @property
    def is_short_of_time(self) -> bool:
        """Whether the time budget cut steps short or left them out."""
        return any(phase["out_of_time"] for phase in self.note.phases)

    @property
    def larger(self) -> list[str]:
        """Words for `tlcli probe`: a network of more capacity, beside the run's own where its name says all of it."""
        model = self.note.recipe["model"]
        least = MUCH_LARGER * self.note.model["parameters"]
        found = next((name for name in LARGER if (catalogue.find(name).parameters or 0) >= least), None)
        own = [] if model["arguments"] or model["weights"] else [model["name"]]
        return [word for name in (*own, found) for word in ("--model", name)] if found else []

    def again(self, *settings: str) -> str:
        """The same recipe with other values, and no limit of time."""
        free = ["performance.budget=null"] if self.note.recipe["performance"]["budget"] else []
        words = [word for setting in (*settings, *free) for word in ("--set", setting)]
        return shlex.join(["tlcli", "finetune", "--recipe", str(self.run / "recipe.yaml"), *words])

    def otherwise(self, recipe: str) -> str:
        """Another recipe on the same images and network, with all that was set of them otherwise than usual."""
        own = self.note.recipe
        usual = load.load(own["name"] if own["name"] in load.names() else recipe).model_dump(mode="json")
        words = ["tlcli", "finetune", self.data, "--model", own["model"]["name"], "--recipe", recipe]
        parts = [{section: each[section] for section in CARRIED} for each in (usual, own)]
        for key, (_, now) in differences(parts).items():
            if key not in ("data.path", "model.name", "model.drop_top"):
                words += ["--set", f"{key}={_as_yaml(now)}"]
        return shlex.join(words)

    def looking(self, command: str, *words: str) -> str:
        """A command that looks at the same images."""
        exclude = self.note.recipe["data"]["exclude"]
        return shlex.join(["tlcli", command, self.data, *words, *(["--exclude", exclude] if exclude else [])])

    @property
    def data(self) -> str:
        """Where the images are."""
        return str(self.note.data["path"])


def _as_yaml(value: Any) -> str:
    """A value as `--set` reads it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _against_bias(asked: _Asked) -> list[Suggestion]:
    suggestions = []
    is_head = not any(phase["trained_groups"] for phase in asked.note.phases)
    if not asked.is_all_tried:
        recipe = "unfreeze-until-plateau" if is_head and asked.note.recipe["name"] == "head-only" else "full"
        suggestions.append(Suggestion("train more groups", asked.otherwise(recipe)))
    if (index := asked.cut_short) is not None:
        command = asked.again(f"phases.{index}.epochs={3 * int(asked.phases[index]['epochs'])}")
        suggestions.append(Suggestion("train longer: the last epoch was the best", command))
    if asked.note.recipe["augment"]["preset"] == "strong":
        suggestions.append(Suggestion("change the images less while training", asked.again("augment.preset=light")))
    if words := asked.larger:
        command = asked.looking("probe", *words)
        suggestions.append(Suggestion("see whether a larger network tells the classes apart better", command))
    return [*suggestions, Suggestion("look for wrong labels", asked.looking("check"))]


def _against_variance(asked: _Asked) -> list[Suggestion]:
    suggestions = []
    few = sorted((counts["train"], name) for name, counts in asked.note.data["per_class"].items())
    few = [(count, name) for count, name in few if count < FEW_IMAGES]
    if few:
        named = ", ".join(f"{name} ({count})" for count, name in few[:SHOWN])
        suggestions.append(Suggestion(f"add images, first of the classes that have few to learn from: {named}"))
    else:
        suggestions.append(Suggestion(f"add images, first of the classes that are found least: {_weakest(asked)}"))
    is_head = not any(phase["kept"] and phase["trained_groups"] for phase in asked.note.phases)
    if is_head:
        if not any(phase["trained_groups"] for phase in asked.note.phases):
            command = asked.otherwise("unfreeze-until-plateau")
            suggestions.append(Suggestion("let the network learn from the images, too", command))
        elif not any(phase["policy"] == "depth_search" for phase in asked.phases):
            command = asked.otherwise("depth-search")
            suggestions.append(Suggestion("see whether the network does better without its top", command))
        return suggestions
    if asked.note.recipe["augment"]["preset"] in ("none", "light"):
        epochs = f"phases.{asked.last}.epochs={max(8, int(asked.phases[asked.last]['epochs']))}"
        command = asked.again("augment.preset=strong", "augment.views=4", epochs)
        suggestions.append(Suggestion("change the images more while training", command))
    if not asked.phases[asked.last]["l2_sp"] and asked.note.recipe["model"]["weights"] != RANDOM:
        command = asked.again(f"phases.{asked.last}.l2_sp=0.01")
        suggestions.append(Suggestion("hold the weights near the pretrained ones", command))
    return suggestions


def _when_well(asked: _Asked, chance: float) -> list[Suggestion]:
    """Nothing is clearly wrong: what is left is the weakest classes, and knowing it better."""
    suggestions = []
    if asked.note.scores["val"]["accuracy"] < 1:
        suggestions.append(Suggestion(f"add images of the classes that are found least: {_weakest(asked)}"))
    if chance > MUCH_GAP / 2:
        suggestions.append(Suggestion("add images: with so few to validate by, the numbers may be luck"))
    return suggestions or [Suggestion("nothing: every validation image is right")]


def _weakest(asked: _Asked) -> str:
    recalls = [(each["recall"], each["name"]) for each in asked.note.scores["val"]["per_class"] if each["support"]]
    return ", ".join(f"{name} ({recall:.0%})" for recall, name in sorted(recalls)[:SHOWN] if recall < 1)
