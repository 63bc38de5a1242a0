"""The connection to a Ray cluster: one for the whole command, because images are read in a thread of their own.

Ray is imported in this room only, and only if a command has `--cluster`.
"""

import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tlcli.errors import UsageError

LOCAL = "local"
# Seconds to wait for an answer of the address.
CONNECT_S = 5.0
OPTION = "--cluster"
# The first bytes of a client of HTTP/2, and an empty frame of settings, of type 4: RFC 9113, sections 3.4 and 6.5.
_HTTP_2, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"
_INSTALL = "Install it: pip install 'tlcli[ray]', here and on all nodes."


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        id: Its identifier.
        address: Its address.
        cpus: Processor cores that Ray may use.
        gpus: GPUs that Ray may use.
    """

    id: str
    address: str
    cpus: int
    gpus: int


@dataclass
class Cluster:
    """A cluster. It is connected when it is first used, so a command that finds everything in its caches never is.

    Attributes:
        address: What the user named.
        report: Called with one sentence when something happens that the user should know, such as a lost node.
        idle: Workers without work, by their cores and GPUs. They have loaded their libraries.
    """

    address: str
    report: Callable[[str], None] = lambda text: None
    idle: dict[tuple[int, int], list[Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def nodes(self) -> list[Node]:
        """The nodes that are alive now.

        Raises:
            UsageError: If there is no such cluster.
        """
        import ray

        with self._lock:
            if not ray.is_initialized():
                _connect(ray, self.address)
        return [
            Node(node["NodeID"], node["NodeManagerAddress"], *_counts(node["Resources"]))
            for node in ray.nodes()
            if node["Alive"]
        ]


def _counts(resources: dict[str, float]) -> tuple[int, int]:
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))


_current: list[Cluster] = []


def current() -> Cluster | None:
    """The cluster of this command; None without `--cluster`."""
    return _current[-1] if _current else None


@contextmanager
def use_cluster(address: str | None) -> Iterator[Cluster | None]:
    """Compute on a cluster within the context.

    Args:
        address: `local` for workers on this machine, `auto` or `HOST:PORT` for the cluster that this machine belongs
            to; None to compute in this process.

    Raises:
        UsageError: If Ray is not installed, or there is no such cluster.
    """
    if address is None:
        yield None
        return
    ray = _load_ray()
    if address not in (LOCAL, "auto"):
        _require_answer(address)
    _current.append(Cluster(address))
    try:
        yield _current[-1]
    finally:
        _current.pop()
        ray.shutdown()


@contextmanager
def reporting(report: Callable[[str], None]) -> Iterator[None]:
    """Tell `report` what happens in the cluster, within the context."""
    cluster = current()
    if cluster is None:
        yield
        return
    before, cluster.report = cluster.report, report
    try:
        yield
    finally:
        cluster.report = before


def _load_ray() -> Any:
    # Ray reports its use over the network otherwise.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray gives workers the niceness 15. Beside other work on this machine, they would get little of it.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Only later versions of Ray behave so; this one warns about it.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UsageError("needs Ray, which is not installed", where=OPTION, hint=_INSTALL) from error
    # Ray prints on stdout that a node has died, which would break --json. The crew reports what matters.
    importlib.import_module("ray._private.worker").__dict__.update(print_to_stdstream=_drop)
    return ray


def _drop(*_: Any, **__: Any) -> None:
    """Print nothing."""


def _connect(ray: Any, address: str) -> None:
    """Connect. Ray ends the process on SIGTERM, where this program leaves a run to resume; its own handler is kept."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _init(ray, address)
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _init(ray: Any, address: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == LOCAL:
        ray.init(address=LOCAL, num_cpus=os.cpu_count(), include_dashboard=False, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, str(error).partition("\n")[0].rstrip(".")) from error


def _require_answer(address: str) -> None:
    """Check that something at the address speaks HTTP/2, as Ray does. Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and "/" not in address):
        raise UsageError(
            f"is no address (got '{address}')",
            where=OPTION,
            hint="Give local, auto or HOST:PORT. The command must run on a machine of the cluster.",
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.sendall(_HTTP_2 + _SETTINGS)
            reply = connection.recv(len(_SETTINGS))
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, getattr(error, "strerror", None) or str(error)) from error
    if reply[3:4] != _SETTINGS[3:4]:
        raise _no_cluster(address, "something else answers there")


def _no_cluster(address: str, reason: str) -> UsageError:
    hint = "Start it: ray start --head, and on this machine ray start --address=HOST:6379. Or use --cluster local."
    return UsageError(
        f"there is no Ray cluster at {address} that this machine belongs to ({reason})", where=OPTION, hint=hint
    )
