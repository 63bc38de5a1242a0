"""Lists of images that are not to be used: what `tlcli check --quarantine` writes and `--exclude` reads.

One path a line, relative to DATA, with forward slashes; what follows a tab is the reason. Empty lines and those that
begin with `#` are remarks. A path that a plain line cannot hold is written as a JSON string, in double quotes.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tlcli.errors import DataError
from tlcli.paths import write_text
from tlcli.text import printable


@dataclass(frozen=True)
class Exclusions:
    """A list that was read: its file, and each path with the number of its line."""

    file: Path
    lines: dict[str, int]

    def __contains__(self, path: object) -> bool:
        return path in self.lines


def read(file: Path) -> Exclusions:
    """Read a list.

    Raises:
        DataError: It is not there, not UTF-8, or a line of it is no path relative to DATA.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=str(file), hint=_FORM) from error
    except OSError as error:
        message = f"cannot be read ({error.strerror})"
        raise DataError(
            message, where=str(file), hint="`tlcli check DATA --quarantine FILE` writes such a list."
        ) from error
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            lines.setdefault(_path(line.rstrip("\r"), f"{file}:{number}"), number)
    return Exclusions(file, lines)


def write(file: Path, entries: Iterable[tuple[str, str]], *, remarks: Iterable[str]) -> None:
    """Write a list of paths and reasons, below some remarks."""
    lines = [
        *(f"# {printable(remark)}" for remark in remarks),
        *(f"{_written(path)}\t{printable(why)}" for path, why in entries),
    ]
    write_text(file, "".join(f"{line}\n" for line in lines))


_FORM = "It holds one path a line, relative to DATA, with forward slashes; a tab and a reason may follow."


def _path(line: str, where: str) -> str:
    written = line.partition("\t")[0].rstrip(" ")
    if written.startswith('"'):
        try:
            written = str(json.loads(written))
        except json.JSONDecodeError as error:
            raise DataError(f"is no JSON string (got {written})", where=where, hint=_FORM) from error
    if written.startswith("/") or not written:
        raise DataError(f"is no path relative to DATA (got {written!r})", where=where, hint=_FORM)
    return written.removeprefix("./")


def _written(path: str) -> str:
    is_plain = path.isprintable() and path == path.strip() and not path.startswith(("#", '"', "./"))
    return path if is_plain else json.dumps(path)
