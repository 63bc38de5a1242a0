"""Eviction from a cache folder, removal of leftovers, and errors about disk space."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from tlcli.cache.eviction import DiskSpace, evict_to_budget, evict_to_fit, mark_used, remove_entry, remove_leftovers
from tlcli.errors import DataError


def add_entry(folder: Path, key: str, size: int, seconds_ago: int = 0) -> None:
    """Add an entry with `size` bytes of data."""
    (folder / key).mkdir()
    (folder / key / "data.npy").write_bytes(bytes(size))
    (folder / key / "notes.json").write_bytes(b"")
    then = (folder / key / "notes.json").stat().st_mtime - seconds_ago
    os.utime(folder / key / "notes.json", (then, then))


def entries_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.fixture
def folder_of_three(tmp_path: Path) -> Path:
    for key, age in (("aa", 10), ("bb", 30), ("cc", 20)):
        add_entry(tmp_path, key, 100, age)
    return tmp_path


@pytest.mark.parametrize(
    ("budget", "remaining"),
    [(300, {"aa", "bb", "cc"}), (299, {"aa", "cc"}), (200, {"aa", "cc"}), (199, {"aa"}), (0, set())],
)
def test_the_least_recently_used_are_evicted_until_the_rest_fits(
    folder_of_three: Path, budget: int, remaining: set[str]
) -> None:
    evict_to_budget(budget, folder_of_three, ())
    assert entries_in(folder_of_three) == remaining


def test_used_kept_and_locked_entries_stay(folder_of_three: Path) -> None:
    mark_used(folder_of_three / "bb")
    evict_to_budget(150, folder_of_three, {"cc"})
    assert entries_in(folder_of_three) == {"cc"}
    add_entry(folder_of_three, "aa", 100, 99)
    with FileLock(folder_of_three / "aa.lock"):
        evict_to_budget(0, folder_of_three, ())
    assert entries_in(folder_of_three) == {"aa"}


def test_the_order_of_use_holds_when_the_clock_was_set_back(folder_of_three: Path) -> None:
    """All entries come from the future; those used now are the last ones all the same."""
    for key in ("aa", "bb", "cc"):
        notes = folder_of_three / key / "notes.json"
        later = notes.stat().st_mtime + 365 * 86_400
        os.utime(notes, (later, later))
    mark_used(folder_of_three / "bb")
    add_entry(folder_of_three, "dd", 100)
    mark_used(folder_of_three / "dd")
    mark_used(folder_of_three / "bb")
    evict_to_budget(200, folder_of_three, ())
    assert entries_in(folder_of_three) == {"bb", "dd"}
    evict_to_budget(100, folder_of_three, ())
    assert entries_in(folder_of_three) == {"bb"}


def test_other_files_and_folders_stay(tmp_path: Path) -> None:
    for name in ("my notes", "abc", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.npy").write_bytes(bytes(1000))
    (tmp_path / "my notes" / "notes.json").write_text("mine")
    (tmp_path / "beef").write_text("a file")
    evict_to_budget(0, tmp_path, ())
    remove_leftovers(tmp_path, ())
    assert entries_in(tmp_path) == {"my notes", "abc", ".hidden", "beef"}


def test_leftovers_are_removed_unless_another_process_holds_their_lock(tmp_path: Path) -> None:
    for name in (".aa-new", ".aa-123", ".bb-new", ".cc-old", "dd"):
        add_entry(tmp_path, name, 10)
    with FileLock(tmp_path / "aa.lock"), FileLock(tmp_path / "bb.lock"):
        remove_leftovers(tmp_path, {"aa"})
    assert entries_in(tmp_path) == {".bb-new", "dd"}


def test_using_and_removing_a_missing_entry_is_no_error(tmp_path: Path) -> None:
    mark_used(tmp_path / "aa")
    remove_entry(tmp_path / "aa")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("needed", "remaining"), [(50, {"aa", "bb", "cc"}), (51, {"aa", "cc"}), (250, {"aa"}), (251, {"aa", "bb", "cc"})]
)
def test_entries_are_evicted_for_a_new_one_only_if_that_is_enough(
    folder_of_three: Path, monkeypatch: pytest.MonkeyPatch, needed: int, remaining: set[str]
) -> None:
    def disk(folder: Path) -> SimpleNamespace:
        """A disk with 350 bytes for the data of the entries."""
        return SimpleNamespace(free=350 - sum(path.stat().st_size for path in folder.glob("*/data.npy")))

    monkeypatch.setattr(shutil, "disk_usage", disk)
    evict_to_fit(DiskSpace("cache", folder_of_three, needed), {"aa"})
    assert entries_in(folder_of_three) == remaining
    if needed <= 250:
        DiskSpace("cache", folder_of_three, needed).require_free()
    else:
        with pytest.raises(DataError, match=r"the cache needs 251 bytes on disk \(50 free\)\. Free some space"):
            DiskSpace("cache", folder_of_three, needed).require_free()
