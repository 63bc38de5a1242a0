"""Looking at many files at once, in processes where there are many, so that a file that kills one is found, too."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from tlcli.doctor.look import Failure, Look

# Fewer files are looked at sooner than processes have started.
FEW = 400
# Files a task: enough that handing over does not count, few enough that progress is seen.
_BATCH = 32
# Tasks ahead of what was taken, a worker.
_AHEAD = 3

LookAt = Callable[[Sequence[str], tuple[int, int]], list[Look]]
_KILLED = Look("", 0, Failure("unreadable", "the process that decoded it was killed; it may need too much memory"))


def look_at_all(
    files: Sequence[str], look_at: LookAt, *, at_least: tuple[int, int], workers: int | None = None
) -> Iterator[Look]:
    """Look at every file, in their order.

    Args:
        files: Paths.
        look_at: What looks at some of them; of a module, since processes load it.
        at_least: Handed on to it.
        workers: How many at once; the number of cores when None.
    """
    count = workers or os.cpu_count() or 1
    batches = [files[start : start + _BATCH] for start in range(0, len(files), _BATCH)]
    while batches:
        done = 0
        try:
            with _pool(count, len(files)) as pool:
                for looks in _in_order(pool, batches, look_at, at_least, ahead=_AHEAD * count):
                    done += 1
                    yield from looks
        except BrokenProcessPool:
            # One of the batches under way did it; the first is looked at file by file, the others get another chance.
            yield from _one_by_one(batches[done], look_at, at_least)
            done += 1
        batches = batches[done:]


def _pool(count: int, files: int) -> Executor:
    if files < FEW:
        return ThreadPoolExecutor(count)
    methods = multiprocessing.get_all_start_methods()
    return ProcessPoolExecutor(count, multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn"))


def _in_order(
    pool: Executor, batches: Sequence[Sequence[str]], look_at: LookAt, at_least: tuple[int, int], *, ahead: int
) -> Iterator[list[Look]]:
    """Results in the order of the batches, with a bounded number of tasks under way."""
    waiting: deque[Future[list[Look]]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(look_at, batch, at_least))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for task in waiting:
            task.cancel()


def _one_by_one(files: Sequence[str], look_at: LookAt, at_least: tuple[int, int]) -> Iterator[Look]:
    """Look at files in one process, and in a new one after each that kills it."""
    left = list(files)
    while left:
        with _pool(1, FEW) as pool:
            try:
                while left:
                    yield pool.submit(look_at, left[:1], at_least).result()[0]
                    del left[0]
            except BrokenProcessPool:
                yield _KILLED
                del left[0]
