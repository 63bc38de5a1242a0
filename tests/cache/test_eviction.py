import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from tlcli.cache.eviction import DiskSpace, free_space, limit_total, mark_used, remove_entry, remove_leftovers
from tlcli.errors import DataError


def put(folder: Path, key: str, size: int, seconds_ago: int = 0) -> None:
    """An entry of this many bytes."""
    (folder / key).mkdir()
    (folder / key / "data.npy").write_bytes(bytes(size))
    (folder / key / "notes.json").write_bytes(b"")
    then = (folder / key / "notes.json").stat().st_mtime - seconds_ago
    os.utime(folder / key / "notes.json", (then, then))


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for key, age in (("aa", 10), ("bb", 30), ("cc", 20)):
        put(tmp_path, key, 100, age)
    return tmp_path


@pytest.mark.parametrize(
    ("budget", "left"),
    [(300, {"aa", "bb", "cc"}), (299, {"aa", "cc"}), (200, {"aa", "cc"}), (199, {"aa"}), (0, set())],
)
def test_the_oldest_go_until_the_budget_holds(three: Path, budget: int, left: set[str]) -> None:
    limit_total(budget, three, ())
    assert held(three) == left


def test_use_and_ownership_protect(three: Path) -> None:
    mark_used(three / "bb")
    limit_total(150, three, {"cc"})
    assert held(three) == {"cc"}
    put(three, "aa", 100, 99)
    with FileLock(three / "aa.lock"):
        limit_total(0, three, ())
    assert held(three) == {"aa"}


def test_only_entries_are_removed(tmp_path: Path) -> None:
    for name in ("my notes", "abc", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.npy").write_bytes(bytes(1000))
    (tmp_path / "my notes" / "notes.json").write_text("mine")
    (tmp_path / "beef").write_text("a file")
    limit_total(0, tmp_path, ())
    remove_leftovers(tmp_path, ())
    assert held(tmp_path) == {"my notes", "abc", ".hidden", "beef"}


def test_leftovers_go_unless_somebody_is_at_them(tmp_path: Path) -> None:
    for name in (".aa-new", ".aa-123", ".bb-new", ".cc-old", "dd"):
        put(tmp_path, name, 10)
    with FileLock(tmp_path / "aa.lock"), FileLock(tmp_path / "bb.lock"):
        remove_leftovers(tmp_path, {"aa"})
    assert held(tmp_path) == {".bb-new", "dd"}


def test_touching_and_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    mark_used(tmp_path / "aa")
    remove_entry(tmp_path / "aa")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("needed", "left"), [(50, {"aa", "bb", "cc"}), (51, {"aa", "cc"}), (250, {"aa"}), (251, {"aa", "bb", "cc"})]
)
def test_entries_give_way_to_a_new_one_if_that_is_enough(
    three: Path, monkeypatch: pytest.MonkeyPatch, needed: int, left: set[str]
) -> None:
    def disk(folder: Path) -> SimpleNamespace:
        """A disk of 350 bytes for the data of our entries."""
        return SimpleNamespace(free=350 - sum(path.stat().st_size for path in folder.glob("*/data.npy")))

    monkeypatch.setattr(shutil, "disk_usage", disk)
    free_space(DiskSpace("cache", three, needed), {"aa"})
    assert held(three) == left
    if needed <= 250:
        DiskSpace("cache", three, needed).require()
    else:
        with pytest.raises(DataError, match=r"the cache needs 251 bytes on disk \(50 free\)\. Free some space"):
            DiskSpace("cache", three, needed).require()
