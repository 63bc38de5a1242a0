import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tlcli.doctor import workers
from tlcli.doctor.look import Failure, Look, look_at

SIZE = (32, 32)
DEADLY = "deadly.png"


def named(files: Sequence[str], _: tuple[int, int]) -> list[Look]:
    """In the place of a look: the name and the process."""
    if any(Path(file).name == DEADLY for file in files):
        os._exit(9)
    return [Look(file, os.getpid(), Failure("unreadable", "")) for file in files]


def look_all(files: Sequence[str], count: int | None = None) -> list[Look]:
    return list(workers.look_at_all(files, named, at_least=SIZE, workers=count))


@pytest.mark.parametrize("count", [0, 1, 33, 500])
def test_every_file_is_looked_at_in_order(count: int) -> None:
    files = [str(number) for number in range(count)]
    assert [look.sha256 for look in look_all(files)] == files


def test_many_files_go_to_processes_and_few_do_not() -> None:
    assert {look.bytes for look in look_all(["a"] * 10)} == {os.getpid()}
    assert os.getpid() not in {look.bytes for look in look_all(["a"] * workers.FEW)}


def test_a_file_that_kills_the_decoder_is_found_and_the_others_are_looked_at() -> None:
    """Two in one batch."""
    files = [str(number) for number in range(workers.FEW)]
    for place in (200, 210):
        files[place] = f"somewhere/{DEADLY}"
    looks = look_all(files, 2)
    killed = [place for place, look in enumerate(looks) if isinstance(look.found, Failure) and look.found.reason]
    assert killed == [200, 210]
    assert [look.sha256 for place, look in enumerate(looks) if place not in killed] == [
        file for file in files if DEADLY not in file
    ]


def test_a_reader_that_stops_waits_for_no_other_file(good: Path) -> None:
    """What was not begun is called off."""
    begun: list[str] = []

    def slow(files: Sequence[str], at_least: tuple[int, int]) -> list[Look]:
        begun.extend(files)
        return look_at(files, at_least)

    files = [str(path) for path in sorted(good.rglob("*.png"))] * 9
    looks = workers.look_at_all(files, slow, at_least=SIZE, workers=1)
    next(looks)
    looks.close()  # type: ignore[attr-defined]
    assert len(begun) < len(files)
    assert threading.active_count() < 20
