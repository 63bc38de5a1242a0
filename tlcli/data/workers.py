"""Work on many files at once, in processes where there are many, so that a file that kills one is found, too.

Threads would wait for each other: a third of the time that a small picture takes is Python's, not the decoder's.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

import tlcli

Item = TypeVar("Item")
Result = TypeVar("Result")

# Fewer items are done sooner than processes have started.
FEW = 400
# Items a task: enough that handing over does not count, few enough that progress is seen.
BATCH = 32
# Tasks ahead of what was taken, a worker.
_AHEAD = 2


@dataclass(frozen=True)
class Job(Generic[Item, Result]):
    """What to do with items, some at a time.

    Attributes:
        work: Gives a result for each of some items; processes load it, so it is a module's, or a `partial` of such.
        killed: The result of an item that kills the process.
        batch: Items at a time.
    """

    work: Callable[[Sequence[Item]], Sequence[Result]]
    killed: Result
    batch: int = BATCH

    @property
    def module(self) -> str:
        """Where the work is defined."""
        return str(getattr(self.work, "func", self.work).__module__)


def run(job: Job[Item, Result], items: Sequence[Item], *, workers: int | None = None) -> Iterator[Result]:
    """The results, in the order of the items.

    Args:
        job: What to do.
        items: With what.
        workers: How many at once; the number of cores when None.
    """
    count = workers or os.cpu_count() or 1
    # Few items are handed over in small parts, so that every worker has some.
    size = min(job.batch, max(1, len(items) // (4 * count)))
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    while batches:
        done = 0
        try:
            with _pool(count, len(items), job.module) as pool:
                for results in _in_order(pool, batches, job, ahead=_AHEAD * count):
                    done += 1
                    yield from results
        except BrokenProcessPool:
            # One of the batches under way did it; the first is done item by item, the others get another chance.
            yield from _one_by_one(batches[done], job)
            done += 1
        batches = batches[done:]


def _pool(count: int, items: int, module: str) -> Executor:
    """What does the work of a module on so many items."""
    if items < FEW or not tlcli.is_program:
        return ThreadPoolExecutor(count)
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    # Loaded once, before the others are forked from it.
    context.set_forkserver_preload(["__main__", module])
    try:
        return ProcessPoolExecutor(count, context, initializer=_leave_interrupts_to_the_parent)
    except (OSError, ImportError):
        # Some sandboxes have no semaphores to share.
        return ThreadPoolExecutor(count)


def _leave_interrupts_to_the_parent() -> None:
    """A Ctrl-C reaches all processes of a terminal; one of them tells of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _in_order(
    pool: Executor, batches: Sequence[Sequence[Item]], job: Job[Item, Result], *, ahead: int
) -> Iterator[Sequence[Result]]:
    """Results in the order of the batches, with a bounded number of tasks under way."""
    waiting: deque[Future[Sequence[Result]]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(job.work, batch))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for task in waiting:
            task.cancel()


def _one_by_one(items: Sequence[Item], job: Job[Item, Result]) -> Iterator[Result]:
    """Do items in one process, and in a new one after each that kills it."""
    left = list(items)
    while left:
        with _pool(1, FEW, job.module) as pool:
            try:
                while left:
                    yield pool.submit(job.work, left[:1]).result()[0]
                    del left[0]
            except BrokenProcessPool:
                yield job.killed
                del left[0]
