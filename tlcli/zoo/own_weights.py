"""Weights that a card brings along: checked before every use, and only for the network they were made for."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlcli.errors import WeightsError
from tlcli.zoo.card import ModelCard

_OTHERS = "take other weights with --weights FILE, or --weights random"


def verified(card: ModelCard) -> Path:
    """The file of a card's own weights, its hash compared.

    Raises:
        WeightsError: The file is missing, or is not the one that the card was written for.
    """
    path = Path(card.weights or "")
    if not path.is_file():
        raise WeightsError(
            f"the weights of {card.name} are not there",
            where=str(path),
            hint=f"Put them beside their card, or {_OTHERS}.",
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != card.sha256:
        raise WeightsError(
            f"is not the file that the card of {card.name} names: expected sha256 {card.sha256} (got {found})",
            where=str(path),
            hint=f"It may be damaged or only partly copied: fetch it again, with its card, or {_OTHERS}.",
        )
    return path


def require_arguments(
    card: ModelCard, arguments: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None
) -> None:
    """Refuse architecture arguments that make another network than the card's own weights were made for.

    Args:
        card: A card with weights.
        arguments: The user's arguments.
        defaults: Those of the architecture, where they are known.

    Raises:
        WeightsError: An argument differs from the card's own.
    """
    own = {**(defaults or {}), **card.arguments}
    for name, value in arguments.items():
        if name in own and own[name] != value:
            fitting = f"{name}: {own[name]}" if name not in card.arguments else _flow(card.arguments)
            raise WeightsError(
                f"the weights of {card.name} fit only {{{fitting}}} (got {{{name}: {value}}})",
                where=f"model.arguments.{name}",
                hint=f"Leave it out, choose another network with --model, or {_OTHERS}.",
            )


def _flow(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in arguments.items())
