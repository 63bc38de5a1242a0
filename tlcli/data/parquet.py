"""Tables in the Parquet format, by pyarrow, which is optional."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tlcli.data.decode import extension_of
from tlcli.errors import DataError

# Rows that are read at once: few, because each may hold a large image.
_ROWS = 16
_LABELS = ("label", "labels", "class", "target", "fine_label")


@dataclass(frozen=True)
class ImageColumns:
    """The columns of a table of images.

    Attributes:
        image: Name of the column with images.
        is_struct: True if each is a record of `bytes` and `path`, False for bytes alone.
        label: Name of the column with classes.
        classes: Names of the classes, by number; empty if the column has the names themselves.
        others: Those of `split` and `group` that the table has.
    """

    image: str
    is_struct: bool
    label: str
    classes: tuple[str, ...]
    others: tuple[str, ...]


def read_records(file: Path, columns: Collection[str]) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """The names of all columns, in lower case, and the rows as values by column.

    Args:
        file: A Parquet file.
        columns: The columns to read, in lower case; those that are missing are left out.

    Raises:
        DataError: If pyarrow is not installed, or the file is damaged.
    """
    with _opened(file) as table:
        names = [name for name in table.schema_arrow.names if name.lower() in columns]
        records = table.read(columns=names).rename_columns([name.lower() for name in names])
        every_name = [name.lower() for name in table.schema_arrow.names]
    return every_name, (record for batch in records.to_batches(1024) for record in batch.to_pylist())


def image_columns(file: Path) -> ImageColumns | None:
    """The columns of a table of images; None for a table without.

    Raises:
        DataError: If pyarrow is not installed, or the file is damaged.
    """
    with _opened(file) as table:
        import pyarrow as pa

        schema = table.schema_arrow
        features = _features(schema.metadata)
        structs = [field.name for field in schema if pa.types.is_struct(field.type) and _has_bytes(field.type)]
        binaries = [field.name for field in schema if _is_bytes(field.type)]
        image = next(iter((*structs, *binaries)), None)
        known = [name for name in _LABELS if name in schema.names]
        classified = [name for name, feature in features.items() if _class_names(feature) and name in schema.names]
        label = next(iter((*(name for name in known if name in classified), *known, *classified)), None)
    if image is None or label is None:
        return None
    others = tuple(name for name in ("split", "group") if name in schema.names)
    return ImageColumns(image, image in structs, label, _class_names(features.get(label)), others)


def read_images(file: Path, columns: ImageColumns) -> Iterator[tuple[str, bytes]]:
    """The images of a table in the order of its rows, each with a name of its own.

    Raises:
        DataError: If the file is damaged.
    """
    taken: set[str] = set()
    with _opened(file) as table:
        for number, record in enumerate(_records(table, [columns.image, columns.label])):
            image = record[columns.image]
            content = (image or {}).get("bytes") if columns.is_struct else image
            given = (image or {}).get("path") if columns.is_struct else None
            name = PurePosixPath(str(given).replace("\\", "/")).name if given else ""
            name = name or f"{number:07}{extension_of(content or b'')}"
            folder = str(_label(record[columns.label], columns.classes)).replace("/", "_").replace("\\", "_")
            if f"{folder}/{name}" in taken or folder in (".", ".."):
                folder, name = f"{number:07}", f"{number:07}-{name}"
            taken.add(f"{folder}/{name}")
            yield f"{folder}/{name}", content or b""


def read_labels(file: Path, columns: ImageColumns) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The class of each row, and its split and group if the table has them.

    Raises:
        DataError: If the file is damaged.
    """
    with _opened(file) as table:
        for record in _records(table, [columns.label, *columns.others]):
            yield _label(record[columns.label], columns.classes), {name: record[name] for name in columns.others}


def _records(table: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in table.iter_batches(_ROWS, columns=columns, use_threads=False):
        yield from batch.to_pylist()


def _label(value: Any, classes: tuple[str, ...]) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return classes[value] if is_number and 0 <= value < len(classes) else value


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """What Hugging Face has written about the columns."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> tuple[str, ...]:
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _has_bytes(kind: Any) -> bool:
    index = kind.get_field_index("bytes")
    return index >= 0 and _is_bytes(kind.field(index).type)


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A table, with errors that explain what is wrong with it."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        hint = "pip install 'tlcli[parquet]', or save the table as CSV."
        raise DataError("Parquet files need the library pyarrow", where=str(file), hint=hint) from error
    try:
        with parquet.ParquetFile(file) as table:
            yield table
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        hint = "Write it again, or save the table as CSV."
        raise DataError(f"is not a readable Parquet file ({reason})", where=str(file), hint=hint) from error
