"""Output: results on stdout, all else on stderr; no colours and no wrapped lines in a pipe."""

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
from tlcli.evaluate.reliability import wilson
from tlcli.text import compact, duration

PROGRAM = str(Path(sys.executable).with_name("tlcli"))


def on_a_terminal(*words: str, columns: int = 80, **settings: str) -> str:
    """The output of a command on a terminal of that width, for stdout and stderr together."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", **settings}
    process = subprocess.Popen([PROGRAM, *words], stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    output = b""
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:  # Linux raises it when the other side is closed
            break
        if not part:
            break
        output += part
    os.close(controller)
    assert process.wait() == 0
    return output.decode()


def test_stdout_is_one_json_document(tlcli: Callable, photos: Path, finished: tuple) -> None:
    for words in (["plan", photos], ["evaluate", finished[0]], ["predict", finished[0], photos]):
        result = tlcli(*words, "--json")
        json.loads(result.stdout)
        assert bool(result.stderr) == (words[0] == "plan")
        quiet = tlcli(*words, "--json", "--quiet")
        assert (quiet.stdout, quiet.stderr) == (result.stdout, "")


@pytest.mark.parametrize("position", ["before", "after"])
def test_quiet_works_before_and_after_the_command(position: str, tlcli: Callable, photos: Path) -> None:
    words = ["--quiet", "plan", photos] if position == "before" else ["plan", photos, "--quiet"]
    assert tlcli(*words).stderr == ""


def test_a_pipe_gets_no_colours_and_no_wrapped_lines(tlcli: Callable, draw: Callable, tmp_path: Path) -> None:
    folder = draw(tmp_path / ("a long name " * 12) / ("another one " * 12))
    result = tlcli("plan", folder)
    assert "\x1b" not in result.stdout + result.stderr
    assert str(folder) in result.stdout.splitlines()[0]


def test_a_terminal_gets_colours_unless_no_color_is_set() -> None:
    assert "\x1b[" in on_a_terminal("zoo", "list", "mobilenet*")
    assert "\x1b[3" not in on_a_terminal("zoo", "list", "mobilenet*", NO_COLOR="1")


def lines_on_a_terminal(*words: str, columns: int) -> list[str]:
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", on_a_terminal(*words, columns=columns))
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("words", [["zoo", "list"], ["recipe", "list"]], ids=" ".join)
def test_tables_fit_the_terminal(words: list[str], columns: int) -> None:
    lines = lines_on_a_terminal(*words, columns=columns)
    assert max(map(len, lines)) <= columns
    assert len([line for line in lines if line.strip()]) == len(lines)


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("words", [["mobilenet_v2"], ["resnet50", "--train", "top:2"]], ids=" ".join)
def test_the_layer_report_fits_the_terminal(words: list[str], columns: int) -> None:
    lines = lines_on_a_terminal("inspect", *words, columns=columns)
    assert max(map(len, lines)) <= columns
    # The header may be wrapped, but not the tables.
    tables = lines[lines.index("") + 1 :]
    assert not [line for line in tables if line.startswith(" ")], "a wrapped cell"


def test_the_libraries_are_silent_on_a_pipe(photos: Path, finished: tuple) -> None:
    done = subprocess.run([PROGRAM, "predict", finished[0], photos], capture_output=True, text=True, check=True)
    assert done.stderr == "", "neither start-up messages nor progress of a second"
    assert len(done.stdout.splitlines()) == 30


def test_a_closed_pipe_is_not_an_error() -> None:
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
    assert "bug in tlcli" not in done.stderr


@pytest.mark.parametrize(
    "text", ["[red]no[/red]", "a\x1b[31mb", "tab\there", "new\nline", "π grün 猫", r"back\[slash]"]
)
def test_names_are_shown_literally(text: str) -> None:
    shown = console.safe(text).plain
    assert "\x1b" not in shown
    assert "\n" not in shown
    if text.isprintable():
        assert shown == text


def test_table_cells_are_not_markup(capsys: pytest.CaptureFixture) -> None:
    console.print_table(console.out(), ["[red]", "[/]"], [["[bold]", "[/bold]"]])
    assert capsys.readouterr().out.split() == ["[red]", "[/]", "[bold]", "[/bold]"]


WIDE = ["network", "what it is", "parameters", "weights"]
ROWS = [["a_network_with_a_long_name_21k", "a title of many words", "3.00 M", "download"], ["b", "short", "5", "–"]]


@pytest.mark.parametrize(
    ("width", "words", "left_out"),
    [
        (80, ["network", "what it is", "parameters", "weights"], ""),
        # A text is wrapped before a column is left out that need not be.
        (70, ["network", "what it is", "parameters", "weights"], ""),
        (60, ["network", "what it is", "parameters"], "weights"),
        (50, ["network", "what it is"], "parameters, weights"),
        (30, ["network"], "what it is, parameters, weights"),
    ],
)
def test_names_are_whole_and_other_columns_left_out(
    width: int, words: list[str], left_out: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    console.print_table(console.out(), WIDE, ROWS, text_columns=2)
    header, *lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", header) == words
    assert lines[0].split()[0] == ROWS[0][0]
    notes = [line for line in lines if line.startswith("Left out")]
    assert notes == ([f"Left out at {width} columns (75 needed): {left_out}."] if left_out else [])
    assert max(len(line) for line in lines if line not in notes) <= width


def test_a_name_wider_than_the_terminal_is_folded(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "28")
    console.print_table(console.out(), WIDE, ROWS, text_columns=2, optional=["what it is", "weights"])
    lines = capsys.readouterr().out.partition("Left out")[0].splitlines()
    assert "a_network" in lines[1]
    assert "parameters" in lines[0]
    assert max(map(len, lines)) <= 28


def test_a_pipe_gets_all_columns_and_no_blanks_at_the_ends_of_lines(capsys: pytest.CaptureFixture) -> None:
    console.print_table(console.out(), ["name", "number", "text"], [["x" * 150, "1", "y" * 80], ["z", "2", ""]])
    header, long, short = capsys.readouterr().out.splitlines()
    assert long.split() == ["x" * 150, "1", "y" * 80]
    assert header.split() == ["name", "number", "text"]
    assert short == f"{'z':<152}{'2':>6}"


def test_json_with_nan_is_refused(capsys: pytest.CaptureFixture) -> None:
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
def test_counts_are_compact(value: float, text: str) -> None:
    assert compact(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (3599.6, "1 h 00 min"), (90061, "25 h 01 min")],
)
def test_durations_have_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_failing_import_prints_what_the_libraries_wrote(capfd: pytest.CaptureFixture) -> None:
    with console.loading_keras():
        os.write(2, b"start-up line\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ZeroDivisionError), console.loading_keras():
        os.write(2, b"why it failed\n") / 0
    assert capfd.readouterr().err == "why it failed\n"


def test_a_precision_without_effect_is_said(tlcli: Callable, photos: Path, tmp_path: Path) -> None:
    """Validation and test images are always computed in float32, and here they stand in every batch."""
    small = ("-m", "mobilenet", "--weights", "random", "--set", "data.size=[32,32]", "--recipe", "head-only")
    done = tlcli("finetune", photos, *small, "--precision", "bfloat16", "--out", tmp_path / "run")
    assert done.code == 0, done.stderr
    assert done.stderr.count("frozen layers: bfloat16 has no effect: 30 images fill no batch without") == 1


def test_a_result_says_what_it_is_worth_and_what_the_cache_gave(
    tlcli: Callable, photos: Path, tiny: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "probed.yaml"
    recipe.write_text(tiny.read_text(encoding="utf-8").replace("init: probe, epochs: 2", "init: probe, epochs: 0"))
    words = ("finetune", photos, "--recipe", recipe, "--epochs", 1, "--batch", 16, "--set", "report=false", "--out")
    first, second = (tlcli(*words, tmp_path / name) for name in ("first", "second"))
    run = json.loads((tmp_path / "second" / "run.json").read_text(encoding="utf-8"))
    assert run["recipe"]["performance"]["batch"] == 16
    for name in ("val", "test"):
        hits = round(run["scores"][name]["accuracy"] * run["scores"][name]["count"])
        low, high = wilson(hits, run["scores"][name]["count"])
        line = (
            f"{name:<4}  accuracy {run['scores'][name]['accuracy']:.4f} (95 % interval {low:.2f} to {high:.2f})  loss "
        )
        assert line in first.stdout
        assert line in second.stdout
    assert "cache of an earlier run" not in first.stdout
    steps = [step["step"] for step in run["phases"]]
    assert steps[0] == "head"
    assert f"; from the cache of an earlier run: {', '.join(steps)} (" in second.stdout
    read = "features of the frozen layers: from the cache\n"
    assert (read in first.stderr, read in second.stderr) == (False, True)
