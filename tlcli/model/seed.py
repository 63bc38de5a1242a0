"""The seed of all random numbers."""

import sys
from typing import Any, cast

import keras

TENSORFLOW = "tensorflow"


def set_random_seed(seed: int) -> None:
    """Seed Python, NumPy and Keras.

    On another backend, Keras would import TensorFlow to seed it as well, which takes seconds. It does not find it here,
    and where Keras only asks for it, takes it for not installed for the rest of the process. What needs it imports it.
    """
    is_hidden = keras.backend.backend() != TENSORFLOW and TENSORFLOW not in sys.modules
    modules = cast("dict[str, Any]", sys.modules)
    if is_hidden:
        modules[TENSORFLOW] = None  # None makes an import fail as if the module were not installed
    try:
        keras.utils.set_random_seed(seed)
    finally:
        if is_hidden:
            del modules[TENSORFLOW]
