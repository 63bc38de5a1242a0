"""Which network `auto` stands for: MobileNetV2 if its ImageNet weights are available, else the bundled one."""

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
# Where Keras fetches the weights of PREFERRED; keras.src.applications.mobilenet_v2 has the same under BASE_WEIGHT_PATH.
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
WAIT_S = 3.0
_PUBLISHED_SIZES = (96, 128, 160, 192, 224)


@dataclass(frozen=True)
class Choice:
    """The network taken for `auto`; `notice` says why and at what cost where it is not the preferred one."""

    name: str
    notice: str = ""


def choose_default(arguments: Mapping[str, Any], size: tuple[int, int] | None, weights: str | None) -> Choice:
    """Settle `auto`: asks the disk first, then the network, for at most `WAIT_S` seconds.

    Args:
        arguments: Architecture arguments of the recipe.
        size: Input height and width, pixels; None for the network's own.
        weights: Weights named in the recipe. With them nothing has to be fetched.
    """
    if weights is not None or not _fits_bundled(arguments):
        return Choice(PREFERRED)
    file = weights_file(arguments, size)
    if (keras_cache() / "models" / file).is_file() or can_fetch(BASE_URL + file):
        return Choice(PREFERRED)
    return Choice(BUNDLED, _notice(catalogue.find(BUNDLED)))


def weights_file(arguments: Mapping[str, Any], size: tuple[int, int] | None) -> str:
    """The file in which Keras keeps the ImageNet weights of MobileNetV2 without top.

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
    """Where Keras keeps what it downloads, found the way Keras does, without loading it."""
    if home := os.environ.get("KERAS_HOME"):
        return Path(home)
    home = os.path.expanduser("~")
    return Path(home if os.access(home, os.W_OK) else "/tmp") / ".keras"


def can_fetch(url: str) -> bool:
    """Whether a file can be had from a server within `WAIT_S` seconds; only its header is asked for.

    Proxies are used as the environment names them.
    """
    answers: list[bool] = []
    # Looking up a name has no time limit of its own; a daemon thread can be left behind.
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
        # Any failure has the same meaning here; a download that is tried tells its reason.
        return False


def _fits_bundled(arguments: Mapping[str, Any]) -> bool:
    """Whether the arguments leave the bundled network as it is. Who asks for another wants its weights, or none."""
    try:
        require_arguments(catalogue.find(BUNDLED), arguments)
    except WeightsError:
        return False
    return True


def _notice(card: ModelCard) -> str:
    return (
        f"the ImageNet weights of {PREFERRED} are neither in Keras's cache nor can they be fetched from here, so the"
        f" bundled network '{card.name}' is used. It was trained on synthetic images of {card.size} × {card.size} pixels:"
        " on photographs expect clearly lower accuracy than with ImageNet weights (docs/recipes.md, model)."
        f" To have those: --model {PREFERRED} with a connection, or with --weights FILE."
        f" To choose the bundled network yourself: --model {card.name}"
    )
