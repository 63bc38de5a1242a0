"""Progress without a terminal."""

import io

import pytest
from rich.console import Console

from tlcli.cli import progress
from tlcli.cli.progress import Plain
from tlcli.train.events import Advanced


def test_a_brief_log_has_no_line_of_a_short_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    log, clock = io.StringIO(), iter([0.0, 1.0, 2.0, 3.0, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    observe = Plain(Console(file=log, width=80), is_brief=True)
    for stage in ("short", "long"):
        for done in (1, 2, 3):
            observe(Advanced(stage, done, 3))
    assert log.getvalue().splitlines() == ["long: 2 of 3", "long: 3 of 3"]


def test_every_repetition_of_a_stage_ends_with_one_line() -> None:
    log = io.StringIO()
    observe = Plain(Console(file=log, width=80))
    for total in (3, 4):
        for done in [*range(1, total + 1), total]:
            observe(Advanced("frozen layers", done, total))
    observe(Advanced("reading", 1, 1))
    assert log.getvalue().splitlines() == ["frozen layers: 3 of 3", "frozen layers: 4 of 4", "reading: 1 of 1"]
