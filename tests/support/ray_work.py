"""Work of a crew in tests, and a cluster of three nodes on this machine."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tlcli.cluster.connection import Cluster, use_cluster
from tlcli.errors import DataError

NODES = 3


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[Any]:
    """A Ray cluster of three nodes with one core each. Tests that kill one add another."""
    pytest.importorskip("ray", reason="needs tlcli[ray]")
    from ray.cluster_utils import Cluster as Nodes

    # Nodes inherit both; workers import this module.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(NODES - 1):
        nodes.add_node(num_cpus=1, wait=False)
    nodes.wait_for_nodes()
    yield nodes
    nodes.shutdown()


@pytest.fixture
def cluster(ray_nodes: Any) -> Iterator[Cluster]:
    """A connection to the three nodes."""
    with use_cluster(ray_nodes.address) as connected:
        assert connected is not None
        yield connected


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    pairs = [(int(stat.split()[0]), int(stat.rpartition(")")[2].split()[1])) for stat in stats]
    return [child for child, parent in pairs if parent == pid]


def prepared(node: Any) -> list[int]:
    """The prepared workers of a node. Ray names a process by what it does."""
    raylet = node.all_processes["raylet"][0].process
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(raylet.pid)}
    return [pid for pid, name in names.items() if name.startswith(b"ray::_Worker") and b"prepare" not in name]


def wait_for_worker(nodes: Any, *, most_s: float = 60) -> tuple[Any, int]:
    """A node that is not the first one, and its prepared worker. Waits until there is one."""
    seen: set[int] = set()
    for _ in range(int(most_s / 0.5)):
        found = {pid: node for node in nodes.worker_nodes for pid in prepared(node)}
        # Between its start and its preparation, a worker has the name of a prepared one.
        if settled := seen & found.keys():
            return found[min(settled)], min(settled)
        seen = set(found)
        time.sleep(0.5)
    raise TimeoutError("no worker has started on another node")


def kill_worker(nodes: Any) -> None:
    """Kill a worker of a node that is not the first one."""
    os.kill(wait_for_worker(nodes)[1], signal.SIGKILL)


def kill_node(nodes: Any) -> None:
    """Kill a node with a worker that is not the first one, as a power cut does."""
    node, _ = wait_for_worker(nodes)
    raylet = node.all_processes["raylet"][0].process
    for pid in [raylet.pid, *children(raylet.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    nodes.worker_nodes.remove(node)


def squares(offset: int) -> Callable[..., int]:
    """Prepares: the function that squares a number."""
    return lambda number: number * number + offset


def dying(folder: str) -> Callable[..., int]:
    """Prepares: 3 kills its worker the first time, 5 always; 7 is refused by a worker."""

    def work(number: int) -> int:
        if number == 3 and not (Path(folder) / "died").exists():
            (Path(folder) / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 7:
            raise DataError("is no number", where="7")
        return number

    return work


def dying_in_company(company: str) -> Callable[..., int]:
    """Prepares: 0 is lost as long as this file says that another piece waits behind it."""

    def work(number: int) -> int:
        time.sleep(0.5)
        if number == 0 and Path(company).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    return work


def slow(seconds: float) -> Callable[..., int]:
    """Prepares: the function that takes some time."""

    def work(number: int) -> int:
        time.sleep(seconds)
        return number

    return work
