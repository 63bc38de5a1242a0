"""Advice after a run: a diagnosis by the error rates on training and validation images, and commands that may help."""

import json
import math
import shlex
from collections.abc import Collection
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from tlcli.evaluate.reliability import wilson
from tlcli.recipe import load
from tlcli.recipe.schema import RANDOM
from tlcli.report.comparison import differences
from tlcli.report.record import RunRecord
from tlcli.text import plural
from tlcli.zoo import catalogue

Diagnosis = Literal["bias", "variance", "both", "neither", "unclear"]
# Bias is high from this error rate on the training images.
BIAS_ERROR = 0.05
# Variance is high if the error rate on the validation images is higher by this much and by this many standard errors.
VARIANCE_GAP, VARIANCE_STANDARD_ERRORS = 0.05, 2.0
# With fewer validation images, no standard error says anything.
FEW_VALIDATION_IMAGES = 10
# A class with fewer training images needs more of them first.
FEW_IMAGES = 100
# At most this many classes are named.
NAMED_CLASSES = 3
# Networks by increasing capacity. A larger network has at least this many times the parameters.
LARGER_NETWORKS, CAPACITY_FACTOR = ("resnet50", "efficientnet_v2_m", "convnext_large"), 2
# Sections of a recipe that describe images and network, and so hold for other recipes.
SHARED_SECTIONS = ("data", "model", "augment", "seed")


@dataclass(frozen=True)
class Suggestion:
    """Something to try, and the command for it, if there is one."""

    what: str
    command: str = ""


@dataclass(frozen=True)
class Advice:
    """The diagnosis, the numbers behind it, and suggestions, the most promising first.

    `unclear` is for validation images that are too few to rule out high variance.
    """

    diagnosis: Diagnosis
    because: str
    suggestions: tuple[Suggestion, ...]

    def to_json(self) -> dict[str, Any]:
        """The value of `advice` in run.json."""
        return asdict(self)


def without_recipes(advice: dict[str, Any] | None, recipes: Collection[str]) -> dict[str, Any] | None:
    """The JSON shape of an advice, without the suggestions that run one of these recipes."""
    if advice is None:
        return None

    def is_new(suggestion: dict[str, Any]) -> bool:
        words = shlex.split(suggestion["command"])
        return not any(option == "--recipe" and value in recipes for option, value in pairwise(words))

    return advice | {"suggestions": [suggestion for suggestion in advice["suggestions"] if is_new(suggestion)]}


def advise(record: RunRecord, folder: Path) -> Advice | None:
    """Diagnose a run from its recorded scores and suggest what to try next.

    Bias is high if many training images are wrong. Variance is high if the error rate on validation images is higher
    than on training images, by more than chance explains.

    Args:
        record: The record of the run, with its scores.
        folder: The run folder.

    Returns:
        The advice, or None for a run without validation images.
    """
    if not {"train", "val"} <= record.scores.keys():
        return None
    train, val = 1 - record.scores["train"]["accuracy"], 1 - record.scores["val"]["accuracy"]
    count = record.scores["val"]["count"]
    # The lower bound keeps the standard error above 0 when no image, or every image, is wrong.
    standard_error = math.sqrt(max(val * (1 - val), 1 / (4 * count)) / count)
    has_bias = train >= BIAS_ERROR
    gap = max(VARIANCE_GAP, VARIANCE_STANDARD_ERRORS * standard_error)
    has_variance = count >= FEW_VALIDATION_IMAGES and val - train >= gap
    low, high = wilson(round(val * count), count) or (0.0, 1.0)
    because = f"error rate {train:.1%} on training images, {val:.1%} on validation images"
    because += f" (95 % interval {low:.0%} to {high:.0%})"
    run = _FinishedRun(record, folder)
    suggestions = [*(_against_bias(run) if has_bias else ()), *(_against_variance(run) if has_variance else ())]
    suggestions = suggestions or _for_good_scores(run, standard_error)
    if run.is_top_blind:
        what = "drop top groups: their features tell the classes apart no better than guessing; lower ones keep colour"
        suggestions.insert(0, Suggestion(what, run.with_recipe("depth-search")))
    if run.lacked_time:
        suggestions.insert(0, Suggestion("run without the time budget, which cut training short", run.rerun()))
    # A suggestion with several reasons appears once.
    unique: dict[str, Suggestion] = {}
    for suggestion in suggestions:
        unique.setdefault(suggestion.command or suggestion.what, suggestion)
    diagnosis = _DIAGNOSES[has_bias, has_variance]
    if diagnosis == "neither" and _is_unreliable(standard_error):
        diagnosis, because = "unclear", f"{plural(count, 'validation image')} do not tell; {because}"
    return Advice(diagnosis, because, tuple(unique.values()))


_DIAGNOSES: dict[tuple[bool, bool], Diagnosis] = {
    (True, True): "both",
    (True, False): "bias",
    (False, True): "variance",
    (False, False): "neither",
}


def image_command(run: RunRecord, command: str, *words: str) -> str:
    """A command that reads the images of a run."""
    exclude = run.recipe["data"]["exclude"]
    return shlex.join(["tlcli", command, str(run.data["path"]), *words, *(["--exclude", exclude] if exclude else [])])


@dataclass(frozen=True)
class _FinishedRun:
    """A finished run, with commands that build on it."""

    record: RunRecord
    folder: Path

    @property
    def phases(self) -> list[dict[str, Any]]:
        """The phases of the recipe."""
        return list(self.record.recipe["phases"])

    @property
    def last_phase(self) -> int:
        """Index of the last phase of the recipe."""
        return len(self.phases) - 1

    def epochs_of(self, index: int) -> int:
        """The most epochs of a round of the phase at `index`."""
        epochs = self.phases[index]["epochs"]
        return max(epochs) if isinstance(epochs, list) else int(epochs)

    @property
    def has_trained_all(self) -> bool:
        """True if a step, kept or not, trained every layer group."""
        return any(
            step["epochs"] and step["trained_groups"] == self.record.model["groups"] for step in self.record.phases
        )

    @property
    def has_trained_groups(self) -> bool:
        """True if a step, kept or not, trained more than the head."""
        return any(step["trained_groups"] for step in self.record.phases)

    @property
    def improving_phase(self) -> int | None:
        """Index of the phase of the last kept step if the last epoch of that step was its best."""
        kept = [step for step in self.record.phases if step["kept"] and step["epochs"]]
        if not kept or kept[-1]["best_epoch"] < kept[-1]["epochs"]:
            return None
        # The name of a step is that of its phase, usually with a suffix.
        name = kept[-1]["step"]
        matches = [index for index, phase in enumerate(self.phases) if f"{name} ".startswith(f"{phase['name']} ")]
        return max(matches, key=lambda index: len(self.phases[index]["name"]), default=None)

    @property
    def is_top_blind(self) -> bool:
        """True if a head on the frozen pretrained network has the loss of guessing, and no depth was searched."""
        first, own = self.record.phases[0], self.record.recipe
        if first["trained_groups"] or first["val_loss"] is None or own["model"]["weights"] == RANDOM:
            return False
        is_fixed = own["data"]["folds"] or any(phase["policy"] == "depth_search" for phase in self.phases)
        return not is_fixed and first["val_loss"] >= math.log(len(self.record.data["classes"]))

    @property
    def lacked_time(self) -> bool:
        """True if the time budget shortened or skipped steps."""
        return any(step["out_of_time"] for step in self.record.phases)

    @property
    def data(self) -> str:
        """The image folder."""
        return str(self.record.data["path"])

    def network_options(self) -> list[str]:
        """Options for `tlcli probe`: a larger network, and the run's own one if its name describes it fully."""
        model = self.record.recipe["model"]
        least = CAPACITY_FACTOR * self.record.model["parameters"]
        larger = next((name for name in LARGER_NETWORKS if (catalogue.find(name).parameters or 0) >= least), None)
        own = [] if model["arguments"] or model["weights"] else [model["name"]]
        return [word for name in (*own, larger) for word in ("--model", name)] if larger else []

    def rerun(self, *settings: str) -> str:
        """The command for the same recipe with other settings and without a time budget."""
        unlimited = ["performance.budget=null"] if self.record.recipe["performance"]["budget"] else []
        words = [word for setting in (*settings, *unlimited) for word in ("--set", setting)]
        return shlex.join(["tlcli", "finetune", "--recipe", str(self.folder / "recipe.yaml"), *words])

    def with_recipe(self, recipe: str) -> str:
        """The command for another recipe on the same images and network, with the run's settings for them."""
        own = self.record.recipe
        defaults = load.load(own["name"] if own["name"] in load.names() else recipe).model_dump(mode="json")
        words = ["tlcli", "finetune", self.data, "--model", own["model"]["name"], "--recipe", recipe]
        shared = [{section: values[section] for section in SHARED_SECTIONS} for values in (defaults, own)]
        for key, (_, value) in differences(shared).items():
            if key not in ("data.path", "model.name", "model.drop_top"):
                words += ["--set", f"{key}={_as_yaml(value)}"]
        return shlex.join(words)


def _as_yaml(value: Any) -> str:
    """A value in the syntax of `--set`."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _against_bias(run: _FinishedRun) -> list[Suggestion]:
    suggestions = []
    if not run.has_trained_all:
        is_head_only = not run.has_trained_groups and run.record.recipe["name"] == "head-only"
        recipe = "unfreeze-until-plateau" if is_head_only else "full"
        suggestions.append(Suggestion("train more layer groups", run.with_recipe(recipe)))
    if (index := run.improving_phase) is not None:
        command = run.rerun(f"phases.{index}.epochs={3 * run.epochs_of(index)}")
        suggestions.append(Suggestion("train longer: the last epoch was the best", command))
    if run.record.recipe["augment"]["preset"] == "strong":
        suggestions.append(Suggestion("use weaker augmentation", run.rerun("augment.preset=light")))
    if words := run.network_options():
        suggestions.append(Suggestion("probe a larger network", image_command(run.record, "probe", *words)))
    return [*suggestions, Suggestion("look for wrong labels", image_command(run.record, "check"))]


def _against_variance(run: _FinishedRun) -> list[Suggestion]:
    suggestions = [_more_images(run)]
    if not any(step["kept"] and step["trained_groups"] for step in run.record.phases):
        if not run.has_trained_groups:
            command = run.with_recipe("unfreeze-until-plateau")
            suggestions.append(Suggestion("fine-tune the network, not only the head", command))
        elif not any(phase["policy"] == "depth_search" for phase in run.phases):
            suggestions.append(Suggestion("try the network without its top groups", run.with_recipe("depth-search")))
        return suggestions
    if run.record.recipe["augment"]["preset"] in ("none", "light"):
        epochs = f"phases.{run.last_phase}.epochs={max(8, run.epochs_of(run.last_phase))}"
        command = run.rerun("augment.preset=strong", "augment.views=4", epochs)
        suggestions.append(Suggestion("use stronger augmentation", command))
    if not run.phases[run.last_phase]["l2_sp"] and run.record.recipe["model"]["weights"] != RANDOM:
        command = run.rerun(f"phases.{run.last_phase}.l2_sp=0.01")
        suggestions.append(Suggestion("keep the weights near the pretrained ones (L2-SP)", command))
    return suggestions


def _more_images(run: _FinishedRun) -> Suggestion:
    """More images for the smallest classes or, if every class has enough, for those with the lowest recall."""
    counts = sorted((counts["train"], name) for name, counts in run.record.data["per_class"].items())
    if few := [(count, name) for count, name in counts if count < FEW_IMAGES]:
        listed = ", ".join(f"{name} ({count})" for count, name in few[:NAMED_CLASSES])
        return Suggestion(f"add images, first to the classes with few training images: {listed}")
    return Suggestion(f"add images, first to the classes with the lowest recall: {_lowest_recalls(run)}")


def _for_good_scores(run: _FinishedRun, standard_error: float) -> list[Suggestion]:
    """Suggestions if neither bias nor variance is high: the weakest classes, and more reliable scores."""
    suggestions = []
    if run.record.scores["val"]["accuracy"] < 1:
        suggestions.append(Suggestion(f"add images to the classes with the lowest recall: {_lowest_recalls(run)}"))
    if _is_unreliable(standard_error):
        suggestions.append(Suggestion("add images: so few validation images make the scores unreliable"))
    return suggestions or [Suggestion("nothing: every validation image is right")]


def _is_unreliable(standard_error: float) -> bool:
    """True if the validation images are too few to show a variance that is just high."""
    return standard_error > VARIANCE_GAP / 2


def _lowest_recalls(run: _FinishedRun) -> str:
    rows = [(row["recall"], row["name"]) for row in run.record.scores["val"]["per_class"] if row["support"]]
    return ", ".join(f"{name} ({recall:.0%})" for recall, name in sorted(rows)[:NAMED_CLASSES] if recall < 1)
