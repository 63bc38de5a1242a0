"""Compare: runs side by side, and the result of a comparison in place of its runs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.errors import UsageError
from tlcli.report import comparison, record
from tlcli.workflows.compare import compare


def test_a_comparison_stands_for_its_runs_wherever_it_is(finished: tuple, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs = [Path(shutil.copytree(finished[0], out / comparison.RUNS / name)) for name in ("one", "two")]
    best = record.read(runs[0])
    best.compared = comparison.side_by_side(runs)["runs"]
    record.write(out, best)
    moved = out.rename(tmp_path / "moved")
    table = compare([moved])
    assert [row["run"] for row in table["runs"]] == [str(moved / comparison.RUNS / name) for name in ("one", "two")]
    assert table["same_split"]
    assert table == compare([moved / comparison.RUNS / name for name in ("one", "two")])


def test_the_network_stays_in_the_table_if_it_differs(
    finished: tuple, tlcli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [Path(shutil.copytree(finished[0], tmp_path / f"a-run-with-a-long-name-{name}")) for name in ("one", "two")]
    other = record.read(runs[1])
    other.model["name"] = "efficientnet_lite0"
    record.write(runs[1], other)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    text = tlcli("compare", *[run.name for run in runs]).stdout
    assert "efficientnet_lite0" in text.partition("Left out")[0]
    assert "model" not in text.partition("Left out")[2].splitlines()[0]
    same = tlcli("compare", runs[0].name, runs[0].name).stdout
    assert "model" in same.partition("Left out")[2].splitlines()[0]


@pytest.mark.parametrize("count", [1, 2])
def test_an_incomplete_run_is_refused(count: int, finished: tuple, tmp_path: Path) -> None:
    runs = [Path(shutil.copytree(finished[0], tmp_path / str(number))) for number in range(count)]
    run = record.read(runs[-1])
    run.status = "interrupted"
    record.write(runs[-1], run)
    with pytest.raises(UsageError, match="the run is interrupted, it has no classifier yet"):
        compare(runs)


@pytest.mark.parametrize("command", ["compare", "report"])
def test_folders_that_are_no_complete_runs_are_left_out_by_name(
    command: str, finished: tuple, tlcli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pattern like runs/photos-* names them, with the exports of a run beside it."""
    for name in ("a", "b", "cut"):
        shutil.copytree(finished[0], tmp_path / name)
    cut = record.read(tmp_path / "cut")
    cut.status = "interrupted"
    record.write(tmp_path / "cut", cut)
    (tmp_path / "a-litert").mkdir()
    (tmp_path / "a-litert" / "card.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    result = tlcli(command, "a", "a-litert", "b", "cut", "--json")
    assert result.code == 0, result.stderr
    assert result.document["skipped"] == {
        "a-litert": "is a bundle of `tlcli export`, not a run",
        "cut": "the run is interrupted, it has no classifier yet",
    }
    assert "left out: a-litert: is a bundle of `tlcli export`" in result.stderr
    for names, reason in ((["a", "b", "c"], "there is no such run"), (["a", "cut"], "the run is interrupted")):
        refused = tlcli(command, *names)
        assert refused.code == 2
        assert f"{names[-1]}: {reason}" in refused.stderr
