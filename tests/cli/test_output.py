"""What goes where: results to stdout, all else to stderr; nothing broken, nothing coloured in a pipe."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.cli import console
from tlcli.text import compact, duration

PROGRAM = str(Path(sys.executable).with_name("tlcli"))


def on_a_terminal(*words: str, columns: int = 80, **settings: str) -> str:
    """What a command draws on a terminal of that width; stdout and stderr are both the terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", **settings}
    done = subprocess.Popen([PROGRAM, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        drawn += part
    os.close(ours)
    assert done.wait() == 0
    return drawn.decode()


def test_a_command_that_reports_says_nothing_else(tlcli: Callable, photos: Path, finished: tuple) -> None:
    for words in (["plan", photos], ["evaluate", finished[0]], ["predict", finished[0], photos]):
        said = tlcli(*words, "--json")
        json.loads(said.stdout)
        assert said.stderr.splitlines()
        quiet = tlcli(*words, "--json", "--quiet")
        assert (quiet.stdout, quiet.stderr) == (said.stdout, "")


@pytest.mark.parametrize("place", ["before", "after"])
def test_quiet_may_stand_before_and_after_the_command(place: str, tlcli: Callable, photos: Path) -> None:
    words = ["--quiet", "plan", photos] if place == "before" else ["plan", photos, "--quiet"]
    assert tlcli(*words).stderr == ""


def test_a_pipe_gets_no_colours_and_no_broken_lines(tlcli: Callable, draw: Callable, tmp_path: Path) -> None:
    folder = draw(tmp_path / ("a long name " * 12) / ("another one " * 12))
    said = tlcli("plan", folder)
    assert "\x1b" not in said.stdout + said.stderr
    assert str(folder) in said.stdout.splitlines()[0]


def test_a_terminal_gets_colours_unless_it_wants_none() -> None:
    assert "\x1b[" in on_a_terminal("zoo", "list", "mobilenet*")
    assert "\x1b[3" not in on_a_terminal("zoo", "list", "mobilenet*", NO_COLOR="1")


def lines_on_a_terminal(*words: str, columns: int) -> list[str]:
    drawn = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", on_a_terminal(*words, columns=columns))
    return [line.rstrip() for line in drawn.splitlines()]


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("words", [["zoo", "list"], ["recipe", "list"]], ids=" ".join)
def test_tables_fit_the_terminal(words: list[str], columns: int) -> None:
    lines = lines_on_a_terminal(*words, columns=columns)
    assert max(map(len, lines)) <= columns
    assert len([line for line in lines if line.strip()]) == len(lines), "a wrapped cell makes lines of its own"


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("words", [["mobilenet_v2"], ["resnet50", "--train", "top:2"]], ids=" ".join)
def test_the_layer_report_fits_the_terminal(words: list[str], columns: int) -> None:
    lines = lines_on_a_terminal("inspect", *words, columns=columns)
    assert max(map(len, lines)) <= columns
    # The header may be wrapped, the tables may not.
    tables = lines[lines.index("") + 1 :]
    assert not [line for line in tables if line.startswith(" ")], "a wrapped cell makes lines of its own"


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{PROGRAM} zoo list --json | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[\n"
    assert "Traceback" not in done.stderr
    assert "fault of tlcli" not in done.stderr


@pytest.mark.parametrize(
    "text", ["[red]no[/red]", "a\x1b[31mb", "tab\there", "new\nline", "π grün 猫", r"back\[slash]"]
)
def test_names_are_shown_as_they_are(text: str) -> None:
    shown = console.safe(text).plain
    assert "\x1b" not in shown
    assert "\n" not in shown
    if text.isprintable():
        assert shown == text


def test_headers_of_tables_read_no_markup(capsys: pytest.CaptureFixture) -> None:
    console.out().print(console.table(["[red]", "[/]"], [["[bold]", "[/bold]"]]))
    assert capsys.readouterr().out.split() == ["[red]", "[/]", "[bold]", "[/bold]"]


def test_json_with_not_a_number_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        console.print_json({"loss": float("nan")})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1.00 k"),
        (12345, "12.3 k"),
        (123456, "123 k"),
        (999_999, "1.00 M"),
        (2e13, "20.0 T"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert compact(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (3599.6, "1 h 00 min"), (90061, "25 h 01 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_failing_import_shows_what_the_libraries_said(capfd: pytest.CaptureFixture) -> None:
    with console.loading_keras():
        os.write(2, b"start-up line\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ZeroDivisionError), console.loading_keras():
        os.write(2, b"why it failed\n") / 0
    assert capfd.readouterr().err == "why it failed\n"
