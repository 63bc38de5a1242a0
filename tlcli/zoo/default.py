"""The network that `auto` stands for: MobileNetV2 if its ImageNet weights are available, else the bundled network."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlcli.errors import WeightsError
from tlcli.zoo import catalogue, download, published
from tlcli.zoo.card import ModelCard, require_arguments
from tlcli.zoo.download import RemoteFile

AUTO = "auto"
PREFERRED = "mobilenet_v2"
BUNDLED = "mobilenet_synthetic"
WAIT_S = 3.0


@dataclass(frozen=True)
class Choice:
    """The network chosen for `auto`. If it is not the preferred one, `notice` gives the reason and the consequences."""

    name: str
    notice: str = ""


def choose_default(arguments: Mapping[str, Any], size: tuple[int, int] | None, weights: str | None) -> Choice:
    """Choose the network for `auto`.

    Looks for weights on disk first, then in the mirror and on the server, at most `WAIT_S` seconds.

    Args:
        arguments: Architecture arguments of the recipe.
        size: Input height and width, pixels; None for the size of the network.
        weights: Weights named in the recipe; then no weights need to be fetched.
    """
    if weights is not None or not _fits_bundled(arguments):
        return Choice(PREFERRED)
    bundled = Choice(BUNDLED, _notice(catalogue.find(BUNDLED)))
    try:
        file = published.remote_file(catalogue.find(PREFERRED), arguments=arguments, size=size)
    except WeightsError:
        return bundled
    is_there = file is not None and (download.find_local(file, checked=False) is not None or can_fetch(file))
    return Choice(PREFERRED) if is_there else bundled


def can_fetch(file: RemoteFile) -> bool:
    """True if the mirror or the server offers a file within `WAIT_S` seconds. Only the header is requested.

    Proxies of the environment are used.
    """
    download.mirror()  # an invalid one is an error here, not in the thread
    answers: list[bool] = []
    # Name resolution has no timeout, so it runs in a daemon thread that can be abandoned.
    thread = threading.Thread(target=lambda: answers.append(download.is_offered(file, timeout_s=WAIT_S)), daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return any(answers)


def _fits_bundled(arguments: Mapping[str, Any]) -> bool:
    """True if the bundled weights fit the arguments. For other arguments the bundled network is no substitute."""
    try:
        require_arguments(catalogue.find(BUNDLED), arguments)
    except WeightsError:
        return False
    return True


def _notice(card: ModelCard) -> str:
    return (
        f"the ImageNet weights of {PREFERRED} are neither cached nor reachable, so the bundled network"
        f" '{card.name}' is used. It was trained on synthetic images of {card.size} × {card.size} pixels: expect"
        " clearly lower accuracy on photographs than with ImageNet weights (docs/recipes.md, model)."
        f" For ImageNet weights: --model {PREFERRED} with a connection, or with --weights FILE."
        f" To choose the bundled network explicitly: --model {card.name}"
    )
