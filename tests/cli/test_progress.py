"""Progress without a terminal."""

import io

from rich.console import Console

from tlcli.cli.progress import Plain
from tlcli.train.events import Advanced


def test_every_repetition_of_a_stage_ends_with_one_line() -> None:
    log = io.StringIO()
    observe = Plain(Console(file=log, width=80))
    for total in (3, 4):
        for done in [*range(1, total + 1), total]:
            observe(Advanced("frozen layers", done, total))
    observe(Advanced("reading", 1, 1))
    assert log.getvalue().splitlines() == ["frozen layers: 3 of 3", "frozen layers: 4 of 4", "reading: 1 of 1"]
