"""What a user inspects: a card, a model file or a run, and what is known of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tlcli.errors import ModelError
from tlcli.model import metadata
from tlcli.model.groups import LayerGroups
from tlcli.model.metadata import NetworkOrigin
from tlcli.model.structure import Measure, measure_in_subprocess
from tlcli.recipe import load
from tlcli.recipe.schema import Recipe
from tlcli.report.record import RunRecord, classifier_file, read, require_complete
from tlcli.train import plan
from tlcli.zoo import catalogue, resolve
from tlcli.zoo.card import ModelCard

_DATA = (".json", ".csv", ".jsonl", ".txt", ".html")


@dataclass(frozen=True)
class Target:
    """What is looked at.

    Attributes:
        text: As the user named it.
        card: Of the network; of a run, of the network that it fine-tuned.
        arguments: Architecture arguments besides the card's own.
        size: Input height and width, pixels.
        groups: The network's layer groups at that size.
        recipe: The run's, or the default one with the user's settings.
        record: Of a run.
        file: The model file, of a file or a run that has one.
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
        """What it is."""
        return "run" if self.record else "file" if self.file else "card"


@dataclass(frozen=True)
class InspectOptions:
    """At what size, with which settings of a recipe, and measured how; `size`: pixels, None for its own."""

    size: tuple[int, int] | None = None
    settings: Sequence[str] = ()
    measure: Measure = measure_in_subprocess


def find_target(text: str, wish: InspectOptions) -> Target:
    """Find what a text names and measure it.

    Raises:
        TlcliError: If there is no such thing, or it cannot be built at that size.
    """
    found = _found(text, wish)
    # A comparison may want settings for the one and not for the other.
    is_made = found.record is not None or (found.file is not None and found.card.source.startswith("keras:"))
    if is_made and (given := [text for text in wish.settings if text.startswith("model.") and not _is_weights(text)]):
        raise ModelError(
            "the network is built already, as it was asked for",
            where=f"--set {given[0]}",
            hint=f"Leave it out, or name the network: tlcli inspect {found.card.name} --set {given[0]}",
        )
    return found


def _is_weights(setting: str) -> bool:
    return setting.partition("=")[0] == "model.weights"


def _found(text: str, wish: InspectOptions) -> Target:
    if (Path(text) / "run.json").is_file():
        return _run(text, wish)
    _refuse_other_files(text)
    card, recipe = catalogue.find(text), load.load(load.DEFAULT, settings=wish.settings)
    kind, _, handle = card.source.partition(":")
    file = Path(handle) if kind == "file" else None
    said = None if file is None else metadata_of(file)
    if said is not None and wish.size is not None:
        hint = "Leave it out, or name the network that it was made from."
        raise ModelError(f"the file brings pictures to {_by(said.size)} itself", where="--size", hint=hint)
    if said is not None and said.origin is not None:
        return _bundle(text, wish, recipe, said, said.origin)
    chosen = wish.size or (card.size, card.size)
    resolve.check_size(card, chosen, where="--size")
    groups = wish.measure(card, recipe.model.arguments, chosen)
    if said is not None:
        # Whatever it is given, this is what its layers see.
        chosen, groups = said.size, replace(groups, input_size=said.size)
    return Target(text, card, recipe.model.arguments, chosen, groups, recipe, file=file)


def _bundle(
    text: str, wish: InspectOptions, recipe: Recipe, said: metadata.ClassifierMetadata, origin: metadata.NetworkOrigin
) -> Target:
    """A classifier's file that tells which network is in it: the same layer groups as its run has."""
    model = recipe.model.model_copy(update={"drop_top": origin.drop_top})
    recipe = recipe.model_copy(update={"model": model})
    groups = plan.dropped_top(recipe, wish.measure(origin.card, origin.arguments, said.size))
    return Target(text, origin.card, origin.arguments, said.size, groups, recipe, file=Path(text))


def metadata_of(file: Path) -> metadata.ClassifierMetadata | None:
    """Classes and input of a classifier that this program wrote; None of other files."""
    if file.suffix.lower() != ".keras":
        return None
    try:
        return metadata.read_metadata(file)
    except ModelError:
        return None


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


def _run(text: str, wish: InspectOptions) -> Target:
    ran = read(Path(text))
    card, arguments = ModelCard.model_validate(ran.model["card"]), dict(ran.model["arguments"])
    own = (int(ran.model["size"][0]), int(ran.model["size"][1]))
    size = wish.size or own
    resolve.check_size(card, size, where="--size")
    recipe_file = Path(text) / "recipe.yaml"
    recipe = load.load(str(recipe_file) if recipe_file.is_file() else load.DEFAULT, settings=wish.settings)
    groups = plan.dropped_top(recipe, wish.measure(card, arguments, size))
    model = classifier_file(Path(text)) if ran.status == "complete" else None
    return Target(text, card, arguments, size, groups, recipe, ran, model)


def _refuse_other_files(text: str) -> None:
    path = Path(text)
    if path.name == "run.json" and path.is_file():
        raise ModelError("is the record of a run", where=text, hint=f"Name its folder: tlcli inspect {path.parent}")
    if path.suffix.lower() in _DATA and path.is_file():
        raise ModelError(
            "is no network",
            where=text,
            hint="Name a card (tlcli zoo list), a card file (.yaml), a .keras or .h5 file, or a run folder.",
        )


def find_pair(named: tuple[str, str], wish: InspectOptions) -> tuple[Target, Target]:
    """Two things to compare. A card beside a run that began with it is taken as that run took it.

    Raises:
        TlcliError: If there is no such thing, or it has no weights yet.
    """
    found = [_found(text, wish) for text in named]
    for target in found:
        if target.record is not None:
            require_complete(Path(target.text))
    first, second = found
    ours, theirs = ({layer.name for layer in target.groups.layers} for target in found)
    # Some names, such as conv1, many networks have.
    if 2 * len(ours & theirs) < min(len(ours), len(theirs)):
        raise unrelated(named)
    return _as_begun(first, second), _as_begun(second, first)


def _as_begun(card: Target, run: Target) -> Target:
    """The network that a run, or the one behind a copy of its classifier, began with, where `card` names it."""
    if card.kind != "card" or run.kind == "card" or card.card.name != run.card.name:
        return card
    return replace(card, arguments=run.arguments, size=run.size, groups=run.groups, recipe=run.recipe)


RANGES = {
    "none": "RGB from 0 to 255, as it is: the network scales it itself",
    "tf": "RGB from -1 to 1: value / 127.5 - 1",
    "torch": "RGB, about -2.1 to 2.6: value / 255, less (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)",
    "caffe": "BGR, about -124 to 152: value less (103.939, 116.779, 123.68)",
}


def network_facts(target: Target) -> dict[str, Any]:
    """What is known of a network besides its layers, JSON-ready; None where nobody states it."""
    card, ran = target.card, target.record
    classes, outputs = _classes(target)
    found: dict[str, Any] = {
        "kind": target.kind,
        "title": "classifier written by tlcli" if target.kind == "file" and classes else card.title,
        "source": card.source if target.file is None or ran else str(target.file),
        "arguments": {**card.arguments, **target.arguments},
        "licence": card.licence,
        "paper": card.paper or None,
        "trained_on": _trained_on(target),
        "weights": None if ran is None else ran.model.get("weights"),
        "sha256": _sha256(target),
        "imagenet_top1": _published(target),
        "own_size": list(target.size) if target.kind == "file" else [card.size, card.size],
        "min_size": card.min_size if card.source.startswith("keras:") else None,
        "preprocessing": card.preprocessing,
        "expects": RANGES.get(card.preprocessing or ""),
        "classes": classes,
        "outputs": outputs,
        "scores": _scores(target),
    }
    if ran is not None:
        found["run"] = {
            "status": ran.status,
            "started": ran.started,
            "head_parameters": ran.model.get("head_parameters"),
            "weights_sha256": ran.model.get("weights_sha256"),
            "scores": found["scores"],
        }
    return found


def _trained_on(target: Target) -> str | None:
    if target.record is not None:
        path = target.record.data.get("path")
        return None if path is None else Path(path).name
    if target.file is not None:
        origin = _origin(target.file)
        return None if origin is None else origin.data
    return target.card.data or "ImageNet"


def _scores(target: Target) -> dict[str, Any] | None:
    """Of a classifier on its own images, by split: `accuracy`, `loss`, `count`; None where nobody states them."""
    if target.record is not None:
        found = target.record.scores
        return {name: {key: each[key] for key in ("accuracy", "loss", "count")} for name, each in found.items()}
    origin = None if target.file is None else _origin(target.file)
    return origin.scores if origin and origin.scores else None


def _origin(file: Path) -> NetworkOrigin | None:
    said = metadata_of(file)
    return None if said is None else said.origin


def _published(target: Target) -> float | None:
    """Top-1 accuracy as the card states it, which is of its own architecture and of the weights that Keras provides."""
    differs = any(target.card.arguments.get(name) != value for name, value in target.arguments.items())
    return None if differs or target.kind == "file" else target.card.imagenet_top1


def _sha256(target: Target) -> str | None:
    """Of the model file, or of the weights that come with the card."""
    if target.file is not None and target.file.is_file():
        with target.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return None if target.kind == "run" else target.card.sha256


def _classes(target: Target) -> tuple[list[str] | None, int | None]:
    """Names of the classes and their number, of what has a head."""
    if target.record is not None:
        names = [str(name) for name in target.record.data["classes"]]
        return names, len(names)
    if target.file is None:
        return None, None
    said = metadata_of(target.file)
    if said is None:
        return None, catalogue.outputs(target.file)
    return list(said.classes), len(said.classes)


def unrelated(names: tuple[str, str]) -> ModelError:
    """The error of two networks that cannot be compared."""
    return ModelError(
        f"{names[0]} and {names[1]} share hardly a layer",
        where="--diff",
        hint="Compare two networks of one architecture, such as a run and the network that it began with.",
    )
