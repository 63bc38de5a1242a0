"""Consoles for stdout (results) and stderr (progress, logs), tables, and the quiet import of Keras."""

import gc
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlcli.evaluate.quiet import quiet
from tlcli.text import printable

# Keras and TensorFlow import these for plots, wrappers and converters if they are installed, which takes a second.
NOT_FOR_KERAS = ("cv2", "matplotlib", "pandas", "sklearn")
NOT_FOR_TENSORFLOW = ("jax",)
# Width of tables outside a terminal, characters.
PIPE_WIDTH = 120


def out() -> Console:
    """The console for results."""
    return _console(sys.stdout.isatty(), stderr=False)


def err() -> Console:
    """The console for progress and logs."""
    return _console(sys.stderr.isatty(), stderr=True)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def safe(text: str, style: str = "") -> Text:
    """The text without markup, with control characters as escapes."""
    return Text(printable(text), style=style)


def print_text(console: Console, text: Text | str, style: str = "") -> None:
    """Print a sentence: wrapped between words on a terminal, one line elsewhere."""
    console.print(text, style=style or None, soft_wrap=not console.is_terminal)


def print_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    text_columns: int = 1,
    optional: Sequence[str] = (),
    hint: str = "",
) -> None:
    """Print a table, and below it the columns that did not fit. `hint` says where to find them."""
    console.print(table(columns, rows, text_columns=text_columns, optional=optional))
    shown = fitting_columns(columns, rows, optional=optional)
    if hidden := [name for name in columns if name not in shown]:
        needed = table_width(columns, rows, columns)
        print_text(
            console,
            f"Left out at {console.width} columns ({needed} needed): {', '.join(hidden)}. {hint}".rstrip(),
            "dim",
        )


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    text_columns: int = 1,
    optional: Sequence[str] = (),
) -> Table:
    """A plain table that fits the terminal.

    Args:
        columns: Headings.
        rows: One cell per heading.
        text_columns: The first columns, aligned left. The others hold numbers and are aligned right.
        optional: Columns to leave out on a narrow terminal, in this order, until the others fit.
    """
    shown = fitting_columns(columns, rows, optional=optional)
    cells = [[_cell(cell) for cell in row] for row in rows]
    result = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for position, name in enumerate(columns):
        if name in shown:
            is_text = position < text_columns
            result.add_column(safe(name), justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in cells:
        result.add_row(*(cell for cell, name in zip(row, columns, strict=True) if name in shown))
    return result


def fitting_columns(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, optional: Sequence[str]
) -> list[str]:
    """The columns that fit the terminal after leaving out optional ones, in their order."""
    shown = list(columns)
    for name in optional:
        if name in shown and table_width(columns, rows, shown) > out().width:
            shown.remove(name)
    return shown


def table_width(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], shown: Sequence[str]) -> int:
    """Width in characters of a table with the columns `shown`."""
    widths = [
        max([len(name), *(_cell(row[position]).cell_len for row in rows)]) for position, name in enumerate(columns)
    ]
    return sum(size + 2 for size, name in zip(widths, columns, strict=True) if name in shown) - 2


def _cell(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else safe(cell)


@contextmanager
def loading_keras() -> Iterator[None]:
    """Import Keras inside this context: without start-up messages, and without modules that it imports for nothing.

    Offline, no socket is opened.
    """
    from tlcli.model.backend import backend
    from tlcli.zoo.download import no_sockets

    unwanted = {*NOT_FOR_KERAS, *(() if backend() == "jax" else NOT_FOR_TENSORFLOW)}
    hidden = dict.fromkeys(unwanted - set(sys.modules))
    sys.modules.update(hidden)  # None makes an import fail as if the module were not installed
    try:
        with no_sockets(), _quiet():
            yield
    finally:
        for name in hidden:
            del sys.modules[name]
        # Each later search for garbage would otherwise go through a million objects of TensorFlow.
        gc.freeze()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what native libraries write to stderr while modules load; print it if loading fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        yield
        # TensorFlow warns about uses that are intended here, such as many small networks in one process.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _console(is_terminal: bool, *, stderr: bool) -> Console:
    width = None if is_terminal or "COLUMNS" in os.environ else PIPE_WIDTH
    # Lines are not broken here: terminals do that, and logs and copied commands need whole lines.
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(stderr=stderr, width=width, color_system=colours, highlight=False, soft_wrap=True)
