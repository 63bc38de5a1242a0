"""Trials of a search in several processes on one study. Each loads Keras once; this process does not."""

import importlib
import multiprocessing
import os
import queue
import signal
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from tlcli.cluster import connection
from tlcli.errors import DataError, ManifestError, RunError, TlcliError
from tlcli.evaluate.quiet import quiet
from tlcli.train.events import Event, Noticed, Observer
from tlcli.tune.search import Search
from tlcli.workflows.cluster_tasks import run_trials_on

# Seconds between two looks at the processes.
POLL_S = 0.5


def run_in_processes(search: Search, observe: Observer, until: float | None) -> None:
    """Run the trials of a search in `search.jobs` processes, or on a cluster, and pass their events on.

    Args:
        search: The search. Its folder and its study exist.
        observe: Receives the notices and warnings of all processes.
        until: The time after which no trial starts, seconds of `time.monotonic`.

    Raises:
        DataError: If the images do not fit the recipe.
        OutputError: If the disk is full.
        RunError: If every process ended early.
    """
    if (cluster := connection.current()) is not None:
        run_trials_on(cluster, search, observe, until)
        return
    # A fork would copy threads and locks of this process in any state.
    spawn = multiprocessing.get_context("spawn")
    events: Any = spawn.Queue()
    processes = [spawn.Process(target=work, args=(search, number, until, events)) for number in range(search.jobs)]
    # Ctrl-C reaches all processes of a terminal. This one ends the others, wherever they are.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for process in processes:
        process.start()
    signal.signal(signal.SIGINT, before)
    try:
        while any(process.is_alive() for process in processes):
            _pass_on(events, observe, wait_s=POLL_S)
        _pass_on(events, observe, wait_s=0.0)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    _report_deaths(processes, observe)


def _pass_on(events: Any, observe: Observer, *, wait_s: float) -> None:
    """Pass on the events that have arrived; an error is raised."""
    try:
        while True:
            event: Event | TlcliError = events.get(timeout=wait_s) if wait_s else events.get_nowait()
            if isinstance(event, TlcliError):
                raise event
            observe(event)
    except queue.Empty:
        return


def _report_deaths(processes: Sequence[BaseProcess], observe: Observer) -> None:
    codes = [process.exitcode for process in processes if process.exitcode]
    if len(codes) == len(processes):
        raise RunError(
            f"all processes ended early (exit code {codes[0]})", hint="Use fewer --jobs, or see its messages."
        )
    for code in codes:
        observe(Noticed(f"a process ended early (exit code {code}); its trial is left out", is_warning=True))


def work(search: Search, worker: int, until: float | None, events: Any) -> None:
    """Run trials in this process, and send events and the error that ends it, if there is one."""
    try:
        load_quietly()
        from tlcli.workflows.trials import run_trials

        def tell(event: Event) -> None:
            # Bars of several processes would overwrite each other.
            if isinstance(event, Noticed):
                events.put(event)

        run_trials(search, tell, worker=worker, until=until)
    except TlcliError as error:
        # A list of problems does not travel between processes.
        events.put(DataError(str(error)) if isinstance(error, ManifestError) else error)


def load_quietly() -> None:
    """Load Keras without the messages of native libraries."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        importlib.import_module("tlcli.workflows.trials")
