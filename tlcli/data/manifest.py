"""Manifests: tables of image files with their labels, as CSV, TSV, JSON lines or Parquet.

The columns are `path` and `label`, and if wanted `split` and `group`; others are ignored. Relative paths are relative
to the folder of the manifest. All problems of a manifest are reported together.
"""

import csv
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.data import shards
from tlcli.data.decode import is_image
from tlcli.data.layout import SPLIT_OF_NAME
from tlcli.errors import DataError, ManifestError, Problem, did_you_mean
from tlcli.storage.location import StoredPath, join, local_copy
from tlcli.text import encodable, printable

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
COLUMNS = "Columns: path, label, and if wanted split (train, val, test) and group."

# Longest value in a message, characters.
_MAX_SHOWN = 300
_NAMES = ("path", "label", "split", "group")
Cells = Mapping[Any, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a manifest.

    Attributes:
        path: The file, absolute.
        label: Name of its class, Unicode NFC.
        split: `train`, `val` or `test`; None if the manifest has no splits.
        group: Images with the same name stay in one split; None for no group.
        where: The file and line, for messages.
    """

    path: Path
    label: str
    split: str | None
    group: str | None
    where: str


def is_manifest(path: Path) -> bool:
    """True for a file whose name ends as that of a manifest, and for files with many images."""
    return (path.suffix.lower() in SUFFIXES and path.is_file()) or shards.are_shards(path)


def home_of(data: Path) -> Path:
    """The folder that paths in `splits.csv` are relative to: DATA, or the folder of a manifest, which may be gone."""
    if shards.hold_images(data):
        return shards.home_of(data)
    is_file = data.suffix.lower() in SUFFIXES and (isinstance(data, StoredPath) or not data.is_dir())
    return (data.parent if is_file else data).resolve()


def read_rows(file: Path) -> list[Row]:
    """Read a manifest and check every row.

    Raises:
        ManifestError: With every problem of the rows.
        DataError: If the file cannot be read at all, or has no rows or not the columns.
    """
    reader = _Reader(home_of(file))
    try:
        for where, cells in shards.read_cells(file) if shards.hold_images(file) else _cells(file):
            reader.add(where, cells)
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=str(file), hint="Save it as UTF-8.") from error
    reader.check_together()
    if reader.problems:
        raise ManifestError(reader.problems)
    if not reader.rows:
        raise DataError("has no rows", where=str(file), hint=COLUMNS)
    return reader.rows


class _Reader:
    """Collects the rows of a manifest and their problems."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.rows: list[Row] = []
        self.problems: list[Problem] = []
        self._by_path: dict[str, Row] = {}

    def add(self, where: str, cells: Cells | str) -> None:
        """Add a row; a string is the reason why it could not be parsed."""
        if isinstance(cells, str):
            self.problems.append(Problem(where, cells))
            return
        wrong = [*_wrong_cells(cells)]
        problems = [problem for _, problem in wrong]
        row = None
        # A wrong split or group hides no other problem of the image.
        if {column for column, _ in wrong} <= {"split", "group"}:
            path = _image_path(self.home, str(cells["path"]))
            label = unicodedata.normalize("NFC", _text(cells["label"]))
            split, group = (_text(cells.get(name)) for name in ("split", "group"))
            row = Row(path, label, SPLIT_OF_NAME.get(split.lower()), group or None, where)
            problems += self._wrong_file(row)
            self._by_path.setdefault(str(row.path), row)
        self.problems += [Problem(where, problem, "") for problem in problems]
        if row is not None and not problems:
            self.rows.append(row)

    def check_together(self) -> None:
        """Check that either all rows have a split or none, and that no group is in two splits."""
        without = [row for row in self.rows if row.split is None]
        if len(without) < len(self.rows):
            self.problems += [Problem(row.where, "has no split, but other rows do") for row in without]
        first: dict[str, Row] = {}
        for row in self.rows:
            if row.group is not None and first.setdefault(row.group, row).split != row.split:
                other = first[row.group]
                message = f"group {_shown(row.group)} is in {row.split} here and in {other.split} at {other.where}"
                self.problems.append(Problem(row.where, message))

    def _wrong_file(self, row: Row) -> Iterator[str]:
        if (other := self._by_path.get(str(row.path))) is not None:
            is_same = other.label == row.label
            yield f"{_shown(row.path.name)} is also at {other.where}" + (
                "" if is_same else f", as {_shown(other.label)}"
            )
            return
        if isinstance(row.path, StoredPath):
            # A question for each would take a remote store minutes. Reading finds those that are missing.
            return
        try:
            if row.path.is_dir():
                yield f"path is a folder (got {_shown(row.path)})"
            elif not row.path.exists():
                yield f"there is no file {_shown(row.path)}"
            elif not is_image(row.path):
                yield f"is not an image (got {_shown(row.path)})"
        except OSError as error:
            yield f"{_shown(row.path)} cannot be read ({error.strerror})"


def _image_path(home: Path, text: str) -> Path:
    path = join(home, text)
    return path if isinstance(path, StoredPath) else Path(os.path.normpath(path))


def _wrong_cells(cells: Cells) -> Iterator[tuple[str, str]]:
    """The problems of a row by itself, each with its column; empty for the whole row."""
    if None in cells:
        yield "", "has more values than columns"
    for name in _NAMES:
        value = cells.get(name)
        is_wanted = name in ("path", "label")
        if value is None or value == "":
            if is_wanted:
                yield name, f"has no {name}"
        elif not isinstance(value, str | int) or isinstance(value, bool) or (name == "path" and isinstance(value, int)):
            yield name, f"{name} must be text (got {_shown(value)})"
        elif _is_unwritable(_text(value)):
            yield name, f"{name} has characters that cannot be written (got {_shown(value)})"
        elif is_wanted and not _text(value):
            yield name, f"has no {name}"
        elif name == "split" and _text(value).lower() not in SPLIT_OF_NAME:
            yield name, f"split must be train, val or test (got {_shown(value)})"


def _cells(file: Path) -> Iterator[tuple[str, Cells | str]]:
    """The rows of a manifest with their place, each as cells by column, or as the reason why it is none."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        from tlcli.data.parquet import read_records

        names, records = read_records(local_copy(file), _NAMES)
        _require_columns(file, names)
        yield from ((f"{file}: row {number}", cells) for number, cells in enumerate(records, start=1))
    elif suffix == ".jsonl":
        yield from _json_lines(file)
    else:
        yield from _separated(file, "\t" if suffix == ".tsv" else ",")


def _separated(file: Path, delimiter: str) -> Iterator[tuple[str, Cells | str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
        try:
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            _require_columns(file, reader.fieldnames)
            for cells in reader:
                yield f"{file}:{reader.line_num}", cells
        except csv.Error as error:
            yield f"{file}:{reader.line_num}", f"is not a row of a table ({error})"


def _json_lines(file: Path) -> Iterator[tuple[str, Cells | str]]:
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except (ValueError, RecursionError):
                cells = None
            yield f"{file}:{number}", cells if isinstance(cells, dict) else "is not a JSON object"


def _require_columns(file: Path, names: list[str]) -> None:
    """Check the columns of a table.

    Raises:
        DataError: If `path` or `label` is missing, or one column is there twice.
    """
    for wanted in ("path", "label"):
        if wanted not in names:
            if len(names) == 1 and ";" in names[0]:
                hint = "Its columns are separated by semicolons: save it with commas, or with tabs as .tsv."
                raise DataError("is not a table with commas", where=str(file), hint=hint)
            got = ", ".join(_shown(name) for name in names[:8]) or "none"
            hint = f"{did_you_mean(wanted, names)} {COLUMNS}".strip()
            raise DataError(f"has no column '{wanted}' (got {got})", where=str(file), hint=hint)
    if repeated := [name for name in _NAMES if names.count(name) > 1]:
        raise DataError(f"has two columns '{repeated[0]}'", where=str(file), hint=COLUMNS)


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _is_unwritable(text: str) -> bool:
    """True for text with control characters or bytes that are not UTF-8; labels go into labels.txt."""
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def _shown(value: Any) -> str:
    """A value of a manifest, made safe for a message; the middle of a long one is left out."""
    text = printable(encodable(str(value)))
    return f"'{text}'" if len(text) <= _MAX_SHOWN else f"'{text[: _MAX_SHOWN // 2]}…{text[-_MAX_SHOWN // 2 :]}'"
