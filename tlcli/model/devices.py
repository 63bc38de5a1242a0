"""The devices that a command computes on, and batches that several of them share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from tlcli.cluster.hosts import COUNT, Host, this_host
from tlcli.errors import UsageError
from tlcli.model import hosts
from tlcli.model.backend import ALL, require_backend, require_hosts
from tlcli.model.compiled import keep_compiled
from tlcli.model.precision import FULL

# The inputs of a training may take one part in so many of the free memory of an accelerator.
TABLE_SHARE = 8


@contextmanager
def use_device(device: str, *, joins_hosts: bool = False) -> Iterator[str]:
    """Compute on a device within the context, with networks that are built in float32.

    Args:
        device: `auto`, `cpu`, `gpu`, `tpu`, or one of these with a number, such as `gpu:1`, or with `all`, such as
            `gpu:all`: all devices of that kind, which share every batch, on JAX. Several hosts use all of their
            devices.
        joins_hosts: True to compute together with the other hosts, if the variables of Keras name any.

    Yields:
        The name of the device.

    Raises:
        UsageError: The machine has no such device, Keras runs on another backend than TensorFlow and JAX, or the
            variables name several hosts and the command does not join them.
        RunError: Not all hosts come.
    """
    host = this_host()
    if host is not None:
        _require_joining(device, joins_hosts)
    with hosts.joined(host), _computing_on(device, host) as name:
        yield name


@contextmanager
def _computing_on(device: str, host: Host | None) -> Iterator[str]:
    """Compute on a device, or on all of several hosts."""
    require_backend(keras.backend.backend(), device)
    keep_compiled()
    available = {name.lower().replace("cuda", "gpu"): name for name in keras.distribution.list_devices()}
    requested, _, number = device.lower().partition(":")
    chosen = _choose_device(requested if number == ALL else device.lower(), list(available))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(FULL)
    try:
        if number == ALL or host is not None:
            requested = chosen.partition(":")[0]
            same_kind = [available[name] for name in available if name.partition(":")[0] == requested]
            _require_equal_hosts(same_kind, host)
            with keras.distribution.DataParallel(devices=same_kind, auto_shard_dataset=False).scope():
                hosts.connect()
                yield f"{requested}:{ALL}"
        else:
            with keras.device(available[chosen]):
                yield chosen
    finally:
        keras.config.set_dtype_policy(before)


def _require_joining(device: str, joins_hosts: bool) -> None:
    """Refuse several hosts where a command does not support them, or their backend or device does not."""
    if not joins_hosts:
        hint = f"Unset {COUNT}, or train one recipe with one network."
        raise UsageError("only one training by `tlcli finetune` runs on several hosts", where=COUNT, hint=hint)
    require_hosts(keras.backend.backend(), device)


def _require_equal_hosts(devices: list[str], host: Host | None) -> None:
    """Check that all hosts have the same number of devices."""
    if host is None:
        return
    import jax

    if jax.local_device_count() * host.count != len(devices):
        own, hint = jax.local_device_count(), "Start the command where they have equally many devices."
        raise UsageError(f"this host has {own} of {len(devices)} devices", where=COUNT, hint=hint)


def devices_in_use() -> int:
    """The number of devices that share every batch."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.device_mesh.devices.size)


def table_bytes() -> int:
    """Bytes of memory of the accelerator in use that may hold all inputs of a training; 0 on a CPU.

    Several devices would need a copy each. On TensorFlow, batches come from a dataset, which works ahead.
    """
    if keras.backend.backend() != "jax" or keras.distribution.distribution() is not None:
        return 0
    import jax

    (device,) = jax.numpy.zeros(()).devices()
    memory = device.memory_stats() or {}
    return int((memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)) // TABLE_SHARE)


def _choose_device(requested: str, available: list[str]) -> str:
    kinds = ("tpu", "gpu", "cpu") if requested == "auto" else (requested,)
    for kind in kinds:
        for name in available:
            if name == kind or name.partition(":")[0] == kind:
                return name
    raise UsageError(
        f"Keras ({keras.backend.backend()}) finds no such device (got '{requested}')",
        where="--device",
        hint=f"Available: auto, {', '.join(available)}. For details: tlcli doctor",
    )


def require_shareable(batch: int) -> None:
    """Check that the devices in use can share a batch of training images equally.

    Raises:
        UsageError: If they cannot.
    """
    if batch % (count := devices_in_use()):
        hint = f"Take a multiple of {count}, for example --batch {-(-batch // count) * count}."
        raise UsageError(f"{count} devices cannot share it equally (got {batch})", where="performance.batch", hint=hint)


def on_devices(compute: Callable[[Any], Any], inputs: np.ndarray) -> Any:
    """The outputs of `predict_on_batch` or a like function, with the batch shared between the devices in use.

    Args:
        compute: From inputs, batch first, to an array, or a list of arrays, batch first.
        inputs: The batch; it is filled up with its last row until the devices can share it.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return compute(inputs)
    missing = -len(inputs) % devices_in_use()
    padded = np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)])
    import jax

    # Several devices are those of JAX. Each takes its rows from the batch of its host.
    layout = distribution.get_data_layout(padded.shape).backend_layout
    shared = jax.make_array_from_process_local_data(layout, padded, padded.shape)
    return keras.tree.map_structure(lambda output: output[: len(inputs)], compute(shared))
