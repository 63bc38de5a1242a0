"""Values that several hosts share: batches by their rows, outputs by all, decisions by the first host.

All hosts run the same program on the same images, so they reach the same operations in the same order; each needs all
hosts. Whatever may differ between them must be agreed on here first: what lies in a cache, and what is solved outside
of JAX.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from tlcli.cluster.hosts import ADDRESSES, COUNT, Host, this_host
from tlcli.errors import RunError, UsageError
from tlcli.model.seed import set_random_seed

# Seconds to wait for the other hosts at the start, and for a sign of life later.
START_S, ALIVE_S = 300, 60
# How errors of JAX begin that another host cannot have caused.
OWN_ERRORS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")


@contextmanager
def joined(host: Host | None) -> Iterator[None]:
    """Compute together with the other hosts, on JAX, within the context; does nothing if there are none.

    Must be entered before the first computation. Nothing that is written to stdout appears, because the library that
    connects the hosts says so there.

    Raises:
        RunError: If not all hosts come, one is lost, or one has other weights.
    """
    if host is None:
        yield
        return
    _join(host)
    stdout = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        with explained():
            yield
            _leave(host)
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors of operations that need all hosts into errors that say so.

    Raises:
        RunError: If a host is lost, or one has other weights.
    """
    if this_host() is None:
        yield
        return
    import jax

    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # JAX raises a ValueError where it has compiled the program before.
        if isinstance(error, ValueError) and "Gloo" not in str(error):
            raise
        # An error of this host alone, such as too little memory.
        if str(error).startswith(OWN_ERRORS):
            raise
        reason = str(error).partition("\n")[0][:200]
        hint = "Their own messages say why. Start all again; --resume RUN continues an interrupted run."
        raise RunError(f"the other hosts do not answer ({reason})", where=COUNT, hint=hint) from error
    except AssertionError as error:
        if "same on each process" not in str(error):
            raise
        hint = "Give all hosts the same files of weights."
        raise RunError("the hosts have different weights", where=COUNT, hint=hint) from error


def _join(host: Host) -> None:
    """Wait for the other hosts, once in a process."""
    import jax

    if jax.distributed.is_initialized():
        return
    # Otherwise, a process ends without an error of ours, after a minute, if another one is lost.
    jax.config.update("jax_enable_recoverability", True)
    timeouts = {"initialization_timeout": START_S, "heartbeat_timeout_seconds": ALIVE_S}
    try:
        jax.distributed.initialize(host.address, host.count, host.number, **timeouts)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        hint = f"Start the command on all {host.count} hosts; the first must be reachable from the others."
        raise RunError(f"the {host.count} hosts did not meet ({reason})", where=ADDRESSES, hint=hint) from error
    # Weights that are not pretrained must be the same everywhere.
    set_random_seed(0)


def connect() -> None:
    """Connect all devices while all hosts are here: later, each would wait half a minute for the others, no longer."""
    if count() == 1:
        return
    import jax

    _all(np.ones(1, np.int32))
    devices = keras.distribution.distribution().device_mesh.devices.size
    layout = keras.distribution.distribution().get_data_layout((devices,)).backend_layout
    ones = np.ones(devices, np.float32)
    jax.block_until_ready(keras.ops.sum(jax.make_array_from_process_local_data(layout, ones, ones.shape)))


def _leave(host: Host) -> None:
    """Wait until all hosts are done; the first one ends last, because the others end when they lose it."""
    import jax

    all_are_done = np.ones(1, np.int32)
    _all(all_are_done)
    if not host.is_first:
        jax.distributed.shutdown()
    _all(all_are_done)


def count() -> int:
    """The number of hosts that train together; 1 for a process that trains alone."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.num_processes)


def share_of(batch: Any) -> Any:
    """The rows of a batch that belong to this host.

    Args:
        batch: Arrays, batch first, in any structure. The batch is the same on all hosts and can be shared equally.
    """
    hosts = count()
    if hosts == 1:
        return batch
    number = keras.distribution.distribution().data_shard_id

    def share(array: np.ndarray) -> np.ndarray:
        rows = len(array) // hosts
        return array[number * rows : (number + 1) * rows]

    return keras.tree.map_structure(share, batch)


def gathered(outputs: Any) -> Any:
    """In a model: outputs that every host can read in full. Without it, each holds those of its own rows."""
    if count() == 1:
        return outputs
    mesh = keras.distribution.distribution().device_mesh

    def gather(tensor: Any) -> Any:
        layout = keras.distribution.TensorLayout([None] * len(tensor.shape), mesh)
        return keras.distribution.distribute_tensor(tensor, layout)

    return keras.tree.map_structure(gather, outputs)


def from_first(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arrays of the first host. Theirs are of the same shapes, and float32 or int32."""
    if count() == 1:
        return list(arrays)
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return [np.asarray(array) for array in broadcast_one_to_all(list(arrays))]


def true_everywhere(facts: Sequence[bool]) -> list[bool]:
    """For each fact, whether it is true on all hosts."""
    if count() == 1:
        return list(facts)
    return [bool(fact) for fact in _all(np.array(facts, np.int32)).min(axis=0)]


def require_same(digest: bytes, what: str) -> None:
    """Check that all hosts have the same.

    Args:
        digest: A hash of what must be the same; of the same length everywhere.
        what: Its name, for the error.

    Raises:
        UsageError: If one has another.
    """
    if count() == 1:
        return
    differing = [number for number, row in enumerate(_all(np.frombuffer(digest, np.uint8))) if bytes(row) != digest]
    if differing:
        # All hosts find this at the same time. One that is left alone would be ended by the library, with its own code.
        if host := this_host():
            _leave(host)
        listed = ", ".join(map(str, differing))
        hint = "Start the same command with the same version of tlcli on the same images everywhere."
        raise UsageError(f"host {listed} has other {what} than this one", where=COUNT, hint=hint)


def _all(array: np.ndarray) -> np.ndarray:
    """The arrays of all hosts, stacked."""
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(array))
