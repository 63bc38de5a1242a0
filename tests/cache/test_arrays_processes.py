"""Cached arrays opened by several processes at once, and by processes that are killed."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

# A process of its own. Arguments: folder, keys, start time. Rows of ten bytes, three rows per block.
SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from tlcli.cache import arrays as store
folder, keys, begin = Path(sys.argv[1]), sys.argv[2].split(","), float(sys.argv[3])
store.BLOCK_BYTES = 30
entries = [store.Entry(key, (10, 10), "uint8") for key in keys]
calls = []
def compute(start, stop, indices):
    calls.extend(indices)
    {act}
    return [np.full((stop - start, 10), int(keys[index], 16) % 251, np.uint8) for index in indices]
time.sleep(max(begin - time.time(), 0))
arrays = store.open_arrays(folder, entries, compute)
assert all((array == int(key, 16) % 251).all() for key, array in zip(keys, arrays))
print(len(calls))
"""


def process(folder: Path, keys: Sequence[str], *, act: str = "pass", begin: float = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT.replace("{act}", act), str(folder), ",".join(keys), str(begin)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def outputs_of(running: Sequence[subprocess.Popen[str]]) -> list[str]:
    try:
        return sorted(one.communicate(timeout=60)[0].strip() for one in running)
    finally:
        for one in running:
            one.kill()


def test_several_processes_compute_once_in_total(tmp_path: Path) -> None:
    begin = time.time() + 0.7
    running = [process(tmp_path, ["a1", "b2"], act="time.sleep(0.05)", begin=begin) for _ in range(3)]
    assert outputs_of(running) == ["0", "0", "8"]


def test_processes_with_keys_in_different_orders_do_not_deadlock(tmp_path: Path) -> None:
    keys = [f"{number:04x}" for number in range(100)]
    begin = time.time() + 0.7
    orders = [keys, keys[::-1], keys[50:] + keys[:50]]
    counts = outputs_of([process(tmp_path, order, begin=begin) for order in orders])
    assert sum(map(int, counts)) == 4 * len(keys)


KILLED = "print(start, flush=True); start == 6 and time.sleep(60)"


def kill_midway(folder: Path) -> None:
    """Start a process and kill it after it has written two blocks."""
    running = process(folder, ["a1", "b2"], act=KILLED)
    try:
        assert running.stdout is not None
        while running.stdout.readline() != "6\n":
            assert running.poll() is None
    finally:
        running.kill()
        running.communicate()


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    kill_midway(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {".a1-new", ".b2-new"}
    assert outputs_of([process(tmp_path, ["c3"])]) == ["4"]
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"c3"}
    assert outputs_of([process(tmp_path, ["a1", "b2"])]) == ["8"]


def test_a_killed_repair_is_continued(tmp_path: Path) -> None:
    assert outputs_of([process(tmp_path, ["a1", "b2"])]) == ["8"]
    with (tmp_path / "a1" / "data.npy").open("r+b") as file:
        for row in (0, 7, 9):
            file.seek(128 + row * 10)
            file.write(b"\xff")
    kill_midway(tmp_path)
    assert outputs_of([process(tmp_path, ["a1", "b2"])]) == ["2"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")
@pytest.mark.parametrize("limit", [1000, 3100])
def test_a_full_disk_is_explained(tmp_path: Path, limit: int) -> None:
    act = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    script = (
        SCRIPT.replace("{act}", "time").replace("entries = [", f"{act}\nentries = [").replace("(10, 10)", "(300, 10)")
    )
    script = script.replace("arrays = store", "from tlcli.errors import DataError\ntry: arrays = store")
    script = script.replace("\nassert", "\nexcept DataError as error: sys.exit(str(error))\nassert")
    command = [sys.executable, "-c", script, str(tmp_path), "a1,b2", "0"]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert f"{tmp_path}: the cache needs 6,000 bytes on disk (File too large)" in completed.stderr
    assert "TLCLI_CACHE" in completed.stderr
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
