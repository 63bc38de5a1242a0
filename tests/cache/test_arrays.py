"""Cached arrays: computed once, verified, repaired, evicted."""

import json
import math
import os
import shutil
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlcli.cache import arrays
from tlcli.cache.arrays import BLOCK_BYTES, Entry, open_arrays
from tlcli.errors import DataError

ROWS = 10
WIDE, NARROW = Entry("a" * 32, (ROWS, 4, 2), "float32"), Entry("b" * 32, (ROWS, 8), "uint8")
BOTH = [WIDE, NARROW]


def content(entry: Entry) -> npt.NDArray[Any]:
    """The content of an entry: random bytes with its key as the seed."""
    raw = np.random.default_rng(int(entry.key, 16)).integers(0, 2, entry.bytes, np.uint8)
    return raw.view(entry.dtype).reshape(entry.shape)


@dataclass
class Source:
    """Computes the content of entries and records its calls: (start, stop, indices)."""

    entries: Sequence[Entry]
    calls: list[tuple[int, int, list[int]]] = field(default_factory=list)

    def __call__(self, start: int, stop: int, indices: Sequence[int]) -> list[npt.NDArray[Any]]:
        self.calls.append((start, stop, list(indices)))
        return [content(self.entries[index])[start:stop] for index in indices]


def open_checked(folder: Path, entries: Sequence[Entry] = BOTH, **options: Any) -> list[tuple[int, int, list[int]]]:
    """Open entries, check arrays and progress, and return the calls that computed rows."""
    source, progress = Source(entries), []
    arrays = open_arrays(folder, entries, source, progress=lambda *count: progress.append(count), **options)
    for entry, array in zip(entries, arrays, strict=True):
        assert (array.shape, array.dtype) == (entry.shape, np.dtype(entry.dtype))
        assert array.tobytes() == content(entry).tobytes()
        assert not array.flags.writeable
    done = np.cumsum([stop - start for start, stop, _ in source.calls]).tolist()
    assert progress == [(count, done[-1]) for count in done]
    return source.calls


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three rows of WIDE: 0-3, 3-6, 6-9, 9-10."""
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 96)


BLOCKS = [(0, 3), (3, 6), (6, 9), (9, 10)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64", "bool"])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (1, 2, 3, 4), (7, 0), (0, 3)])
def test_arrays_are_computed_once(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    entry = Entry("0123456789abcdef", shape, dtype)
    assert open_checked(tmp_path, [entry]) == ([(0, shape[0], [0])] if shape[0] else [])
    assert open_checked(tmp_path, [entry]) == []
    assert (np.load(tmp_path / entry.key / "data.npy") == content(entry)).all()


def test_no_entries_create_no_folder(tmp_path: Path) -> None:
    assert open_arrays(tmp_path / "new", [], Source([])) == []
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("small_blocks")
def test_missing_entries_are_computed_in_one_pass(tmp_path: Path) -> None:
    assert open_checked(tmp_path, [WIDE]) == [(*span, [0]) for span in BLOCKS]
    third = Entry("c" * 32, (ROWS, 1), "uint8")
    # WIDE is not computed again. NARROW has the widest rows of the others, 8 bytes, so one block holds all rows.
    assert open_checked(tmp_path, [NARROW, WIDE, third]) == [(0, ROWS, [0, 2])]


@pytest.mark.usefixtures("small_blocks")
def test_the_widest_entry_determines_the_blocks(tmp_path: Path) -> None:
    assert open_checked(tmp_path, [NARROW, WIDE]) == [(*span, [0, 1]) for span in BLOCKS]


def test_an_entry_can_be_opened_twice_in_one_call(tmp_path: Path) -> None:
    assert open_checked(tmp_path, [WIDE, WIDE]) == [(0, ROWS, [0])]


def test_blocks_have_8_to_16_megabytes(tmp_path: Path) -> None:
    entry = Entry("d" * 32, (333, 125_000), "uint8")
    sizes = []

    def zeros(start: int, stop: int, indices: Sequence[int]) -> list[npt.NDArray[Any]]:
        sizes.append((stop - start) * entry.row_bytes)
        return [np.zeros((stop - start, 125_000), np.uint8) for _ in indices]

    open_arrays(tmp_path, [entry], zeros)
    assert len(sizes) == 3
    assert all(8e6 <= size <= 17e6 for size in sizes)


def test_one_block_at_a_time_is_in_memory(tmp_path: Path) -> None:
    entry = Entry("d" * 32, (200, 250_000), "float32")

    def computed(start: int, stop: int, indices: Sequence[int]) -> list[npt.NDArray[Any]]:
        return [np.full((stop - start, 250_000), start, np.float32) for _ in indices]

    tracemalloc.start()
    try:
        (array,) = open_arrays(tmp_path, [entry], computed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert array.nbytes == 200_000_000
    assert peak < 1.5 * BLOCK_BYTES


def data_of(folder: Path, entry: Entry = WIDE) -> Path:
    return folder / entry.key / "data.npy"


def metadata_of(folder: Path, entry: Entry = WIDE) -> Path:
    return folder / entry.key / "notes.json"


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Flip one bit of a file in place, as a failing disk does."""
    with path.open("r+b") as file:
        file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ (1 << bit)]))


def rewrite_metadata(folder: Path, **changes: Any) -> None:
    """Change the metadata and update their checksum."""
    document = json.loads(metadata_of(folder).read_text()) | changes
    del document["checksum"]
    metadata_of(folder).write_text(json.dumps(document | {"checksum": zlib.crc32(json.dumps(document).encode())}))


def append_byte(folder: Path) -> None:
    with data_of(folder).open("ab") as file:
        file.write(b"x")


ALL: list[tuple[int, int]] = BLOCKS
# By name: a damage, and the rows that are computed again.
DAMAGES: dict[str, tuple[Callable[[Path], object], list[tuple[int, int]]]] = {
    "first bit of the data": (lambda folder: flip(data_of(folder), 128), [(0, 3)]),
    "last bit": (lambda folder: flip(data_of(folder), -1, 7), [(9, 10)]),
    "two blocks": (lambda folder: (flip(data_of(folder), 128 + 3 * 32), flip(data_of(folder), -1)), [(3, 6), (9, 10)]),
    "cut in a block": (lambda folder: os.truncate(data_of(folder), 128 + 7 * 32), [(6, 9), (9, 10)]),
    "cut in the header": (lambda folder: os.truncate(data_of(folder), 100), ALL),
    "empty data": (lambda folder: data_of(folder).write_bytes(b""), ALL),
    "longer": (append_byte, []),
    "header": (lambda folder: flip(data_of(folder), 20), []),
    "no data": (lambda folder: data_of(folder).unlink(), ALL),
    "other data": (lambda folder: np.save(data_of(folder), np.zeros((ROWS, 4, 2), np.float32)), ALL),
    "a folder for data": (lambda folder: (data_of(folder).unlink(), data_of(folder).mkdir()), ALL),
    "no metadata": (lambda folder: metadata_of(folder).unlink(), ALL),
    "half metadata": (lambda folder: os.truncate(metadata_of(folder), 40), ALL),
    "binary metadata": (lambda folder: metadata_of(folder).write_bytes(b"\xff\xfe\0"), ALL),
    "a list as metadata": (lambda folder: metadata_of(folder).write_text("[1, 2]"), ALL),
    "a number as checksums": (lambda folder: rewrite_metadata(folder, checksums=3), ALL),
    "empty metadata": (lambda folder: metadata_of(folder).write_text("{}"), ALL),
    "other version": (lambda folder: rewrite_metadata(folder, version=0), ALL),
    "other shape": (lambda folder: rewrite_metadata(folder, shape=[ROWS, 2, 4]), ALL),
    "other dtype": (lambda folder: rewrite_metadata(folder, dtype="int32"), ALL),
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", DAMAGES)
def test_only_damaged_blocks_are_computed_again(tmp_path: Path, name: str) -> None:
    open_checked(tmp_path)
    damage, spans = DAMAGES[name]
    damage(tmp_path)
    assert open_checked(tmp_path) == [(*span, [0]) for span in spans]
    assert open_checked(tmp_path) == []
    assert (np.load(data_of(tmp_path)) == content(WIDE)).all()
    assert data_of(tmp_path).stat().st_size == 128 + WIDE.bytes


@pytest.mark.usefixtures("small_blocks")
def test_several_entries_are_repaired_in_one_pass(tmp_path: Path) -> None:
    open_checked(tmp_path)
    flip(data_of(tmp_path, WIDE), 128 + 5 * 32)
    flip(data_of(tmp_path, NARROW), 128 + 5 * 8)
    flip(data_of(tmp_path, NARROW), 128 + 9 * 8)
    assert open_checked(tmp_path) == [(3, 6, [0, 1]), (9, 10, [1])]


@pytest.mark.usefixtures("small_blocks")
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_detected(tmp_path: Path, data: st.DataObject) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    open_checked(folder)
    entry = data.draw(st.sampled_from(BOTH))
    path = data.draw(st.sampled_from([data_of(folder, entry), metadata_of(folder, entry)]))
    flip(path, data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(0, 7)))
    open_checked(folder)
    assert open_checked(folder) == []


@pytest.mark.usefixtures("small_blocks")
def test_existing_mappings_see_correct_bytes_after_a_repair(tmp_path: Path) -> None:
    (before,) = open_arrays(tmp_path, [WIDE], Source([WIDE]))
    flip(data_of(tmp_path), 128)
    open_checked(tmp_path, [WIDE])
    assert (before == content(WIDE)).all()
    flip(metadata_of(tmp_path), 20)

    def compute_others(start: int, stop: int, indices: Sequence[int]) -> list[npt.NDArray[Any]]:
        return [content(WIDE)[start:stop] + 1 for _ in indices]

    (after,) = open_arrays(tmp_path, [WIDE], compute_others)
    assert (after == content(WIDE) + 1).all()
    assert (before == content(WIDE)).all()


@pytest.mark.usefixtures("small_blocks")
def test_a_repair_can_differ_slightly(tmp_path: Path) -> None:
    """Sums of floats depend on the number of threads; the checksum of the repaired block is updated."""
    open_checked(tmp_path, [WIDE])
    flip(data_of(tmp_path), 128 + 4 * 32)
    expected = content(WIDE)
    expected[3:6] += np.float32(1e-6)
    for compute in (lambda start, stop, indices: [expected[start:stop]], Source([])):
        (array,) = open_arrays(tmp_path, [WIDE], compute)
        assert (array == expected).all()


@pytest.mark.parametrize(
    ("error", "expected"), [(KeyboardInterrupt, KeyboardInterrupt), (PermissionError(13, "denied"), PermissionError)]
)
@pytest.mark.usefixtures("small_blocks")
def test_errors_of_compute_pass_through_and_leave_no_entry(
    tmp_path: Path, error: BaseException, expected: type[BaseException]
) -> None:
    source = Source(BOTH)

    def failing(start: int, stop: int, indices: Sequence[int]) -> list[npt.NDArray[Any]]:
        if start == 6:
            raise error
        return source(start, stop, indices)

    with pytest.raises(expected):
        open_arrays(tmp_path, BOTH, failing)
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}
    assert len(open_checked(tmp_path)) == 4


@pytest.mark.parametrize(
    "computed", [np.zeros((ROWS, 4), np.float32), np.zeros((ROWS, 4, 2)), np.zeros((ROWS - 1, 4, 2), np.float32)]
)
def test_rows_of_another_shape_or_dtype_are_refused(tmp_path: Path, computed: npt.NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="compute must return rows"):
        open_arrays(tmp_path, [WIDE], lambda *_: [computed])
    assert len(open_checked(tmp_path, [WIDE])) == 1


@pytest.mark.parametrize("other", [Entry("c" * 32, (ROWS + 1, 2), "uint8"), Entry(WIDE.key, (ROWS, 2), "uint8")])
def test_entries_with_different_rows_or_equal_keys_are_refused(tmp_path: Path, other: Entry) -> None:
    with pytest.raises(ValueError, match="the same number of rows and different keys"):
        open_arrays(tmp_path, [WIDE, other], Source([WIDE, other]))


def test_a_key_must_be_hexadecimal() -> None:
    with pytest.raises(ValueError, match=r"must be a hexadecimal number \(got '\.\./up'\)"):
        Entry("../up", (1,), "uint8")


def test_complete_entries_open_without_a_lock(tmp_path: Path) -> None:
    open_checked(tmp_path)
    with FileLock(tmp_path / f"{WIDE.key}.lock"):
        assert open_checked(tmp_path) == []


def single(number: int) -> Entry:
    return Entry(f"{number:032x}", (ROWS, 100), "uint8")


def numbers_in(folder: Path) -> set[int]:
    return {int(path.name, 16) for path in folder.iterdir() if path.is_dir()}


def set_last_use(folder: Path, number: int, seconds_ago: float) -> None:
    then = time.time() - seconds_ago
    os.utime(metadata_of(folder, single(number)), (then, then))


def test_the_least_recently_used_are_evicted(tmp_path: Path) -> None:
    for number in range(4):
        open_checked(tmp_path, [single(number)])
        set_last_use(tmp_path, number, 100 - number)
    size = sum(path.stat().st_size for path in (tmp_path / single(0).key).iterdir())
    assert open_checked(tmp_path, [single(0)], budget=0) == []
    assert numbers_in(tmp_path) == {0, 1, 2, 3}
    open_checked(tmp_path, [single(4)], budget=4 * size + 50)
    assert numbers_in(tmp_path) == {0, 2, 3, 4}
    open_checked(tmp_path, [single(5)], budget=3 * size + 50)
    assert numbers_in(tmp_path) == {0, 4, 5}
    set_last_use(tmp_path, 0, 100)
    # The entries of the call stay, cached or computed, even above the budget.
    open_checked(tmp_path, [single(0), single(6)], budget=size)
    assert numbers_in(tmp_path) == {0, 6}
    open_checked(tmp_path, [single(7)])
    assert numbers_in(tmp_path) == {0, 6, 7}


def test_a_mapping_outlives_the_entry(tmp_path: Path) -> None:
    (array,) = open_arrays(tmp_path, [single(0)], Source([single(0)]))
    open_checked(tmp_path, [single(1)], budget=0)
    assert numbers_in(tmp_path) == ({0, 1} if sys.platform == "win32" else {1})
    assert (array == content(single(0))).all()


def test_a_small_disk_is_reported_before_anything_is_computed(tmp_path: Path) -> None:
    huge = Entry("e" * 32, (10**6, 10**9), "uint8")
    open_checked(tmp_path, [single(0)])
    with pytest.raises(DataError, match=r"needs 1,000,000,000,000,000 bytes on disk \([\d,]+ free\).*TLCLI_CACHE"):
        open_arrays(tmp_path, [huge], Source([]), budget=0)
    # Nothing is evicted if that is not enough.
    assert numbers_in(tmp_path) == {0}


def test_a_cache_with_a_budget_evicts_entries_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=2500 - sum(path.stat().st_size for path in folder.glob("*/data.npy")))

    monkeypatch.setattr(shutil, "disk_usage", disk)
    for number in range(2):
        open_checked(tmp_path, [single(number)])
        set_last_use(tmp_path, number, 100 - number)
    with pytest.raises(DataError, match=r"needs 1,000 bytes on disk \(244 free\)"):
        open_checked(tmp_path, [single(2)])
    open_checked(tmp_path, [single(2)], budget=10**9)
    assert numbers_in(tmp_path) == {1, 2}


def test_a_cache_folder_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(DataError, match=r"the cache cannot be written .*TLCLI_CACHE"):
        open_arrays(tmp_path / "cache", BOTH, Source(BOTH))


def test_sizes_in_bytes() -> None:
    assert (WIDE.row_bytes, WIDE.bytes) == (32, 320)
    assert Entry("a", (3,), "float64").bytes == 24
    assert math.prod(NARROW.shape) == NARROW.bytes
