"""The network that `auto` stands for: EfficientNet-Lite0, whose ImageNet weights are installed with this program."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlcli.errors import ModelError, WeightsError
from tlcli.recipe.schema import RANDOM, ModelSpec
from tlcli.zoo import catalogue
from tlcli.zoo.card import ModelCard
from tlcli.zoo.sources import package

AUTO = "auto"
PREFERRED = "efficientnet_lite0"
BUNDLED = "mobilenet_synthetic"


@dataclass(frozen=True)
class Choice:
    """The network chosen for `auto`. If it is not the preferred one, `notice` gives the reason and the consequences."""

    name: str
    notice: str = ""


def choose_default(arguments: Mapping[str, Any], weights: str | None) -> Choice:
    """Choose the network for `auto`: `PREFERRED`, or `BUNDLED` if the package with its weights is missing.

    Args:
        arguments: Architecture arguments of the recipe.
        weights: Weights named in the recipe.

    Raises:
        ModelError: The arguments or the weights file belong to a network, but the recipe names none.
    """
    if arguments:
        names = ", ".join(arguments)
        raise _name_missing(f"arguments of a network are set ({names})", "model.arguments", "they belong")
    if weights not in (None, RANDOM):
        raise _name_missing("a weights file is set", "model.weights", "it belongs")
    if weights is None:
        try:
            package.find_weights(catalogue.find(PREFERRED))
        except WeightsError as error:
            return Choice(BUNDLED, _notice(catalogue.find(BUNDLED), error))
    return Choice(PREFERRED)


def others_installed(model: ModelSpec) -> tuple[str, ...]:
    """Networks with installed weights besides `PREFERRED`; none if the recipe names a network or weights."""
    if model.name != AUTO or model.arguments or model.weights is not None:
        return ()
    names = [name for name in catalogue.names() if catalogue.find(name).kind == "package" and name != PREFERRED]
    return tuple(name for name in names if package.is_installed(catalogue.find(name)))


def _name_missing(message: str, where: str, belongs: str) -> ModelError:
    return ModelError(
        f"{message}, but not the network",
        where=where,
        hint=f"Name the network that {belongs} to, for example --model mobilenet_v2.",
    )


def _notice(card: ModelCard, error: WeightsError) -> str:
    return (
        f"{error.message}, so the bundled network '{card.name}' is used. It was trained on synthetic images of"
        f" {card.size} × {card.size} pixels: expect clearly lower accuracy on photographs than with ImageNet weights"
        f" (docs/recipes.md, model). {error.hint.rstrip('.')}."
        f" To choose the bundled network explicitly: --model {card.name}"
    )
