"""A crew of workers on a cluster: each prepares itself once, then takes one piece of work after the other.

What a lost worker had is done again by another one. A worker is lost if its process or its node dies. The crew follows
the cluster: it hires workers on nodes that join.
"""

import importlib.metadata
import math
import os
import platform
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tlcli.cluster.connection import OPTION, Cluster
from tlcli.errors import DataError, RunError, TlcliError, UsageError
from tlcli.text import plural

# Pieces that a worker has at a time, if they are small.
PIECES_AHEAD = 2
# How often a piece may be lost with a worker that had no other. It is the likely cause if it always is.
MAX_LOSSES = 3
# Seconds between two looks at the nodes.
LOOK_EVERY_S = 2.0
# Packages that must have the same version everywhere, or results might differ.
SAME_VERSIONS = ("tlcli", "keras", "numpy", "pillow")
# Variables of this process that the workers need as well.
VARIABLES = ("KERAS_BACKEND", "TLCLI_CACHE", "TLCLI_ZOO", "TLCLI_CONFIG", "TLCLI_MIRROR", "TLCLI_OFFLINE")

LOST = object()
"""The result of a piece that is lost with every worker that tries it."""

Work = Callable[..., Any]


@dataclass(frozen=True)
class Job:
    """What the workers of a crew do.

    Attributes:
        name: For messages, such as "decoding".
        prepare: Called once in each worker; returns the function that does the work. Workers import it, so it is a
            module-level function.
        arguments: The arguments of `prepare`.
        cpus: Cores of a worker, which has as many threads.
        gpus: GPUs of a worker.
        is_ordered: True to yield the results in the order of the pieces.
        ahead: Pieces that a worker has at a time: one that it computes, and others that are on their way.
        most: Most workers; None for as many as there is room for.
    """

    name: str
    prepare: Callable[..., Work]
    arguments: tuple[Any, ...] = ()
    cpus: int = 1
    gpus: int = 0
    is_ordered: bool = False
    ahead: int = PIECES_AHEAD
    most: int | None = None


def run(cluster: Cluster, job: Job, pieces: int, piece: Callable[[int], tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """Do all pieces of work on a cluster.

    Args:
        cluster: The cluster.
        job: What to do.
        pieces: Number of pieces.
        piece: The arguments of a piece by its number. Called when a worker is about to take it, so that only the
            pieces under way are in memory.

    Yields:
        The number of a piece and its result, or `LOST`.

    Raises:
        UsageError: If no node has room for a worker, or a node has other versions.
        RunError: If a worker fails, or the cluster is gone.
        TlcliError: What the work raises.
    """
    crew = _Crew(cluster, job, piece, waiting=deque(range(pieces)))
    try:
        yield from _in_order(crew) if job.is_ordered else crew.results()
    finally:
        crew.dismiss()


def capacity(cluster: Cluster, cpus: int, gpus: int = 0) -> int:
    """Number of workers for which the cluster has room now."""
    nodes = cluster.nodes()
    return sum(min(node.cpus // cpus, node.gpus // gpus if gpus else node.cpus) for node in nodes)


def _in_order(crew: "_Crew") -> Iterator[tuple[int, Any]]:
    """The results in the order of the pieces."""
    kept: dict[int, Any] = {}
    for number, result in crew.results():
        kept[number] = result
        while crew.turn in kept:
            crew.turn += 1
            yield crew.turn - 1, kept.pop(crew.turn - 1)


@dataclass
class _Crew:
    """The workers of a job, and what each has.

    Attributes:
        waiting: Numbers of the pieces that no worker has.
        starting: Worker by the reference of its preparation.
        busy: Worker and number by the reference of a result.
        ready: The workers that are prepared.
        suspects: Pieces that were lost with a worker. Each is repeated by a worker that has nothing else: only then
            does a second loss say which piece is to blame.
        losses: How often a piece was lost alone.
        turn: For ordered results: the number of the piece that is yielded next.
        failed_starts: New workers in a row that were lost before they were prepared.
        reused: References of `starting` whose worker comes from an earlier crew. Its node may have been lost since.
    """

    cluster: Cluster
    job: Job
    piece: Callable[[int], tuple[Any, ...]]
    waiting: deque[int]
    starting: dict[Any, Any] = field(default_factory=dict)
    busy: dict[Any, tuple[Any, int]] = field(default_factory=dict)
    ready: list[Any] = field(default_factory=list)
    suspects: set[int] = field(default_factory=set)
    losses: Counter[int] = field(default_factory=Counter)
    turn: int = 0
    failed_starts: int = 0
    reused: set[Any] = field(default_factory=set)
    looked_at: float = -math.inf
    nodes: frozenset[str] = frozenset()

    def results(self) -> Iterator[tuple[int, Any]]:
        """The number of a piece and its result, in the order in which they are done."""
        import ray

        while self.waiting or self.busy:
            self._look()
            self._hand_out()
            references = [*self.starting, *self.busy]
            done, _ = ray.wait(references, timeout=LOOK_EVERY_S) if references else ([], [])
            for reference in done:
                if reference in self.starting:
                    self._welcome(reference)
                elif reference in self.busy:
                    yield from self._collect(reference)

    def dismiss(self) -> None:
        """Keep the workers that have nothing to do for the next crew, and end the others."""
        import ray

        at_work = {id(worker) for worker, _ in self.busy.values()}
        idle = [worker for worker in self.ready if id(worker) not in at_work]
        self.cluster.idle.setdefault(self._kind, []).extend(idle)
        for worker in [*(worker for worker in self.ready if id(worker) in at_work), *self.starting.values()]:
            ray.kill(worker)

    @property
    def _kind(self) -> tuple[int, int]:
        return self.job.cpus, self.job.gpus

    def _make_room(self) -> None:
        """End the idle workers of earlier crews that have other cores."""
        import ray

        for kind in self.cluster.idle.keys() - {self._kind}:
            for worker in self.cluster.idle.pop(kind):
                ray.kill(worker)

    def _look(self) -> None:
        """Look at the nodes, from time to time, and hire workers for the room there is."""
        if time.monotonic() - self.looked_at < LOOK_EVERY_S:
            return
        self.looked_at = time.monotonic()
        nodes = self.cluster.nodes()
        alive = frozenset(node.id for node in nodes)
        for name in self.nodes - alive:
            self.cluster.report(f"node {name[:8]} of the cluster is lost; {plural(len(nodes), 'node')} left")
        for node in nodes:
            if self.nodes and node.id not in self.nodes:
                self.cluster.report(f"node {node.id[:8]} ({node.address}) has joined the cluster")
        room = capacity(self.cluster, self.job.cpus, self.job.gpus)
        if not room and not self.ready:
            need = plural(self.job.cpus, "core") + (f" and {plural(self.job.gpus, 'GPU')}" if self.job.gpus else "")
            hint = "Give Ray more: ray start --num-cpus=N."
            raise UsageError(f"no node of the cluster has {need}", where=OPTION, hint=hint)
        if not self.nodes:
            self._make_room()
            where = f"{plural(room, 'worker')} on {plural(len(nodes), 'node')}"
            self.cluster.report(f"{self.job.name}: {where} of the cluster {self.cluster.address}")
        self.nodes = alive
        wanted = min(room, self.job.most or room, len(self.waiting) + len(self.busy))
        for _ in range(wanted - len(self.ready) - len(self.starting)):
            self._hire()

    def _hire(self) -> None:
        """Prepare an idle worker or a new one."""
        import ray

        # Lost pieces are handed out again here: Ray would wait for the lost worker to come back.
        options = {"num_cpus": self.job.cpus, "num_gpus": self.job.gpus, "max_restarts": 0, "max_task_retries": 0}
        others = self.cluster.idle.get(self._kind)
        idle = others.pop() if others else None
        worker = idle or ray.remote(**options)(_Worker).remote()
        variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        reference = worker.prepare.remote(self.job.prepare, self.job.arguments, self.job.cpus, variables)
        self.starting[reference] = worker
        if idle is not None:
            self.reused.add(reference)

    def _welcome(self, reference: Any) -> None:
        """A worker is prepared, or was lost before."""
        import ray

        worker = self.starting.pop(reference)
        try:
            versions, node = ray.get(reference)
        except Exception as error:
            self._require_lost(error)
            self.failed_starts += reference not in self.reused
            if self.failed_starts > MAX_LOSSES:
                raise self._failed(error) from error
            return
        self.failed_starts = 0
        if (own := _versions()) != versions:
            names = [name for name in own if own[name] != versions[name]]
            listed = ", ".join(f"{name} {versions[name] or 'missing'} instead of {own[name]}" for name in names)
            hint = "Install the versions of this machine on all nodes."
            raise UsageError(f"node {node} has other versions ({listed})", where=OPTION, hint=hint)
        self.ready.append(worker)

    def _hand_out(self) -> None:
        """Give waiting pieces to workers that have few, the idle ones first."""
        load = Counter(id(worker) for worker, _ in self.busy.values())
        for worker, number in self.busy.values():
            if number in self.suspects:
                load[id(worker)] = self.job.ahead
        for level in range(self.job.ahead):
            for worker in self.ready:
                if self.waiting and load[id(worker)] <= level and self._may_begin(self.waiting[0], load[id(worker)]):
                    number = self.waiting.popleft()
                    self.busy[worker.work.remote(*self.piece(number))] = (worker, number)
                    load[id(worker)] += self.job.ahead if number in self.suspects else 1

    def _may_begin(self, number: int, load: int) -> bool:
        """False if the piece needs an idle worker, or ordered results would run too far ahead."""
        if load and number in self.suspects:
            return False
        return not self.job.is_ordered or number < self.turn + 2 * self.job.ahead * len(self.ready)

    def _collect(self, reference: Any) -> Iterator[tuple[int, Any]]:
        """The result of a piece; or nothing, and the pieces of a lost worker wait again."""
        import ray

        worker, number = self.busy[reference]
        try:
            result = ray.get(reference)
        except Exception as error:
            self._require_lost(error)
            yield from self._lose(worker)
            return
        del self.busy[reference]
        yield number, result

    def _lose(self, worker: Any) -> Iterator[tuple[int, Any]]:
        """Take the pieces of a lost worker back."""
        import ray

        had = [number for other, number in self.busy.values() if other is worker]
        self.busy = {reference: has for reference, has in self.busy.items() if has[0] is not worker}
        if worker in self.ready:
            self.ready.remove(worker)
        ray.kill(worker)
        self.suspects.update(had)
        # Of several, any may be to blame: an answer that was ready is lost as well if it was not sent yet.
        if len(had) == 1:
            self.losses[had[0]] += 1
        given_up = [number for number in had if self.losses[number] > MAX_LOSSES]
        again = [number for number in had if number not in given_up]
        # The first comes first: ordered results wait for it.
        self.waiting = deque(sorted([*again, *self.waiting]))
        self.cluster.report(f"{self.job.name}: a worker is lost; {plural(len(again), 'block')} of it will be repeated")
        self.looked_at = -math.inf
        yield from ((number, LOST) for number in given_up)

    def _require_lost(self, error: Exception) -> None:
        """Raise the error unless it says that a worker is lost."""
        from ray import exceptions

        lost = (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.NodeDiedError)
        if isinstance(error, (*lost, exceptions.WorkerCrashedError, exceptions.OutOfMemoryError)):
            return
        cause = getattr(error, "cause", error)
        if isinstance(cause, TlcliError):
            raise cause
        raise self._failed(cause) from error

    def _failed(self, cause: Exception) -> RunError:
        reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
        hint = "What is done is kept; run the command again to continue."
        return RunError(f"{self.job.name} failed on the cluster ({reason})", where=self.cluster.address, hint=hint)


def _versions() -> dict[str, str]:
    """Versions that must be the same on all nodes."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in SAME_VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


class _Worker:
    """An actor of Ray: a process on some node."""

    def prepare(
        self, prepare: Callable[..., Work], arguments: tuple[Any, ...], cpus: int, variables: dict[str, str]
    ) -> tuple[dict[str, str], str]:
        """Prepare the work. Returns the versions on this node, and its name."""
        os.environ.update(variables)
        # Before the libraries are loaded that read them.
        threads = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        os.environ.update(dict.fromkeys(threads, str(cpus)))
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        self._work = prepare(*arguments)
        return _versions(), platform.node()

    def work(self, *piece: Any) -> Any:
        """Do one piece of work."""
        try:
            return self._work(*piece)
        except TlcliError as error:
            # A list of problems does not travel between processes.
            raise DataError(str(error)) if hasattr(error, "problems") else error from None
