"""What a user wants to look at: a card, a model file or a run; found and measured, nothing loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tlcli.errors import ModelError
from tlcli.inspecting import changes
from tlcli.model import contract
from tlcli.model.groups import LayerGroups
from tlcli.prepare import Measure, groups_without_keras
from tlcli.recipe import load
from tlcli.recipe.schema import Recipe
from tlcli.report import record
from tlcli.report.record import RunRecord
from tlcli.train import plan
from tlcli.zoo import catalogue
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
class Wish:
    """At what size, with which settings of a recipe, and measured how; `size`: pixels, None for its own."""

    size: tuple[int, int] | None = None
    settings: Sequence[str] = ()
    measure: Measure = groups_without_keras


def find(text: str, wish: Wish) -> Target:
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


def _found(text: str, wish: Wish) -> Target:
    if (Path(text) / "run.json").is_file():
        return _run(text, wish)
    _refuse_other_files(text)
    card, recipe = catalogue.find(text), load.load(load.DEFAULT, settings=wish.settings)
    kind, _, handle = card.source.partition(":")
    file = Path(handle) if kind == "file" else None
    said = None if file is None else said_in(file)
    if said is not None and wish.size is not None:
        hint = "Leave it out, or name the network that it was made from."
        raise ModelError(f"the file brings pictures to {_by(said.size)} itself", where="--size", hint=hint)
    if said is not None and said.origin is not None:
        return _bundle(text, wish, recipe, said, said.origin)
    chosen = wish.size or (card.size, card.size)
    plan.check_size(card, chosen, where="--size")
    groups = wish.measure(card, recipe.model.arguments, chosen)
    if said is not None:
        # Whatever it is given, this is what its layers see.
        chosen, groups = said.size, replace(groups, input_size=said.size)
    return Target(text, card, recipe.model.arguments, chosen, groups, recipe, file=file)


def _bundle(text: str, wish: Wish, recipe: Recipe, said: contract.Contract, origin: contract.Origin) -> Target:
    """A classifier's file that tells which network is in it: the same layer groups as its run has."""
    model = recipe.model.model_copy(update={"drop_top": origin.drop_top})
    recipe = recipe.model_copy(update={"model": model})
    groups = plan.dropped_top(recipe, wish.measure(origin.card, origin.arguments, said.size))
    return Target(text, origin.card, origin.arguments, said.size, groups, recipe, file=Path(text))


def said_in(file: Path) -> contract.Contract | None:
    """Classes and input of a classifier that this program wrote; None of other files."""
    if file.suffix.lower() != ".keras":
        return None
    try:
        return contract.read(file)
    except ModelError:
        return None


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


def _run(text: str, wish: Wish) -> Target:
    ran = record.read(Path(text))
    card, arguments = ModelCard.model_validate(ran.model["card"]), dict(ran.model["arguments"])
    own = (int(ran.model["size"][0]), int(ran.model["size"][1]))
    size = wish.size or own
    plan.check_size(card, size, where="--size")
    recipe_file = Path(text) / "recipe.yaml"
    recipe = load.load(str(recipe_file) if recipe_file.is_file() else load.DEFAULT, settings=wish.settings)
    groups = plan.dropped_top(recipe, wish.measure(card, arguments, size))
    model = record.classifier_file(Path(text)) if ran.status == "complete" else None
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


def pair(named: tuple[str, str], wish: Wish) -> tuple[Target, Target]:
    """Two things to compare. A card beside a run that began with it is taken as that run took it.

    Raises:
        TlcliError: If there is no such thing, or it has no weights yet.
    """
    found = [_found(text, wish) for text in named]
    for target in found:
        if target.record is not None:
            record.require_complete(Path(target.text))
    first, second = found
    ours, theirs = ({layer.name for layer in target.groups.layers} for target in found)
    # Some names, such as conv1, many networks have.
    if 2 * len(ours & theirs) < min(len(ours), len(theirs)):
        raise changes.unrelated(named)
    return _as_begun(first, second), _as_begun(second, first)


def _as_begun(card: Target, run: Target) -> Target:
    """The network that a run, or the one behind a copy of its classifier, began with, where `card` names it."""
    if card.kind != "card" or run.kind == "card" or card.card.name != run.card.name:
        return card
    return replace(card, arguments=run.arguments, size=run.size, groups=run.groups, recipe=run.recipe)
