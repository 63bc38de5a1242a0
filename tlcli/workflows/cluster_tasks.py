"""Trials and candidates as tasks of a cluster: each worker runs the story of one process, on folders that all share."""

import importlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tlcli.cluster import crew
from tlcli.cluster.connection import OPTION, Cluster
from tlcli.errors import RunError, UsageError
from tlcli.evaluate.quiet import quiet
from tlcli.report.comparison import Candidates
from tlcli.train.events import Event, Noticed, Observer
from tlcli.tune.search import Search

# Most cores of a task.
TASK_CPUS = 2


def run_trials_on(cluster: Cluster, search: Search, observe: Observer, until: float | None) -> None:
    """Run the trials of a search, each as a task. The study lies in the folder of the search.

    Raises:
        TlcliError: As for trials in this process.
    """

    def arguments(number: int) -> tuple[int, float | None]:
        # Nodes have clocks of their own, so each gets the time that is left. It begins as soon as it is given a trial.
        return number, None if until is None else until - time.monotonic()

    job = _job(cluster, "trials", _trials, (search,), most=search.jobs)
    for _, notices in _results(cluster, job, range(search.trials), arguments):
        for notice in notices:
            observe(notice)


def run_candidates_on(
    cluster: Cluster, candidates: Candidates, names: Sequence[str], observe: Observer
) -> dict[str, RunError]:
    """Run candidates, each as a task. Returns the errors of those that fail in training, by name."""
    failed: dict[str, RunError] = {}
    job = _job(cluster, "recipes", _candidate, (candidates,), most=len(names))
    for name, (notices, error) in _results(cluster, job, names, lambda name: (name,)):
        for notice in notices:
            observe(notice)
        if error is not None:
            failed[name] = error
        observe(Noticed(f"{name} failed: {error}" if error else f"{name} is complete", is_warning=error is not None))
    return failed


def workers(cluster: Cluster) -> int:
    """Number of tasks that run at once."""
    return crew.capacity(cluster, _cpus(cluster))


def _cpus(cluster: Cluster) -> int:
    return min(TASK_CPUS, max(node.cpus for node in cluster.nodes()) or 1)


def _job(
    cluster: Cluster, name: str, prepare: Callable[..., crew.Work], arguments: tuple[Any, ...], *, most: int
) -> crew.Job:
    return crew.Job(name, prepare, arguments, cpus=_cpus(cluster), ahead=1, most=most)


def _results(
    cluster: Cluster, job: crew.Job, items: Sequence[Any], arguments: Callable[[Any], tuple[Any, ...]]
) -> Iterator[tuple[Any, Any]]:
    """Each item and the result of the job on its arguments."""
    for number, result in crew.run(cluster, job, len(items), lambda number: arguments(items[number])):
        if result is crew.LOST:
            hint = "It may lack memory. Run the command with --resume to continue."
            raise RunError("every worker that runs it is lost", where=f"{job.name}: {items[number]}", hint=hint)
        yield items[number], result


def _trials(search: Search) -> crew.Work:
    """Prepares: the function that runs the next trial, if there is one, and returns its notices."""
    _require_shared(search.out)
    run_next_trial = _load("trials").run_next_trial
    has_run: list[int] = []

    def work(number: int, left_s: float | None) -> list[Noticed]:
        notices: list[Noticed] = []
        until = None if left_s is None else time.monotonic() + left_s
        run_next_trial(search, _keeper(notices), worker=number, until=until, is_cold=not has_run)
        has_run.append(number)
        return notices

    return work


def _candidate(candidates: Candidates) -> crew.Work:
    """Prepares: the function that runs a candidate and returns its notices, and the error if training fails."""
    _require_shared(candidates.out)
    run_candidate = _load("candidates").run_candidate

    def work(name: str) -> tuple[list[Noticed], RunError | None]:
        notices: list[Noticed] = []
        return notices, run_candidate(candidates, name, _keeper(notices))

    return work


def _keeper(notices: list[Noticed]) -> Observer:
    """An observer that keeps warnings and what trials came to."""

    def keep(event: Event) -> None:
        if isinstance(event, Noticed) and (event.is_warning or "val_loss" in event.message):
            notices.append(event)

    return keep


def _load(name: str) -> Any:
    """A module of this room, loaded in the worker only and without the messages of native libraries."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        return importlib.import_module(f"tlcli.workflows.{name}")


def _require_shared(folder: Path) -> None:
    if not folder.is_dir():
        hint = "Searches and comparisons need a folder that all nodes share: choose --out, and TLCLI_CACHE, there."
        raise UsageError(f"node {platform.node()} does not see {folder}", where=OPTION, hint=hint)
