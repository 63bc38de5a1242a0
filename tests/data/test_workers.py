"""Many files at once, in processes: in order, and in spite of files that kill who decodes them."""

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


def told(items: Sequence[str]) -> list[tuple[str, int]]:
    """The item and the process."""
    if DEADLY in items:
        os._exit(9)
    return [(item, os.getpid()) for item in items]


JOB = workers.Job(told, ("killed", 0))


@pytest.fixture(autouse=True)
def _as_in_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlcli, "is_program", True)


@pytest.mark.parametrize("count", [0, 1, 33, 500])
def test_everything_is_done_in_order(count: int) -> None:
    items = [str(number) for number in range(count)]
    assert [item for item, _ in workers.run(JOB, items)] == items


def test_many_items_go_to_processes_and_few_do_not() -> None:
    assert {process for _, process in workers.run(JOB, ["a"] * 10)} == {os.getpid()}
    assert os.getpid() not in {process for _, process in workers.run(JOB, ["a"] * workers.FEW)}


def test_few_items_are_spread_over_all_workers() -> None:
    sizes: list[int] = []

    def noting(items: Sequence[str]) -> list[str]:
        sizes.append(len(items))
        return list(items)

    assert len(list(workers.run(workers.Job(noting, ""), ["a"] * 24, workers=2))) == 24
    assert max(sizes) == 3


def test_a_script_that_is_not_guarded_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from tlcli.data import workers\nprint(sum(workers.run(workers.Job(list, 0), [1] * workers.FEW)))\n"
    )
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.split() == [str(workers.FEW)]


def test_what_kills_its_process_is_found_and_the_rest_is_done() -> None:
    """Two in one batch."""
    items = [str(number) for number in range(workers.FEW)]
    items[200] = items[210] = DEADLY
    done = [item for item, _ in workers.run(JOB, items, workers=2)]
    assert done == ["killed" if item == DEADLY else item for item in items]


def test_where_processes_cannot_be_had_threads_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(38, "no semaphores here")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", refused)
    assert {process for _, process in workers.run(JOB, ["a"] * workers.FEW)} == {os.getpid()}


def test_a_reader_that_stops_waits_for_nothing_else() -> None:
    """What was not begun is called off."""
    begun: list[str] = []

    def noting(items: Sequence[str]) -> list[str]:
        begun.extend(items)
        return list(items)

    results = workers.run(workers.Job(noting, ""), ["a"] * 399, workers=1)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(begun) < 399
    assert threading.active_count() < 20
