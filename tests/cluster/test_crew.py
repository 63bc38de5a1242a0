"""A crew of workers on three real nodes: results, lost workers and nodes, errors."""

from pathlib import Path
from typing import Any

import pytest
from ray_work import dying, dying_in_company, kill_node, slow, squares

from tlcli.cluster import crew
from tlcli.cluster.connection import Cluster
from tlcli.cluster.crew import LOST, Job, run
from tlcli.errors import DataError, UsageError

pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("ignore")]


def numbered(number: int) -> tuple[int]:
    return (number,)


@pytest.mark.parametrize("is_ordered", [True, False])
def test_every_piece_is_done_once(cluster: Cluster, is_ordered: bool) -> None:
    results = list(run(cluster, Job("squares", squares, (1,), is_ordered=is_ordered), 40, numbered))
    expected = [(number, number * number + 1) for number in range(40)]
    assert (results if is_ordered else sorted(results)) == expected


def test_ordered_results_do_not_run_ahead(cluster: Cluster) -> None:
    begun = []

    def piece(number: int) -> tuple[float]:
        begun.append(number)
        return (number,)

    results = run(cluster, Job("slow", slow, (0.02,), is_ordered=True), 100, piece)
    for number, _ in results:
        assert max(begun) <= number + 2 * crew.PIECES_AHEAD * 3
        if number == 50:
            break


def test_a_lost_piece_is_repeated_and_one_that_kills_every_worker_is_given_up(cluster: Cluster, tmp_path: Path) -> None:
    said: list[str] = []
    cluster.report = said.append
    results = dict(run(cluster, Job("dying", dying, (str(tmp_path),), is_ordered=True), 7, numbered))
    assert list(results) == list(range(7))
    assert (tmp_path / "died").exists()
    assert results.pop(5) is LOST
    assert results == {number: number for number in (0, 1, 2, 3, 4, 6)}
    assert sum("a worker is lost" in text for text in said) >= 2 + crew.MAX_LOSSES


def test_a_piece_is_not_blamed_for_the_one_behind_it(cluster: Cluster, tmp_path: Path) -> None:
    company = tmp_path / "company"

    def piece(number: int) -> tuple[int]:
        company.touch() if number else company.unlink(missing_ok=True)
        return (number,)

    job = Job("dying", dying_in_company, (str(company),), is_ordered=True, most=1)
    assert list(run(cluster, job, 2, piece)) == [(0, 0), (1, 1)]


def test_workers_that_died_between_two_crews_are_replaced(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """They say nothing about new workers, of which not one may fail here."""
    import ray

    def squared() -> list[tuple[int, int]]:
        return list(run(cluster, Job("squares", squares, (1,), is_ordered=True), 12, numbered))

    expected = squared()
    monkeypatch.setattr(crew, "MAX_LOSSES", 0)
    idle = [worker for workers in cluster.idle.values() for worker in workers]
    assert idle
    for worker in idle:
        ray.kill(worker)
    assert squared() == expected


def test_an_error_of_the_work_reaches_the_user(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="7: is no number"):
        list(run(cluster, Job("dying", dying, (str(tmp_path),)), 1, lambda number: (7,)))


def test_too_large_a_worker_is_refused(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="no node of the cluster has 64 cores"):
        list(run(cluster, Job("squares", squares, (1,), cpus=64), 3, numbered))


def test_a_killed_node_loses_nothing_and_a_new_one_is_used(cluster: Cluster, ray_nodes: Any, capsys: Any) -> None:
    said: list[str] = []
    cluster.report = said.append
    done = []
    for number, result in run(cluster, Job("slow", slow, (0.1,)), 300, numbered):
        assert number == result
        done.append(number)
        if len(done) == 20:
            kill_node(ray_nodes)
        if len(done) == 60:
            ray_nodes.add_node(num_cpus=1, wait=False)
    assert sorted(done) == list(range(300))
    assert any("lost" in text for text in said)
    assert any("has joined the cluster" in text for text in said)
    assert capsys.readouterr() == ("", ""), "Ray prints nothing of its own"
