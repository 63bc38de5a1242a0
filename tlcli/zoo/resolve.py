"""Resolve the network of a recipe: its card, its input size, and a check of its weights."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from tlcli.errors import ModelError, WeightsError
from tlcli.recipe.schema import RANDOM, Recipe
from tlcli.zoo import catalogue, default, published
from tlcli.zoo.card import ModelCard, require_arguments, verified_weights
from tlcli.zoo.sources import architecture, package

# The licence of weights from a file of the user.
_UNKNOWN_LICENCE = "that of the file"


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
    """The card, with the preprocessing and the cut of the recipe if the recipe sets them.

    Raises:
        ModelError: If neither the recipe nor the card states the preprocessing.
    """
    card = with_cut(recipe, card)
    if recipe.model.preprocessing is not None:
        return card.model_copy(update={"preprocessing": recipe.model.preprocessing})
    if card.preprocessing is None:
        raise ModelError(
            f"{card.name} does not state its preprocessing",
            where="model.preprocessing",
            hint="Set it to unit (0 to 1), tf (-1 to 1), torch (ImageNet normalised), caffe (BGR less the mean), lite"
            " ((x - 127) / 128) or none (0-255): --set model.preprocessing=tf.",
        )
    return card


def with_cut(recipe: Recipe, card: ModelCard) -> ModelCard:
    """The card, cut at the layer `model.cut` of the recipe if the recipe sets it."""
    return card if recipe.model.cut is None else card.model_copy(update={"cut": recipe.model.cut})


@dataclass(frozen=True)
class ResolvedRecipe:
    """A checked recipe with a resolved network.

    Attributes:
        recipe: The recipe, with values of the card in place of `auto`.
        notices: Notices for the user about the choice of the network.
        licence: A sentence about the weights and their licence; empty for random weights.
        began: Start of the command, seconds on `time.perf_counter`.
    """

    recipe: Recipe
    notices: tuple[str, ...] = ()
    licence: str = ""
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
    licence = weights_licence(resolved, card)
    sentence = f"weights of {card.name}: licence {licence}" if licence else ""
    if needs_weights and recipe.model.weights is None:
        unverified = published.unverified(card, arguments=recipe.model.arguments, size=input_size(resolved, card))
        sentence += f"; {unverified}" if unverified else ""
    return ResolvedRecipe(resolved.model_copy(update={"phases": phases}), notices, sentence)


def weights_licence(recipe: Recipe, card: ModelCard) -> str | None:
    """The licence of the weights that a recipe uses; None for random weights, which have none."""
    if recipe.model.weights == RANDOM:
        return None
    return card.licence if recipe.model.weights is None else _UNKNOWN_LICENCE


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
    if weights is not None and card.source.startswith("tfhub:"):
        raise WeightsError(
            f"a SavedModel has its weights inside (got '{weights}')", where="model.weights", hint="Leave it out."
        )
    if weights is None and card.weights is not None:
        require_arguments(card, recipe.model.arguments)
    if weights is None and card.kind == "package":
        package.weights_path(card)
    elif weights is None and card.kind == "architecture":
        architecture.require_weights(card)
    if weights is None and card.kind != "package" and card.sha256 is not None:
        verified_weights(card)
    if weights not in (None, RANDOM) and not Path(str(weights)).is_file():
        raise WeightsError(
            f"there is no file '{weights}'",
            where="model.weights",
            hint=f"Give the path of .h5 or .keras weights, or {RANDOM}.",
        )
