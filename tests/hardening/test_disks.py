"""Disks that are full or read-only, two runs on one cache, and a clock that was set back."""

import csv
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forking import Ended, Forks
from small_disks import remount, small_disk

pytestmark = pytest.mark.slow

# From less than the first file to more than all, in kilobytes; the writes lie between.
SIZES_KB = (16, 48, 80, 120, 200, 400, 700, 1000, 1400, 1800, 2200, 2600, 3000, 3600, 4400)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    running = Forks(tmp_path_factory.mktemp("log") / "log.txt")
    yield running
    running.close()


def weights(run: Path) -> str:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "complete"
    return record["model"]["weights_sha256"]


def is_clear(ended: Ended, *words: str) -> bool:
    """True if a command ended in one error without traceback that has one of the words."""
    lines = [line for line in ended.output.splitlines() if line.startswith("Error:")]
    is_one = len(lines) == 1 and "Traceback" not in ended.output and "bug in tlcli" not in ended.output
    return ended.code in (1, 2) and is_one and any(word in lines[0] for word in words)


FULL = ("No space left", "disk is full", "MB left", "free")


@pytest.mark.parametrize("place", ["run", "cache"])
def test_a_full_disk_is_one_error_and_the_run_resumes(
    place: str, finished: tuple, photos: Path, tiny: Path, forks: Forks, tmp_path: Path
) -> None:
    expected, failed = weights(finished[0]), 0
    for size in SIZES_KB:
        with small_disk(tmp_path / "disk", size) as disk:
            home = tmp_path / str(size)
            home.mkdir()
            run, cache = (disk / "run", home / "cache") if place == "run" else (home / "run", disk / "cache")
            words = ("finetune", photos, "-r", tiny, "--out", run)
            ended = forks.run(*words, TLCLI_CACHE=cache)
            if ended.code != 0:
                failed += 1
                assert is_clear(ended, *FULL), (size, ended)
                remount(disk, "size=64m")
                again = ("finetune", "--resume", run) if (run / "run.json").is_file() else words
                ended = forks.run(*again, TLCLI_CACHE=cache)
            assert ended.code == 0, (size, ended)
            assert weights(run) == expected, size
            assert not [path for path in run.iterdir() if path.name.startswith(".")], size
    print(f"{place}: {failed} of {len(SIZES_KB)} sizes were too small")
    assert failed >= (5 if place == "run" else 0)


def test_a_full_zoo_is_one_error_and_nothing_is_left(finished: tuple, forks: Forks, tmp_path: Path) -> None:
    run, archive = finished[0], tmp_path / "zoo.zip"
    settings = {"TLCLI_ZOO": tmp_path / "zoo", "TLCLI_CACHE": tmp_path / "cache"}
    for words in (("zoo", "add", run, "--name", "mine"), ("zoo", "pack", "mine", "-o", archive)):
        ended = forks.run(*words, **settings)
        assert ended.code == 0, ended
    for size in (16, 64, 256, 700, 1000, 1500):
        for words in (("zoo", "add", run, "--name", "mine"), ("zoo", "unpack", archive), ("zoo", "pack", "mine")):
            with small_disk(tmp_path / "disk", size) as disk:
                out = ("-o", disk / "out.zip") if words[1] == "pack" else ()
                there = settings if words[1] == "pack" else settings | {"TLCLI_ZOO": disk / "zoo"}
                ended = forks.run(*words, *out, **there)
                assert ended.code == 0 or is_clear(ended, *FULL), (size, words, ended)
                left = [path for path in disk.rglob("*") if path.is_file()]
                assert ended.code == 0 or not left, (size, words, left)


def test_a_read_only_cache_is_one_error_with_a_remedy(photos: Path, tiny: Path, forks: Forks, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4096) as disk:
        remount(disk, "ro")
        ended = forks.run("finetune", photos, "-r", tiny, "--out", tmp_path / "run", TLCLI_CACHE=disk / "cache")
        assert ended.code == 0 or is_clear(ended, "TLCLI_CACHE"), ended


def test_a_filled_read_only_cache_serves(photos: Path, tiny: Path, forks: Forks, tmp_path: Path) -> None:
    """A run on what another one has computed."""
    with small_disk(tmp_path / "disk", 16_384) as disk:
        first = forks.run("finetune", photos, "-r", tiny, "--out", tmp_path / "first", TLCLI_CACHE=disk / "cache")
        assert first.code == 0, first
        remount(disk, "ro")
        ended = forks.run("finetune", photos, "-r", tiny, "--out", tmp_path / "run", TLCLI_CACHE=disk / "cache")
        assert ended.code == 0 or is_clear(ended, "TLCLI_CACHE"), ended
        print(ended.code, ended.output[-300:])


def test_two_runs_share_a_cache(
    finished: tuple, photos: Path, tiny: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pair = [Forks(tmp_path_factory.mktemp("log") / "log.txt") for _ in range(2)]
    try:
        for number, fork in enumerate(pair):
            out = tmp_path / f"run{number}"
            fork.start("finetune", photos, "-r", tiny, "--out", out, TLCLI_CACHE=tmp_path / "cache")
        for fork in pair:
            ended = fork.wait()
            assert ended.code == 0, ended
    finally:
        for fork in pair:
            fork.close()
    assert {weights(tmp_path / f"run{number}") for number in range(2)} == {weights(finished[0])}


def test_a_clock_that_was_set_back_changes_nothing(
    finished: tuple, photos: Path, tiny: Path, forks: Forks, tmp_path: Path
) -> None:
    """Cache, interrupted run and lock come from the future."""
    settings = {"TLCLI_CACHE": tmp_path / "cache"}
    run = tmp_path / "run"
    whole = forks.run("finetune", photos, "-r", tiny, "--out", tmp_path / "whole", **settings)
    assert whole.code == 0, whole
    words = ("finetune", photos, "-r", tiny, "--set", "performance.reuse_results=false", "--out", run)
    killed = forks.run(*words, kill_after_s=whole.seconds * 0.4, **settings)
    assert killed.code != 0
    assert run.is_dir()
    later = time.time() + 10 * 365 * 86_400
    for folder in (tmp_path / "cache", run):
        for path in folder.rglob("*"):
            os.utime(path, (later, later))
    record = run / "run.json"
    record.write_text(record.read_text().replace(f'"started": "{time.gmtime().tm_year}', '"started": "2099'))
    ended = forks.run("finetune", "--resume", run, **settings)
    assert ended.code == 0, ended
    assert weights(run) == weights(finished[0])
    fresh = forks.run("finetune", photos, "-r", tiny, "--out", tmp_path / "fresh", **settings)
    assert fresh.code == 0, fresh
    assert weights(tmp_path / "fresh") == weights(finished[0])


def seconds_in(run: Path) -> list[float]:
    """All durations that a run has written down."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (run / "phases.jsonl").read_text(encoding="utf-8").splitlines()]
    with (run / "history.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    parts = (record["seconds"]["total"], record["seconds"]["prefix"], *record["seconds"]["phases"])
    return [*parts, *(line["seconds"] for line in lines), *(float(row["seconds"]) for row in rows)]


def test_a_clock_that_is_set_back_during_a_run_changes_nothing(
    finished: tuple, photos: Path, tiny: Path, forks: Forks, tmp_path: Path
) -> None:
    """In the middle of a run; and before an interrupted run is resumed."""
    settings = {"TLCLI_CACHE": tmp_path / "cache"}
    fresh = ("finetune", photos, "-r", tiny, "--set", "performance.reuse_results=false", "--out")
    whole = forks.run(*fresh, tmp_path / "whole", **settings)
    assert whole.code == 0, whole
    jumped = forks.run(*fresh, tmp_path / "jumped", clock_back_after_s=whole.seconds / 2, **settings)
    assert jumped.code == 0, jumped
    assert forks.run(*fresh, tmp_path / "resumed", kill_after_s=whole.seconds / 2, **settings).code != 0
    before = json.loads((tmp_path / "resumed" / "run.json").read_text(encoding="utf-8"))["started"]
    resumed = forks.run("finetune", "--resume", tmp_path / "resumed", clock_back_after_s=0, **settings)
    assert resumed.code == 0, resumed
    for name in ("jumped", "resumed"):
        assert weights(tmp_path / name) == weights(finished[0])
        seconds = seconds_in(tmp_path / name)
        assert len(seconds) > 5
        assert all(0 <= second < 600 for second in seconds), (name, seconds)
    record = json.loads((tmp_path / "resumed" / "run.json").read_text(encoding="utf-8"))
    assert record["started"] == before
    # What was cached before serves after: no image goes through the frozen layers again.
    again = forks.run("finetune", photos, "-r", tiny, "--out", tmp_path / "again", clock_back_after_s=0, **settings)
    assert again.code == 0, again
    assert "from the cache" in again.output, again


def test_the_budget_of_a_search_ends_though_the_clock_was_set_back(
    photos: Path, tiny: Path, forks: Forks, tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text("phases.0.lr: {low: 1.0e-4, high: 1.0e-2, log: true}\n", encoding="utf-8")
    words = ("tune", photos, "-r", tiny, "--space", tmp_path / "space.yaml", "--budget", "20s", "--out", tmp_path / "s")
    ended = forks.run(*words, clock_back_after_s=3, kill_after_s=300, TLCLI_CACHE=tmp_path / "cache")
    assert ended.code == 0, ended
    assert json.loads((tmp_path / "s" / "tune.json").read_text(encoding="utf-8"))["seconds"]["total"] >= 0
