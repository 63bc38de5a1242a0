"""The target of `tlcli inspect`: a card, a model file or a run, and the facts about its network."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tlcli.errors import ModelError
from tlcli.evaluate.run_folder import classifier_file, require_complete
from tlcli.model import metadata
from tlcli.model.layer_groups import LayerGroups
from tlcli.model.metadata import NetworkOrigin, TrainingFacts
from tlcli.model.structure import Measure, measure_in_subprocess
from tlcli.recipe import load
from tlcli.recipe.schema import Recipe
from tlcli.report.record import RunRecord, read
from tlcli.train import plan
from tlcli.zoo import catalogue, resolve
from tlcli.zoo.card import ModelCard

# Suffixes of files that a run folder has beside its classifier, and of reports.
_NOT_MODELS = (".json", ".csv", ".jsonl", ".txt", ".html")


@dataclass(frozen=True)
class Target:
    """A network to inspect.

    Attributes:
        text: The name or path that the user gave.
        card: The card of the network; for a run, of the network that it fine-tuned.
        arguments: Architecture arguments in addition to those of the card.
        size: Input height and width, pixels.
        groups: The layer groups of the network at that size.
        recipe: The recipe of the run, or the default recipe with the user's settings.
        record: The record of a run; None for a card or a file.
        file: The model file of a file or a complete run; None for a card.
    """

    text: str
    card: ModelCard
    arguments: dict[str, Any]
    size: tuple[int, int]
    groups: LayerGroups
    recipe: Recipe
    record: RunRecord | None = None
    file: Path | None = None

    @property
    def kind(self) -> Literal["card", "file", "run"]:
        """The kind of the target."""
        return "run" if self.record else "file" if self.file else "card"


@dataclass(frozen=True)
class InspectOptions:
    """How to inspect a network.

    Attributes:
        size: Input height and width, pixels; None for the default size of the network.
        settings: `KEY=VALUE` settings for the recipe, as after `--set`.
        measure: Measures the layer groups of a network.
    """

    size: tuple[int, int] | None = None
    settings: Sequence[str] = ()
    measure: Measure = measure_in_subprocess


def find_target(text: str, options: InspectOptions) -> Target:
    """Find the network that a text names, and measure its layer groups.

    Raises:
        TlcliError: If there is no such network, or it cannot be built at that size.
    """
    target = _read_target(text, options)
    # Not in `_read_target`: in a comparison, the settings may be for the other network.
    is_built = target.record is not None or (target.file is not None and target.card.kind != "file")
    if is_built and (refused := [setting for setting in options.settings if _changes_network(setting)]):
        raise ModelError(
            "the network is already built",
            where=f"--set {refused[0]}",
            hint=f"Leave it out, or name the network: tlcli inspect {target.card.name} --set {refused[0]}",
        )
    return target


def _changes_network(setting: str) -> bool:
    return setting.startswith("model.") and setting.partition("=")[0] != "model.weights"


def _read_target(text: str, options: InspectOptions) -> Target:
    """The target, whatever the settings."""
    if (Path(text) / "run.json").is_file():
        return _run_target(text, options)
    _refuse_other_files(text)
    recipe = load.load(load.DEFAULT, settings=options.settings)
    card = resolve.with_cut(recipe, catalogue.find(text))
    kind, _, handle = card.source.partition(":")
    file = Path(handle) if kind == "file" else None
    stored = None if file is None else metadata_of(file)
    if stored is not None and options.size is not None:
        hint = "Leave it out, or name the network of the classifier."
        what = f"the classifier resizes images to {stored.size[0]} × {stored.size[1]} itself"
        raise ModelError(what, where="--size", hint=hint)
    if stored is not None and stored.origin is not None:
        return _classifier_target(text, options, recipe, stored.size, stored.origin)
    size = options.size or (card.size, card.size)
    resolve.check_size(card, size, where="--size")
    groups = options.measure(card, recipe.model.arguments, size)
    if stored is not None:
        # The classifier resizes its input, so its layers always have this size.
        size, groups = stored.size, replace(groups, input_size=stored.size)
    return Target(text, card, recipe.model.arguments, size, groups, recipe, file=file)


def _classifier_target(
    text: str, options: InspectOptions, recipe: Recipe, size: tuple[int, int], origin: NetworkOrigin
) -> Target:
    """A classifier file with a known origin. It has the same layer groups as its run."""
    model = recipe.model.model_copy(update={"drop_top": origin.drop_top})
    recipe = recipe.model_copy(update={"model": model})
    groups = plan.dropped_top(recipe, options.measure(origin.card, origin.arguments, size))
    return Target(text, origin.card, origin.arguments, size, groups, recipe, file=Path(text))


def metadata_of(file: Path) -> metadata.ClassifierMetadata | None:
    """The metadata of a classifier that tlcli wrote; None for other files."""
    if file.suffix.lower() != ".keras":
        return None
    try:
        return metadata.read_metadata(file)
    except ModelError:
        return None


def _run_target(text: str, options: InspectOptions) -> Target:
    run = read(Path(text))
    card, arguments = ModelCard.model_validate(run.model["card"]), dict(run.model["arguments"])
    size = options.size or (int(run.model["size"][0]), int(run.model["size"][1]))
    resolve.check_size(card, size, where="--size")
    recipe_file = Path(text) / "recipe.yaml"
    recipe = load.load(str(recipe_file) if recipe_file.is_file() else load.DEFAULT, settings=options.settings)
    groups = plan.dropped_top(recipe, options.measure(card, arguments, size))
    file = classifier_file(Path(text)) if run.status == "complete" else None
    return Target(text, card, arguments, size, groups, recipe, run, file)


def _refuse_other_files(text: str) -> None:
    """Refuse files of a run folder and reports, which are not networks."""
    path = Path(text)
    if path.name == "run.json" and path.is_file():
        raise ModelError("is the record of a run", where=text, hint=f"Name its folder: tlcli inspect {path.parent}")
    if path.suffix.lower() in _NOT_MODELS and path.is_file():
        raise ModelError(
            "is not a network",
            where=text,
            hint="Name a card (tlcli zoo list), a card file (.yaml), a .keras or .h5 file, or a run folder.",
        )


def find_pair(names: tuple[str, str], options: InspectOptions) -> tuple[Target, Target]:
    """Find two networks to compare. If one is the card that the other started from, it gets the same architecture.

    Raises:
        TlcliError: If there is no such network, it has no weights yet, or the two share too few layers.
    """
    first, second = targets = [_read_target(text, options) for text in names]
    for target in targets:
        if target.record is not None:
            require_complete(Path(target.text))
    a, b = ({layer.name for layer in target.groups.layers} for target in targets)
    # A few common names prove nothing: many networks have a layer such as conv1.
    if 2 * len(a & b) < min(len(a), len(b)):
        raise unrelated_error(names)
    return _as_started_from(first, second), _as_started_from(second, first)


def _as_started_from(card: Target, run: Target) -> Target:
    """The target `card` with the architecture of `run`, if `run` is a run or classifier of that card."""
    if card.kind != "card" or run.kind == "card" or card.card.name != run.card.name:
        return card
    return replace(card, arguments=run.arguments, size=run.size, groups=run.groups, recipe=run.recipe)


RANGES = {
    "none": "RGB from 0 to 255: the network scales it itself",
    "tf": "RGB from -1 to 1: value / 127.5 - 1",
    "torch": "RGB, about -2.1 to 2.6: value / 255, less (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)",
    "unit": "RGB from 0 to 1: value / 255",
    "caffe": "BGR, about -124 to 152: value less (103.939, 116.779, 123.68)",
    "lite": "RGB from -1 to 1: (value - 127) / 128",
}


def network_facts(target: Target) -> dict[str, Any]:
    """Facts about a network other than its layers, as JSON values; None for what is not stated anywhere."""
    card, run = target.card, target.record
    classes, outputs = _classes(target)
    facts: dict[str, Any] = {
        "kind": target.kind,
        "title": "classifier written by tlcli" if target.kind == "file" and classes else card.title,
        "source": card.source if target.file is None or run else str(target.file),
        "arguments": {**card.arguments, **target.arguments},
        "licence": card.licence,
        "paper": card.paper or None,
        "trained_on": _trained_on(target),
        "weights": None if run is None else run.model.get("weights"),
        "sha256": _sha256(target),
        "imagenet_top1": _published(target),
        "own_size": list(target.size) if target.kind == "file" else [card.size, card.size],
        "min_size": None if card.kind == "file" else card.min_size,
        "preprocessing": card.preprocessing,
        "expects": RANGES.get(card.preprocessing or ""),
        "classes": classes,
        "outputs": outputs,
        "scores": _scores(target),
    }
    if run is not None:
        facts["run"] = {
            "status": run.status,
            "started": run.started,
            "head_parameters": run.model.get("head_parameters"),
            "weights_sha256": run.model.get("weights_sha256"),
            "scores": facts["scores"],
        }
    return facts


def _trained_on(target: Target) -> str | None:
    if target.record is not None:
        path = target.record.data.get("path")
        return None if path is None else Path(path).name
    if target.file is not None:
        facts = _training_of(target.file)
        return None if facts is None else facts.data
    return target.card.data or "ImageNet"


def _scores(target: Target) -> dict[str, Any] | None:
    """Accuracy, loss and count of a classifier, by split; None if they are not stated."""
    if target.record is not None:
        scores = target.record.scores
        return {name: {key: split[key] for key in ("accuracy", "loss", "count")} for name, split in scores.items()}
    facts = None if target.file is None else _training_of(target.file)
    return facts.scores if facts and facts.scores else None


def _training_of(file: Path) -> TrainingFacts | None:
    stored = metadata_of(file)
    return None if stored is None else stored.training


def _published(target: Target) -> float | None:
    """The card's ImageNet top-1 accuracy, 0-1; None for another architecture or a model file."""
    differs = any(target.card.arguments.get(name) != value for name, value in target.arguments.items())
    return None if differs or target.kind == "file" else target.card.imagenet_top1


def _sha256(target: Target) -> str | None:
    """The sha256 of the model file, or of the weights file of the card."""
    if target.file is not None and target.file.is_file():
        with target.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return None if target.kind == "run" else target.card.sha256


def _classes(target: Target) -> tuple[list[str] | None, int | None]:
    """Class names and number of outputs; None if unknown."""
    if target.record is not None:
        names = [str(name) for name in target.record.data["classes"]]
        return names, len(names)
    if target.file is None:
        return None, None
    stored = metadata_of(target.file)
    if stored is None:
        return None, catalogue.count_outputs(target.file)
    return list(stored.classes), len(stored.classes)


def unrelated_error(names: tuple[str, str]) -> ModelError:
    """The error for two networks of different architectures."""
    return ModelError(
        f"{names[0]} and {names[1]} share too few layers",
        where="--diff",
        hint="Compare two networks of the same architecture, such as a run and the network it started from.",
    )
