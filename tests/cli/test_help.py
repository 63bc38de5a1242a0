"""Help: every command has one, no line of it is cut, and the documentation names every command."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from tlcli.cli.main import cli

CHECKOUT = Path(__file__).resolve().parents[2]
GOLDEN = CHECKOUT / "tests" / "golden"


def commands(command: click.Command = cli, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command, groups included."""
    yield prefix
    if isinstance(command, click.Group):
        for name, subcommand in command.commands.items():
            yield from commands(subcommand, (*prefix, name))


COMMANDS = list(commands())


def test_every_command_is_known_once() -> None:
    assert len(COMMANDS) == 35
    assert len(set(COMMANDS)) == 35


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "tlcli")
def test_help_is_complete(words: tuple[str, ...], tlcli: Callable) -> None:
    result = tlcli(*words, "--help")
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: {' '.join(('tlcli', *words))} ")
    assert "..." not in result.stdout.replace("COMMAND [ARGS]...", ""), "a line is cut"
    assert "\\b" not in result.stdout
    assert "\b" not in result.stdout
    assert result.stdout == tlcli(*words, "-h").stdout


@pytest.mark.parametrize("columns", [60, 80])
def test_descriptions_of_commands_are_whole(columns: int) -> None:
    with click.Context(cli, info_name="tlcli", terminal_width=columns) as context:
        lines = cli.get_help(context).partition("Commands:\n")[2].splitlines()
    assert "check Find faulty images: broken files, copies, leaks. compare" in " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= columns
    assert (len(lines) == len(cli.commands)) == (columns == 80), "one line for each on 80 columns"


@pytest.mark.parametrize("words", COMMANDS[1:], ids=" ".join)
def test_every_command_is_documented(words: tuple[str, ...]) -> None:
    made = CHECKOUT / "docs" / "reference" / "commands.md"
    pages = [CHECKOUT / "README.md", *{*(CHECKOUT / "docs").rglob("*.md")} - {made}]
    text = " ".join(path.read_text(encoding="utf-8") for path in pages)
    assert f"tlcli {' '.join(words)}" in text


@pytest.mark.parametrize("words", [(), ("finetune",), ("plan",)], ids=["tlcli", "finetune", "plan"])
def test_help_is_the_golden_text(words: tuple[str, ...], tlcli: Callable) -> None:
    """After an intended change, run RENEW_GOLDEN=1 pytest tests/cli and read the difference."""
    path = GOLDEN / f"help{''.join(f'-{word}' for word in words)}.txt"
    text = tlcli(*words, "--help").stdout
    if "RENEW_GOLDEN" in os.environ:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [(), ("recipe",), ("zoo",)], ids=["tlcli", "recipe", "zoo"])
def test_a_group_without_a_command_prints_its_help_as_an_error(words: tuple[str, ...], tlcli: Callable) -> None:
    result = tlcli(*words)
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr == tlcli(*words, "--help").stdout


def test_version_is_printed(tlcli: Callable) -> None:
    from tlcli import __version__

    result = tlcli("--version")
    assert (result.code, result.stdout) == (0, f"tlcli {__version__}\n")
