"""Precision: whether layers compute in float32 or in half precision.

Networks are built and saved in float32, and scored images are computed in it. `computing_in` trains and passes training
images in half precision. The rest of the module measures whether bfloat16 is faster, and remembers the result on disk.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from tlcli.model import hosts
from tlcli.model.backbone import PREPROCESS
from tlcli.paths import write_json

FULL, HALF = "float32", "bfloat16"
# The choice by measurement.
AUTO = "auto"


# The name under which the precision of frozen layers is recorded, beside the names of steps.
FROZEN = "frozen layers"
# Floating point operations from which a measurement pays off, a minute or more: on a CPU, and on an accelerator.
MIN_OPERATIONS_CPU, MIN_OPERATIONS_ACCELERATOR = 1e13, 1e15
# bfloat16 is chosen if it is at least this many times faster.
MIN_SPEEDUP = 1.15
_MEASURED_STEPS = 3


def is_worth_measuring(operations: float, device: str) -> bool:
    """True if training takes long enough to measure its precision first. Several hosts could measure differently.

    Args:
        operations: Floating point operations of the training.
        device: Device name, such as `cpu:0`.
    """
    if hosts.count() > 1:
        return False
    return operations >= (MIN_OPERATIONS_CPU if device.startswith("cpu") else MIN_OPERATIONS_ACCELERATOR)


def faster_precision(seconds: Mapping[str, float]) -> str:
    """The precision to compute in, from the seconds that a step takes in each.

    >>> faster_precision({"float32": 1.0, "bfloat16": 0.5}), faster_precision({"float32": 1.0, "bfloat16": 0.95})
    ('bfloat16', 'float32')
    """
    return HALF if seconds[FULL] >= MIN_SPEEDUP * seconds[HALF] else FULL


@contextmanager
def computing_in(model: keras.Model, precision: str) -> Iterator[None]:
    """A context in which the float32 layers of a model compute in `precision`: float32, bfloat16 or float16.

    Weights stay float32.

    Preprocessing layers always compute in float32. The policies are restored afterwards, so neither the model nor a
    file saved from it changes.
    """
    layers = [
        layer
        for layer in model._flatten_layers()
        if layer.dtype_policy.name == FULL and not layer.name.startswith(PREPROCESS)
    ]
    policy = keras.DTypePolicy(FULL if precision == FULL else f"mixed_{precision}")
    for layer in layers:
        layer.dtype_policy = policy
    try:
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = keras.DTypePolicy(FULL)


def measure_seconds(step_in: Callable[[str], Callable[[], object]]) -> dict[str, float]:
    """Seconds of a step in each precision: the shortest of three, after one for tracing.

    Args:
        step_in: Takes a precision and returns a function that runs one step in it.
    """
    seconds = {}
    for precision in (HALF, FULL):
        step = step_in(precision)
        step()
        seconds[precision] = min(_seconds(step) for _ in range(_MEASURED_STEPS))
    return seconds


def _seconds(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def choose_precision(path: Path, key: str, measure: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """Choose a precision by the measurement stored in `path`, or by a new one, which is stored.

    Returns:
        `chosen`, the precision, and `seconds_a_step`, the seconds of a step in each.
    """
    seconds = load_measurement(path, key)
    if seconds is None:
        seconds = measure()
        save_measurement(path, key, seconds)
    return {"chosen": faster_precision(seconds), "seconds_a_step": seconds}


def measurement_key(network: str, operations: float, shape: tuple[int, ...], device: str) -> str:
    """Key of a measurement: network, operations and input shape of a step, device, CPU count and Keras."""
    facts = [keras.__version__, keras.backend.backend(), device, os.cpu_count(), network, int(operations), *shape]
    return " ".join(map(str, facts))


def load_measurement(path: Path, key: str) -> dict[str, float] | None:
    """The stored seconds of a step in each precision; None if there are none or the file is unreadable."""
    try:
        seconds = json.loads(path.read_text(encoding="utf-8")).get(key)
        return {precision: float(seconds[precision]) for precision in (FULL, HALF)} if seconds else None
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        # This is only a cache: an unreadable measurement is repeated.
        return None


def save_measurement(path: Path, key: str, seconds: Mapping[str, float]) -> None:
    """Store a measurement in `path`, beside those with other keys."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, (stored if isinstance(stored, dict) else {}) | {key: dict(seconds)})
