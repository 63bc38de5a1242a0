"""The weights files that Keras publishes for the networks of keras.applications: name, address and hash of each.

The list is `models/published_weights.json`, written by `scripts/list_published_weights.py` from the installed Keras.
Keras states an md5 for most files, a sha256 for ConvNeXt, and no hash for MobileNet and MobileNetV2.
"""

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tlcli.errors import WeightsError
from tlcli.paths import bundled
from tlcli.zoo.card import ModelCard
from tlcli.zoo.download import RemoteFile

LIST = "published_weights.json"
NOT_STATED = "sha256 not stated: its publisher gives no hash, so a wrong file would not be noticed"
# Values that Keras takes if an argument is not given, for the arguments on which its files depend.
_DEFAULTS: dict[str, Any] = {"alpha": 1.0, "minimalistic": False}


def remote_file(
    card: ModelCard, *, arguments: Mapping[str, Any] | None = None, size: tuple[int, int] | None = None
) -> RemoteFile | None:
    """The file with the ImageNet weights of a network.

    Args:
        card: A card.
        arguments: Architecture arguments of the user; they override those of the card.
        size: Input height and width, pixels; None for that of the card.

    Returns:
        The file; None if the card has weights of its own, or its network is not one of keras.applications.

    Raises:
        WeightsError: Keras publishes no weights for these arguments.
    """
    kind, _, handle = card.source.partition(":")
    if kind != "keras" or card.weights is not None:
        return None
    entries = _entries().get(handle, [])
    chosen = {**_DEFAULTS, **card.arguments, **(arguments or {})}
    fitting = [entry for entry in entries if all(chosen[key] == value for key, value in entry["arguments"].items())]
    known = {key for entry in entries for key in entry["arguments"]}
    other = {key: value for key, value in chosen.items() if key not in known and key not in _DEFAULTS}
    if not fitting or not _are_defaults(other):
        raise _unpublished(card, {**card.arguments, **(arguments or {})}, entries)
    height, width = size or (card.size, card.size)
    trained_at = height if height == width else None
    entry = next((entry for entry in fitting if entry["size"] == trained_at), None) or fitting[0]
    return RemoteFile(
        name=entry["name"],
        url=entry["url"],
        hash=entry["hash"] or "",
        title=f"the ImageNet weights of {card.name}",
        also_in=(keras_cache() / "models",),
    )


def unverified(
    card: ModelCard, *, arguments: Mapping[str, Any] | None = None, size: tuple[int, int] | None = None
) -> str:
    """A few words if nobody states a hash of the weights that are fetched for a network, else the empty string."""
    if card.kind == "kerashub":
        return NOT_STATED
    file = remote_file(card, arguments=arguments, size=size)
    return NOT_STATED if file is not None and not file.hash else ""


def all_files(card: ModelCard) -> list[tuple[dict[str, Any], int | None, RemoteFile]]:
    """All files that Keras publishes for a card: arguments, size (None: all others) and file."""
    if card.weights is not None:
        return []
    found = []
    for entry in _entries().get(card.source.removeprefix("keras:"), []):
        size = entry["size"] or card.size
        file = remote_file(card, arguments=entry["arguments"], size=(size, size))
        if file is not None:
            found.append((entry["arguments"], entry["size"], file))
    return found


def keras_cache() -> Path:
    """The folder of Keras's downloads, by the rules of Keras but without loading it."""
    if home := os.environ.get("KERAS_HOME"):
        return Path(home)
    home = os.path.expanduser("~")
    return Path(home if os.access(home, os.W_OK) else "/tmp") / ".keras"


@cache
def _entries() -> dict[str, list[dict[str, Any]]]:
    tree: dict[str, list[dict[str, Any]]] = json.loads((bundled("models") / LIST).read_text(encoding="utf-8"))
    return tree


def _are_defaults(arguments: Mapping[str, Any]) -> bool:
    # The only other argument that a network without top has; Keras publishes weights for its default alone.
    return all(name == "depth_multiplier" and value == 1 for name, value in arguments.items())


def _unpublished(card: ModelCard, arguments: Mapping[str, Any], entries: list[dict[str, Any]]) -> WeightsError:
    choices = dict.fromkeys(
        ", ".join(f"{key}: {value}" for key, value in entry["arguments"].items()) for entry in entries
    )
    listed = " | ".join(f"{{{choice}}}" for choice in choices if choice) or "none"
    return WeightsError(
        f"Keras publishes no ImageNet weights for {card.name} with {dict(arguments)}",
        where="model.arguments",
        hint=f"Arguments with weights: {listed}. Change them, or use --weights FILE or --weights random.",
    )
