"""Exclusion lists: images to leave out, written by `tlcli check --quarantine` and read by `--exclude`.

A list has one path per line, relative to DATA, with forward slashes. A tab and a reason may follow. Empty lines and
lines that begin with `#` are comments. A path that a plain line cannot hold is a JSON string in double quotes.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tlcli.errors import DataError
from tlcli.paths import write_text
from tlcli.storage.location import join
from tlcli.text import printable

_FORM = "A list has one path per line, relative to DATA, with forward slashes; a tab and a reason may follow."


@dataclass(frozen=True)
class ExclusionList:
    """The file of a list, and its paths with their line numbers."""

    file: Path
    lines: dict[str, int]

    def __contains__(self, path: object) -> bool:
        return path in self.lines


def read_list(file: Path) -> ExclusionList:
    """Read an exclusion list.

    Raises:
        DataError: If the file does not exist, is not UTF-8, or has a line that is not a path relative to DATA.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=str(file), hint=_FORM) from error
    except OSError as error:
        hint = "`tlcli check DATA --quarantine FILE` writes such a list."
        raise DataError(f"cannot be read ({error.strerror})", where=str(file), hint=hint) from error
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            lines.setdefault(_parse_path(line.rstrip("\r"), f"{file}:{number}"), number)
    return ExclusionList(file, lines)


def unmatched(root: Path, exclude: ExclusionList) -> tuple[tuple[int, str], ...]:
    """The lines of an exclusion list, number and path, that match no file.

    Raises:
        DataError: If no line matches a file; the list is for other images.
    """
    missing = tuple((number, path) for path, number in exclude.lines.items() if not join(root, path).is_file())
    if missing and len(missing) == len(exclude.lines):
        number, path = missing[0]
        raise DataError(
            f"there is no image '{path}' in {root}, and none for any other line",
            where=f"{exclude.file}:{number}",
            hint="Paths are relative to DATA. Is the list for another folder?",
        )
    return missing


def write_list(file: Path, entries: Iterable[tuple[str, str]], *, comments: Iterable[str]) -> None:
    """Write an exclusion list: comments, then paths with their reasons."""
    lines = [
        *(f"# {printable(comment)}" for comment in comments),
        *(f"{_format_path(path)}\t{printable(reason)}" for path, reason in entries),
    ]
    write_text(file, "".join(f"{line}\n" for line in lines))


def _parse_path(line: str, where: str) -> str:
    path = line.partition("\t")[0].rstrip(" ")
    if path.startswith('"'):
        try:
            path = str(json.loads(path))
        except json.JSONDecodeError as error:
            raise DataError(f"is not a JSON string (got {path})", where=where, hint=_FORM) from error
    if path.startswith("/") or not path:
        raise DataError(f"is not a path relative to DATA (got {path!r})", where=where, hint=_FORM)
    return path.removeprefix("./")


def _format_path(path: str) -> str:
    is_plain = path.isprintable() and path == path.strip() and not path.startswith(("#", '"', "./"))
    return path if is_plain else json.dumps(path)
