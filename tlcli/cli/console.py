"""Where words go: results to stdout, progress and logs to stderr, both safe against hostile names."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlcli.text import printable

# Keras imports these where they are installed, which takes a second, for its own plots and wrappers.
NOT_FOR_KERAS = ("matplotlib", "pandas", "sklearn")
# Width of tables that no terminal limits.
PIPE_WIDTH = 120


def out() -> Console:
    """The console for results."""
    return _console(sys.stdout.isatty(), stderr=False)


def err() -> Console:
    """The console for progress and logs."""
    return _console(sys.stderr.isatty(), stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def safe(text: str, style: str = "") -> Text:
    """Text shown as it is: no markup is read in it, and control characters are shown as escapes."""
    return Text(printable(text), style=style)


def say(console: Console, text: Text | str, style: str = "") -> None:
    """Print a sentence: broken between words on a terminal, one line elsewhere."""
    console.print(text, style=style or None, soft_wrap=not console.is_terminal)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, left: int = 1, spare: Sequence[str] = ()
) -> Table:
    """A plain table; the first `left` columns are words, the others numbers set to the right.

    On a narrow terminal the columns named in `spare` are left out, in that order, until the others fit.
    """
    kept = fitting(columns, rows, spare=spare)
    shown = [[_cell(cell) for cell in row] for row in rows]
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for at, name in enumerate(columns):
        if name in kept:
            is_word = at < left
            made.add_column(safe(name), justify="left" if is_word else "right", overflow="fold", no_wrap=not is_word)
    for row in shown:
        made.add_row(*(cell for cell, name in zip(row, columns, strict=True) if name in kept))
    return made


def print_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    left: int = 1,
    spare: Sequence[str] = (),
) -> None:
    """Print a table, and say which columns found no room."""
    console.print(table(columns, rows, left=left, spare=spare))
    if missing := [name for name in columns if name not in fitting(columns, rows, spare=spare)]:
        say(console, f"Left out at {console.width} columns: {', '.join(missing)}.", "dim")


def fitting(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, spare: Sequence[str]) -> list[str]:
    """The columns that are left when those in `spare` go, in that order, until the others fit the terminal."""
    kept = list(columns)
    for name in spare:
        if width(columns, rows, kept) > out().width:
            kept.remove(name)
    return kept


def width(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], kept: Sequence[str]) -> int:
    """Characters that a table with the columns `kept` takes."""
    widths = [max([len(name), *(_cell(row[at]).cell_len for row in rows)]) for at, name in enumerate(columns)]
    return sum(size + 2 for size, name in zip(widths, columns, strict=True) if name in kept) - 2


def _cell(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else safe(cell)


@contextmanager
def loading_keras() -> Iterator[None]:
    """Around the import of Keras: quiet, and without what Keras would load for functions that are not used here."""
    hidden = dict.fromkeys(set(NOT_FOR_KERAS) - set(sys.modules))
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None makes an import fail as if nothing were installed
    try:
        with _quiet():
            yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the native libraries' start-up lines off stderr while heavy modules load; shown if loading fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    saved = os.dup(2)
    with TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
            # Its warnings are about how a program calls it, such as many small networks in one process.
            logging.getLogger("tensorflow").setLevel(logging.ERROR)
        except Exception:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _console(is_terminal: bool, *, stderr: bool) -> Console:
    width = None if is_terminal or "COLUMNS" in os.environ else PIPE_WIDTH
    # Lines are never broken here: a terminal does it itself, and a log or a copied command wants them whole.
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(stderr=stderr, width=width, color_system=colours, highlight=False, soft_wrap=True)
