"""Files damaged at random: every reader answers with values or one clear error, in time, and writes nothing elsewhere.

TLCLI_TEST_MUTATIONS sets the number of damaged copies of all kinds together, TLCLI_TEST_SEED the damage.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from file_kinds import heavy, light
from mutations import Case, failures, snapshot

SEED = int(os.environ.get("TLCLI_TEST_SEED", random.randrange(10**6)))
COUNT = int(os.environ.get("TLCLI_TEST_MUTATIONS", 12_000))
# Kinds of files that say nothing wrong by themselves when they are damaged: any text is a split file.
FREE = {"splits.csv"}


@pytest.fixture
def kinds(draw: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Case]]:
    """Makes the files; the folder of each is the only place where anything may be written but cache and zoo."""
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLCLI_ZOO", str(tmp_path / "zoo"))
    (tmp_path / "work" / "home").mkdir(parents=True)
    photos = draw(tmp_path / "work" / "photos", count=3)
    monkeypatch.chdir(tmp_path / "work")

    def make(*, networks: bool) -> dict[str, Case]:
        home = tmp_path / "work" / "home"
        return light(home, photos) | (heavy(home) if networks else {})

    return make


def check(cases: dict[str, Case], each: int, folder: Path) -> None:
    for name, case in cases.items():
        case.read()  # Undamaged, it is read.
        wrong, refused = failures(case, each, random.Random(f"{SEED} {name}"))
        print(f"{name}: {refused} of {each} refused, seed {SEED}")
        assert not wrong, f"{name}, seed {SEED}: " + "; ".join(wrong)
        assert refused or name in FREE or each < 20, name


def test_damaged_files_end_in_clear_errors(kinds: Callable, tmp_path: Path) -> None:
    cases = kinds(networks=False)
    before = snapshot(tmp_path / "work")
    check(cases, 8, tmp_path)
    assert snapshot(tmp_path / "work") == before
    assert {path.name for path in tmp_path.iterdir()} <= {"work", "cache", "zoo"}


@pytest.mark.slow
def test_ten_thousand_damaged_files_end_in_clear_errors(kinds: Callable, tmp_path: Path) -> None:
    cases = kinds(networks=True)
    before = snapshot(tmp_path / "work")
    check(cases, -(-COUNT // len(cases)), tmp_path)
    assert snapshot(tmp_path / "work") == before
    assert {path.name for path in tmp_path.iterdir()} <= {"work", "cache", "zoo"}
