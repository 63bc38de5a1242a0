"""Help: every command explains itself, nothing in it is cut, and the documents know every command."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from tlcli.cli.main import cli

CHECKOUT = Path(__file__).resolve().parents[2]
GOLDEN = CHECKOUT / "tests" / "golden"


def commands(command: click.Command = cli, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command, groups included."""
    yield above
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from commands(below, (*above, name))


COMMANDS = list(commands())


def test_every_command_was_seen() -> None:
    assert len(COMMANDS) == 22
    assert len(set(COMMANDS)) == 22


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "tlcli")
def test_help_is_whole(words: tuple[str, ...], tlcli: Callable) -> None:
    said = tlcli(*words, "--help")
    assert (said.code, said.stderr) == (0, "")
    assert said.stdout.startswith(f"Usage: {' '.join(('tlcli', *words))} ")
    assert "..." not in said.stdout.replace("COMMAND [ARGS]...", ""), "a line is cut"
    assert "\\b" not in said.stdout
    assert "\b" not in said.stdout
    assert said.stdout == tlcli(*words, "-h").stdout


@pytest.mark.parametrize("words", COMMANDS[1:], ids=" ".join)
def test_every_command_stands_in_the_documents(words: tuple[str, ...]) -> None:
    documents = [CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md")]
    text = " ".join(path.read_text(encoding="utf-8") for path in documents)
    assert f"tlcli {' '.join(words)}" in text


@pytest.mark.parametrize("words", [(), ("finetune",), ("plan",)], ids=["tlcli", "finetune", "plan"])
def test_help_reads_as_it_was_written(words: tuple[str, ...], tlcli: Callable) -> None:
    """After a wanted change: RENEW_GOLDEN=1 pytest tests/cli, then look at the difference."""
    path = GOLDEN / f"help{''.join(f'-{word}' for word in words)}.txt"
    said = tlcli(*words, "--help").stdout
    if "RENEW_GOLDEN" in os.environ:
        path.write_text(said, encoding="utf-8")
    assert said == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [(), ("recipe",), ("zoo",)], ids=["tlcli", "recipe", "zoo"])
def test_a_group_alone_shows_its_help_as_a_mistake(words: tuple[str, ...], tlcli: Callable) -> None:
    said = tlcli(*words)
    assert (said.code, said.stdout) == (2, "")
    assert said.stderr == tlcli(*words, "--help").stdout


def test_version(tlcli: Callable) -> None:
    from tlcli import __version__

    said = tlcli("--version")
    assert (said.code, said.stdout) == (0, f"tlcli {__version__}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_their_completion(shell: str, tlcli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TLCLI_COMPLETE", f"{shell}_source")
    said = tlcli()
    assert said.code == 0
    assert "_TLCLI_COMPLETE" in said.stdout
