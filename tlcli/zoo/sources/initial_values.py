"""Initial values of networks whose weights come from a file anyway."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np


@contextmanager
def plain_initial_values() -> Iterator[None]:
    """A context in which the initialisers of Keras give zeros in place of random values, and compile nothing.

    On JAX, the initial values of each shape are a program of their own, and one with random values takes a third of a
    second to compile on a CPU: those of MobileNetV2 took 12 seconds.
    """
    calls = {initialiser: initialiser.__call__ for initialiser in _PLAIN}
    _set_calls(_PLAIN)
    try:
        yield
    finally:
        _set_calls(calls)


def _zeros(_: Any, shape: Sequence[int], dtype: Any = None, **__: Any) -> np.ndarray:
    return np.zeros(shape, dtype=keras.backend.standardize_dtype(dtype))


def _ones(_: Any, shape: Sequence[int], dtype: Any = None, **__: Any) -> np.ndarray:
    return np.ones(shape, dtype=keras.backend.standardize_dtype(dtype))


_PLAIN: dict[type[keras.Initializer], Callable[..., Any]] = {
    keras.initializers.VarianceScaling: _zeros,
    keras.initializers.RandomNormal: _zeros,
    keras.initializers.RandomUniform: _zeros,
    keras.initializers.TruncatedNormal: _zeros,
    keras.initializers.Zeros: _zeros,
    keras.initializers.Ones: _ones,
}


def _set_calls(calls: Mapping[type[keras.Initializer], Callable[..., Any]]) -> None:
    for initialiser, call in calls.items():
        setattr(initialiser, "__call__", call)  # noqa: B010  # mypy refuses an assignment to a method.
