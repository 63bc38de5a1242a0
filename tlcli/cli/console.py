"""Consoles for stdout (results) and stderr (progress, logs), tables, and the quiet import of Keras."""

import gc
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlcli.evaluate.quiet import quiet
from tlcli.text import printable

# Keras and TensorFlow import these for plots, wrappers and converters if they are installed, which takes a second.
NOT_FOR_KERAS = ("cv2", "matplotlib", "pandas", "sklearn")
NOT_FOR_TENSORFLOW = ("jax",)
# Width outside a terminal of what is arranged in columns, such as images, characters. Tables have no limit there.
PIPE_WIDTH = 120
# Spaces between the columns of a table, and the width to which texts are wrapped before a column is left out.
GAP, MIN_TEXT = 2, 12
# Wider than any table, characters.
MAX_WIDTH = 100_000


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
    """Print a plain table that fits the terminal, and below it the columns that did not. A pipe gets all columns.

    Args:
        console: Where.
        columns: Headings. The first column that is shown holds names, which are folded only if they are wider than
            the terminal.
        rows: One cell per heading.
        text_columns: The first columns, aligned left. The others hold numbers and are aligned right.
        optional: Columns to leave out on a narrow terminal, in this order, until the others fit. If these are not
            enough, texts are wrapped, and then the last columns are left out.
        hint: Where to find the columns that are left out.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max([cell_len(name), *(row[at].cell_len for row in cells)]) for at, name in enumerate(columns)]
    limit = width_limit()
    first = [columns.index(name) for name in optional if name in columns]
    shown = _fitting(widths, limit, text_columns=text_columns, first=first)
    result = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for at in shown:
        is_text, is_name = at < text_columns, at == shown[0] and (limit is None or widths[at] <= limit)
        justify: Literal["left", "right"] = "left" if is_text else "right"
        result.add_column(safe(columns[at]), justify=justify, overflow="fold", no_wrap=is_name or not is_text)
    for row in cells:
        result.add_row(*(row[at] for at in shown))
    print_lines(console, result)
    if hidden := [name for at, name in enumerate(columns) if at not in shown and name]:
        needed = _total(widths)
        print_text(
            console,
            f"Left out at {console.width} columns ({needed} needed): {', '.join(hidden)}. {hint}".rstrip(),
            "dim",
        )


def print_lines(console: Console, table: Table) -> None:
    """Print a table without blanks at the ends of its lines: in a pipe as wide as it is, else within the terminal."""
    options = console.options.update(max_width=width_limit() or MAX_WIDTH)
    for line in console.render_lines(table, options, pad=False):
        text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
        text.rstrip()
        console.print(text)


def _fitting(widths: Sequence[int], limit: int | None, *, text_columns: int, first: Sequence[int]) -> list[int]:
    """Positions of the columns that fit `limit`, after leaving out those of `first` in their order, then the last."""
    shown = list(range(len(widths)))
    if limit is None:
        return shown
    for at in first:
        if _total([widths[at] for at in shown]) > limit:
            shown.remove(at)
    least = [min(width, MIN_TEXT) if at < text_columns else width for at, width in enumerate(widths)]
    if widths[shown[0]] <= limit:
        least[shown[0]] = widths[shown[0]]
    while len(shown) > 1 and _total([least[at] for at in shown]) > limit:
        shown.pop()
    return shown


def _total(widths: Sequence[int]) -> int:
    """Width of a table whose columns have these widths, characters."""
    return sum(widths) + GAP * (len(widths) - 1)


def width_limit() -> int | None:
    """Width of the terminal, or what COLUMNS says, characters; None in a pipe, where tables may have any width."""
    return out().width if sys.stdout.isatty() or "COLUMNS" in os.environ else None


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
