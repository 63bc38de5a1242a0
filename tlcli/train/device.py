"""The device and precision a run computes with."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from tlcli.errors import UsageError


@contextmanager
def use(device: str, precision: str) -> Iterator[str]:
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
