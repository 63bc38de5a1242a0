"""Tables in the Parquet format, by pyarrow, which is optional."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tlcli.errors import DataError


def read_records(file: Path, columns: Collection[str]) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """The names of all columns, in lower case, and the rows as values by column.

    Args:
        file: A Parquet file.
        columns: The columns to read, in lower case; those that are missing are left out.

    Raises:
        DataError: If pyarrow is not installed, or the file is damaged.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        hint = "pip install 'tlcli[parquet]', or save the table as CSV."
        raise DataError("Parquet files need the library pyarrow", where=str(file), hint=hint) from error
    try:
        with parquet.ParquetFile(file) as table:
            names = [name for name in table.schema_arrow.names if name.lower() in columns]
            records = table.read(columns=names).rename_columns([name.lower() for name in names])
            every_name = [name.lower() for name in table.schema_arrow.names]
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        hint = "Write it again, or save the table as CSV."
        raise DataError(f"is not a readable Parquet file ({reason})", where=str(file), hint=hint) from error
    return every_name, (record for batch in records.to_batches(1024) for record in batch.to_pylist())
