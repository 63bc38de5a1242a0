"""Work on many files in parallel: in threads if they are few, in processes if they are many, or on a cluster.

Threads would wait for each other: a third of the time per small image is Python's, not the decoder's. A file that
kills its process is identified, and the others are still done.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import tlcli
from tlcli.cluster import connection, crew
from tlcli.cluster.connection import Cluster
from tlcli.storage.location import is_remote

Item = TypeVar("Item")
Result = TypeVar("Result")

# Fewer items are done before processes have started.
MIN_ITEMS_FOR_PROCESSES = 400
# Items per task: enough that the hand-over costs little, few enough for frequent progress.
BATCH_SIZE = 32
# Batches in a task on a cluster, where the hand-over takes longer.
_CLUSTER_BATCHES = 4
# Tasks per worker that are submitted ahead of the result in turn.
_TASKS_AHEAD = 2


@dataclass(frozen=True)
class Content:
    """The content of a file, or why it cannot be read. On another machine it stands for the path."""

    content: bytes | OSError

    @classmethod
    def of(cls, path: Path) -> "Content":
        """The content of the file at a path."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            return cls(error)

    def read_bytes(self) -> bytes:
        """The content, as `Path.read_bytes` returns it, or the error that it raises."""
        if isinstance(self.content, OSError):
            raise self.content
        return self.content


def with_content(item: tuple[str, Path]) -> tuple[str, Path | Content]:
    """A name and a file, with the content of the file unless every machine can read it."""
    return item if is_remote(item[1]) else (item[0], Content.of(item[1]))


@dataclass(frozen=True)
class Job(Generic[Item, Result]):
    """A function over batches of items.

    Attributes:
        work: Returns one result per item. Processes import it, so it is a module-level function or a `partial` of one.
        killed: The result of an item that kills the process.
        batch_size: Most items per batch.
        pack: Returns an item with the files that its work reads, for a machine that has no such files. Without it the
            work is done on this machine.
    """

    work: Callable[[Sequence[Item]], Sequence[Result]]
    killed: Result
    batch_size: int = BATCH_SIZE
    pack: Callable[[Item], object] | None = None

    @property
    def module(self) -> str:
        """The module that defines the function."""
        return str(getattr(self.work, "func", self.work).__module__)


def run(job: Job[Item, Result], items: Sequence[Item], *, workers: int | None = None) -> Iterator[Result]:
    """The results in the order of the items.

    Args:
        job: The work to do.
        items: The items to do it on.
        workers: Number of threads or processes; the number of cores if None.
    """
    cluster = connection.current()
    if cluster is not None and job.pack is not None and len(items) >= MIN_ITEMS_FOR_PROCESSES:
        yield from _on_cluster(cluster, job, items)
        return
    count = workers or os.cpu_count() or 1
    # Small batches if there are few items, so that every worker gets some.
    size = min(job.batch_size, max(1, len(items) // (4 * count)))
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    while batches:
        done = 0
        try:
            with _pool(count, len(items), job.module) as pool:
                for results in _in_order(pool, batches, job, ahead=_TASKS_AHEAD * count):
                    done += 1
                    yield from results
        except BrokenProcessPool:
            # Any of the running batches may be the cause: the first is done item by item, the others are submitted
            # again.
            yield from _one_by_one(batches[done], job)
            done += 1
        batches = batches[done:]


def _on_cluster(cluster: Cluster, job: Job[Item, Result], items: Sequence[Item]) -> Iterator[Result]:
    """The results in the order of the items, from the workers of a cluster."""
    size = _CLUSTER_BATCHES * job.batch_size
    batches = [items[start : start + size] for start in range(0, len(items), size)]

    def packed(number: int) -> tuple[list[object]]:
        return ([job.pack(item) for item in batches[number]],) if job.pack else ([],)

    on_cluster = crew.Job("decoding", _same, (job.work,), is_ordered=True)
    for number, results in crew.run(cluster, on_cluster, len(batches), packed):
        # A batch that every worker is lost with holds a file that kills it.
        yield from _one_by_one(batches[number], job) if results is crew.LOST else results


def _same(work: Callable[[Sequence[Item]], Sequence[Result]]) -> Callable[[Sequence[Item]], Sequence[Result]]:
    """Prepares a worker that needs nothing."""
    return work


def _pool(count: int, items: int, module: str) -> Executor:
    """Threads or processes for the work of a module on a number of items."""
    if items < MIN_ITEMS_FOR_PROCESSES or not tlcli.is_program:
        return ThreadPoolExecutor(count)
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    # Loaded once, before the processes are forked.
    context.set_forkserver_preload(["__main__", module])
    try:
        return ProcessPoolExecutor(count, context, initializer=_ignore_interrupts)
    except (OSError, ImportError):
        # Some sandboxes have no semaphores to share.
        return ThreadPoolExecutor(count)


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C, which reaches all processes of a terminal; the parent reports it once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _in_order(
    pool: Executor, batches: Sequence[Sequence[Item]], job: Job[Item, Result], *, ahead: int
) -> Iterator[Sequence[Result]]:
    """Results in the order of the batches, with at most `ahead` tasks in the pool."""
    tasks: deque[Future[Sequence[Result]]] = deque()
    try:
        for batch in batches:
            tasks.append(pool.submit(job.work, batch))
            if len(tasks) >= ahead:
                yield tasks.popleft().result()
        while tasks:
            yield tasks.popleft().result()
    finally:
        for task in tasks:
            task.cancel()


def _one_by_one(items: Sequence[Item], job: Job[Item, Result]) -> Iterator[Result]:
    """Do the items in one process, and in a new one after each item that kills it."""
    left = list(items)
    while left:
        with _pool(1, MIN_ITEMS_FOR_PROCESSES, job.module) as pool:
            try:
                while left:
                    yield pool.submit(job.work, left[:1]).result()[0]
                    del left[0]
            except BrokenProcessPool:
                yield job.killed
                del left[0]
