"""Device and precision: where the layers compute, and in float32 or bfloat16."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from tlcli.errors import UsageError
from tlcli.model.backbone import PREPROCESS
from tlcli.paths import write_json


@contextmanager
def use_device(device: str, precision: str) -> Iterator[str]:
    """Compute on `device` (`auto`, `cpu`, `gpu`, `tpu`, or one of them with a number, `gpu:1`) within the block.

    `precision` is `float32`, `bfloat16`, `float16` (both with float32 weights), or `auto`, which is float32.
    Yields the device's name.

    Raises:
        UsageError: If the machine has no such device.
    """
    found = {name.lower().replace("cuda", "gpu"): name for name in keras.distribution.list_devices()}
    chosen = _choose(device.lower(), list(found))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if precision in ("auto", "float32") else f"mixed_{precision}")
    try:
        with keras.device(found[chosen]):
            yield chosen
    finally:
        keras.config.set_dtype_policy(before)


def _choose(asked: str, found: list[str]) -> str:
    kinds = ("tpu", "gpu", "cpu") if asked == "auto" else (asked,)
    for kind in kinds:
        for name in found:
            if name == kind or name.partition(":")[0] == kind:
                return name
    raise UsageError(
        f"this machine has no device '{asked}' that Keras ({keras.backend.backend()}) can see",
        where="--device",
        hint=f"Here: auto, {', '.join(found)}. `tlcli doctor` tells more.",
    )


FULL, HALF = "float32", "bfloat16"
# Under this name the precision of frozen layers is noted, others under the names of steps.
FROZEN = "frozen layers"
# Operations that computing must take to be worth a measurement: minutes. On a processor, and on what is made for it.
WORTH_ON_CPU, WORTH_ELSEWHERE = 1e13, 1e15
# Half precision must be so many times faster to be taken.
FASTER = 1.15
_STEPS = 3


def is_worth_measuring(operations: float, device: str) -> bool:
    """Whether so much training, floating point operations, is long enough on a device named like `cpu:0`."""
    return operations >= (WORTH_ON_CPU if device.startswith("cpu") else WORTH_ELSEWHERE)


def faster_precision(seconds: Mapping[str, float]) -> str:
    """The precision to take, by the seconds that a step takes in each.

    >>> better({"float32": 1.0, "bfloat16": 0.5}), better({"float32": 1.0, "bfloat16": 0.95})
    ('bfloat16', 'float32')
    """
    return HALF if seconds[FULL] >= FASTER * seconds[HALF] else FULL


@contextmanager
def computing_in(model: keras.Model, precision: str) -> Iterator[None]:
    """Inside, layers that compute in float32 do so in `precision`, float32 or bfloat16, when they are called.

    But for preprocessing, which is exact in any case. Nothing stays of it: neither in the network nor in a file it is
    saved to.
    """
    layers = [
        layer
        for layer in model._flatten_layers()
        if layer.dtype_policy.name == FULL and not layer.name.startswith(PREPROCESS)
    ]
    wanted = keras.DTypePolicy(FULL if precision == FULL else f"mixed_{precision}")
    for layer in layers:
        layer.dtype_policy = wanted
    try:
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = keras.DTypePolicy(FULL)


def measure_seconds(step_in: Callable[[str], Callable[[], object]]) -> dict[str, float]:
    """Seconds that a step takes in each precision: the shortest of a few, after the network was traced.

    `step_in` is given a precision and returns what makes one step in it.
    """
    seconds = {}
    for precision in (HALF, FULL):
        step = step_in(precision)
        step()
        seconds[precision] = min(_seconds(step) for _ in range(_STEPS))
    return seconds


def _seconds(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def choose_precision(path: Path, key: str, measure: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """What to compute in, `chosen`, and the `seconds_a_step` that say so: noted in `path` before, or measured now."""
    seconds = load_measurement(path, key)
    if seconds is None:
        seconds = measure()
        save_measurement(path, key, seconds)
    return {"chosen": faster_precision(seconds), "seconds_a_step": seconds}


def measurement_key(network: str, operations: float, shape: tuple[int, ...], device: str) -> str:
    """What a measurement is about: layers of a network by what they cost, their input, and what computes them."""
    facts = [keras.__version__, keras.backend.backend(), device, os.cpu_count(), network, int(operations), *shape]
    return " ".join(map(str, facts))


def load_measurement(path: Path, key: str) -> dict[str, float] | None:
    """What was measured for `key` before, on this machine."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(key)
        return {name: float(found[name]) for name in (FULL, HALF)} if found else None
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        # A cache, not worth a complaint: what cannot be read is measured again.
        return None


def save_measurement(path: Path, key: str, seconds: Mapping[str, float]) -> None:
    """Note a measurement for later runs."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, (found if isinstance(found, dict) else {}) | {key: dict(seconds)})
