"""The network that `auto` stands for: MobileNetV2 if its ImageNet weights are available, else the bundled network."""

import http.client
import os
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.errors import WeightsError
from tlcli.zoo import catalogue
from tlcli.zoo.card import ModelCard, require_arguments

AUTO = "auto"
PREFERRED = "mobilenet_v2"
BUNDLED = "mobilenet_synthetic"
# The address of the weights of PREFERRED, equal to keras.src.applications.mobilenet_v2.BASE_WEIGHT_PATH.
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
WAIT_S = 3.0
_PUBLISHED_SIZES = (96, 128, 160, 192, 224)


@dataclass(frozen=True)
class Choice:
    """The network chosen for `auto`. If it is not the preferred one, `notice` gives the reason and the consequences."""

    name: str
    notice: str = ""


def choose_default(arguments: Mapping[str, Any], size: tuple[int, int] | None, weights: str | None) -> Choice:
    """Choose the network for `auto`. Looks for weights on disk first, then on the server, at most `WAIT_S` seconds.

    Args:
        arguments: Architecture arguments of the recipe.
        size: Input height and width, pixels; None for the size of the network.
        weights: Weights named in the recipe; then no weights need to be fetched.
    """
    if weights is not None or not _fits_bundled(arguments):
        return Choice(PREFERRED)
    file = weights_file(arguments, size)
    if (keras_cache() / "models" / file).is_file() or can_fetch(BASE_URL + file):
        return Choice(PREFERRED)
    return Choice(BUNDLED, _notice(catalogue.find(BUNDLED)))


def weights_file(arguments: Mapping[str, Any], size: tuple[int, int] | None) -> str:
    """Name of the file with the ImageNet weights of MobileNetV2 without top.

    >>> weights_file({"alpha": 0.35}, (96, 96))
    'mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5'
    >>> weights_file({}, (64, 96))
    'mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5'
    """
    height, width = size or (224, 224)
    trained_at = height if height == width and height in _PUBLISHED_SIZES else 224
    alpha = float(arguments.get("alpha", 1.0))
    return f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_{trained_at}_no_top.h5"


def keras_cache() -> Path:
    """The folder of Keras's downloads, by the rules of Keras but without loading it."""
    if home := os.environ.get("KERAS_HOME"):
        return Path(home)
    home = os.path.expanduser("~")
    return Path(home if os.access(home, os.W_OK) else "/tmp") / ".keras"


def can_fetch(url: str) -> bool:
    """True if a server offers a file within `WAIT_S` seconds. Only the header is requested.

    Proxies of the environment are used.
    """
    answers: list[bool] = []
    # Name resolution has no timeout, so it runs in a daemon thread that can be abandoned.
    thread = threading.Thread(target=lambda: answers.append(_answers(url)), daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return any(answers)


def _answers(url: str) -> bool:
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.build_opener().open(request, timeout=WAIT_S):
            return True
    except (OSError, http.client.HTTPException, ValueError):
        # The reason does not matter here; a real download reports it.
        return False


def _fits_bundled(arguments: Mapping[str, Any]) -> bool:
    """True if the bundled weights fit the arguments. For other arguments the bundled network is no substitute."""
    try:
        require_arguments(catalogue.find(BUNDLED), arguments)
    except WeightsError:
        return False
    return True


def _notice(card: ModelCard) -> str:
    return (
        f"the ImageNet weights of {PREFERRED} are neither in Keras's cache nor reachable, so the bundled network"
        f" '{card.name}' is used. It was trained on synthetic images of {card.size} × {card.size} pixels: expect"
        " clearly lower accuracy on photographs than with ImageNet weights (docs/recipes.md, model)."
        f" For ImageNet weights: --model {PREFERRED} with a connection, or with --weights FILE."
        f" To choose the bundled network explicitly: --model {card.name}"
    )
