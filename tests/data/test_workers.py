"""Parallel work: results in order, also if an item kills its process."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

import tlcli
from tlcli.data import workers

DEADLY = "deadly"


def tag_with_process(items: Sequence[str]) -> list[tuple[str, int]]:
    """Each item with the id of the process; the deadly item kills the process."""
    if DEADLY in items:
        os._exit(9)
    return [(item, os.getpid()) for item in items]


JOB = workers.Job(tag_with_process, ("killed", 0))


@pytest.fixture(autouse=True)
def _as_in_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlcli, "is_program", True)


@pytest.mark.parametrize("count", [0, 1, 33, 500])
def test_all_items_are_done_in_order(count: int) -> None:
    items = [str(number) for number in range(count)]
    assert [item for item, _ in workers.run(JOB, items)] == items


def test_many_items_go_to_processes_and_few_do_not() -> None:
    assert {process for _, process in workers.run(JOB, ["a"] * 10)} == {os.getpid()}
    assert os.getpid() not in {process for _, process in workers.run(JOB, ["a"] * workers.MIN_ITEMS_FOR_PROCESSES)}


def test_few_items_are_spread_over_all_workers() -> None:
    sizes: list[int] = []

    def record_size(items: Sequence[str]) -> list[str]:
        sizes.append(len(items))
        return list(items)

    assert len(list(workers.run(workers.Job(record_size, ""), ["a"] * 24, workers=2))) == 24
    assert max(sizes) == 3


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from tlcli.data.workers import MIN_ITEMS_FOR_PROCESSES, Job, run\n"
        "print(sum(run(Job(list, 0), [1] * MIN_ITEMS_FOR_PROCESSES)))\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == [str(workers.MIN_ITEMS_FOR_PROCESSES)]


def test_items_that_kill_their_process_are_identified_and_the_rest_is_done() -> None:
    """Two such items are in one batch."""
    items = [str(number) for number in range(workers.MIN_ITEMS_FOR_PROCESSES)]
    items[200] = items[210] = DEADLY
    done = [item for item, _ in workers.run(JOB, items, workers=2)]
    assert done == ["killed" if item == DEADLY else item for item in items]


def test_threads_are_used_if_processes_are_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(38, "no semaphores here")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", refused)
    assert {process for _, process in workers.run(JOB, ["a"] * workers.MIN_ITEMS_FOR_PROCESSES)} == {os.getpid()}


def test_tasks_that_have_not_started_are_cancelled_when_the_reader_stops() -> None:
    started: list[str] = []

    def record_start(items: Sequence[str]) -> list[str]:
        started.extend(items)
        return list(items)

    results = workers.run(workers.Job(record_start, ""), ["a"] * 399, workers=1)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(started) < 399
    assert threading.active_count() < 20
