"""Resolve the network of a recipe: its card, its input size, and a check of its weights."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from tlcli.errors import ModelError, WeightsError
from tlcli.recipe.schema import RANDOM, Recipe
from tlcli.zoo import catalogue, default
from tlcli.zoo.card import ModelCard, require_arguments, verified_weights
from tlcli.zoo.sources import package


def input_size(recipe: Recipe, card: ModelCard | None = None) -> tuple[int, int]:
    """Height and width of the network's input, pixels. By default `card` is the card of the recipe's network.

    Raises:
        ModelError: If there is no such network, or the size is below its minimum.
    """
    card = card or catalogue.find(recipe.model.name)
    size = (card.size, card.size) if recipe.data.size == "auto" else recipe.data.size
    check_size(card, size, where="data.size")
    return size


def check_size(card: ModelCard, size: tuple[int, int], *, where: str) -> None:
    """Check that an input size, pixels, is not below the minimum of the network.

    Raises:
        ModelError: If it is below.
    """
    if min(size) < card.min_size:
        raise ModelError(
            f"{card.name} takes at least {card.min_size} × {card.min_size} pixels (got {size[0]} × {size[1]})",
            where=where,
            hint=f"Choose {card.min_size} {card.min_size} or more; its default size is {card.size} {card.size}.",
        )


def resolve_card(recipe: Recipe, card: ModelCard) -> ModelCard:
    """The card, with the preprocessing of the recipe if the recipe sets it.

    Raises:
        ModelError: If neither the recipe nor the card states the preprocessing.
    """
    if recipe.model.preprocessing is not None:
        return card.model_copy(update={"preprocessing": recipe.model.preprocessing})
    if card.preprocessing is None:
        raise ModelError(
            f"{card.name} does not state its preprocessing",
            where="model.preprocessing",
            hint="Set it to tf (-1 to 1), torch (ImageNet normalised), caffe (BGR less the mean), lite (x - 127 by 128)"
            " or none (0-255):"
            " --set model.preprocessing=tf.",
        )
    return card


@dataclass(frozen=True)
class ResolvedRecipe:
    """A checked recipe with a resolved network.

    Attributes:
        recipe: The recipe, with values of the card in place of `auto`.
        notices: Notices for the user about the choice of the network.
        began: Start of the command, seconds on `time.perf_counter`.
    """

    recipe: Recipe
    notices: tuple[str, ...] = ()
    began: float = field(default_factory=time.perf_counter)


def resolve(recipe: Recipe, *, needs_weights: bool = True) -> ResolvedRecipe:
    """Resolve the network of a recipe, and check everything that needs neither Keras nor images.

    Raises:
        TlcliError: If there is no such network, the input is too small, or the weights are missing or damaged.
    """
    resolved, notices = _choose_network(recipe)
    card = resolve_card(resolved, catalogue.find(resolved.model.name))
    input_size(resolved, card)
    if needs_weights:
        _require_weights(resolved, card)
    phases = [phase.fill_auto(card.fine_tuning.model_dump(exclude={"epochs"})) for phase in resolved.phases]
    return ResolvedRecipe(resolved.model_copy(update={"phases": phases}), notices)


def _choose_network(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with a network in place of `model.name: auto`, and notices about the choice."""
    model = recipe.model
    if model.name != default.AUTO:
        return recipe, ()
    choice = default.choose_default(model.arguments, model.weights)
    resolved = recipe.model_copy(update={"model": model.model_copy(update={"name": choice.name})})
    return resolved, (choice.notice,) if choice.notice else ()


def _require_weights(recipe: Recipe, card: ModelCard) -> None:
    """Check that the weights exist, are undamaged, and fit the arguments, before Keras loads."""
    weights = recipe.model.weights
    if weights is None and card.weights is not None:
        require_arguments(card, recipe.model.arguments)
        package.weights_path(card) if card.kind == "package" else verified_weights(card)
    if weights not in (None, RANDOM) and not Path(str(weights)).is_file():
        raise WeightsError(
            f"there is no file '{weights}'",
            where="model.weights",
            hint=f"Give the path of .h5 or .keras weights, or {RANDOM}.",
        )
