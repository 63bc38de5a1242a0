"""Images in files with many: WebDataset shards, which are tars, and Parquet tables with the bytes of the images.

DATA is one such file, or a folder of them. In a shard, files of one name belong together: `0001.jpg` is an image and
`0001.cls` (or `label` in `0001.json`) its class. A table has a column of images, as Hugging Face writes them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tlcli.data import parquet
from tlcli.data.decode import EXTENSIONS
from tlcli.data.layout import SPLIT_OF_NAME, visible
from tlcli.errors import DataError
from tlcli.storage import archives
from tlcli.storage.location import StoredPath, local_copy, open_archive, open_pack

TABLE = ".parquet"
# A file beside shards whose line N, from 0, is the name of class N.
CLASS_NAMES = "classnames.txt"

_SHARD_SUFFIXES = archives.TARS
_LABEL_KEYS = ("label", "cls", "class", "class_name")
# Members that are looked at to tell a shard from an archive of class folders.
_SAMPLED = 1000


def are_shards(data: Path) -> bool:
    """True for a shard, and for a folder of shards or tables without other folders. A table by itself is a file."""
    if isinstance(data, StoredPath) and data.name.lower().endswith(_SHARD_SUFFIXES):
        return _is_shard(data)
    if not data.is_dir():
        return False
    entries = visible(data, on_skip=lambda *_: None)
    return any(_is_shard_name(path.name) for path in entries) and not any(
        path.is_dir() for path in entries if not _is_shard_name(path.name)
    )


def is_image_table(file: Path) -> bool:
    """True for a Parquet file with a column of images.

    Raises:
        DataError: If it cannot be read.
    """
    return file.suffix.lower() == TABLE and parquet.image_columns(local_copy(file)) is not None


def hold_images(data: Path) -> bool:
    """True for shards, and for tables that hold the images themselves.

    Raises:
        DataError: If a table cannot be read.
    """
    # A stored table is a folder once it is opened.
    if data.suffix.lower() == TABLE and (data.is_file() or isinstance(data, StoredPath)):
        return is_image_table(data)
    return are_shards(data)


def image_folders(data: Path) -> list[Path]:
    """The folders with the images of DATA: itself, or its opened shards and tables.

    Raises:
        DataError: If one cannot be read.
    """
    if not hold_images(data):
        return [data]
    if data.suffix.lower() == TABLE or (isinstance(data, StoredPath) and _is_shard(data)):
        return [home_of(data)]
    return [_open(file) for file in _files(data)]


def home_of(data: Path) -> Path:
    """The folder that paths of the images of shards are relative to."""
    if data.suffix.lower() == TABLE:
        return _open_table(data)
    if not (isinstance(data, StoredPath) and data.name.lower().endswith(_SHARD_SUFFIXES)):
        for file in _files(data):
            _open(file)
    return data.resolve()


def read_cells(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every image with its place, as cells by column: `path` is absolute, `label` text, `split` that of its file.

    Raises:
        DataError: If a file cannot be read.
    """
    data = data.resolve()
    is_one = data.suffix.lower() == TABLE or (isinstance(data, StoredPath) and _is_shard(data))
    files = [data] if is_one else _files(data)
    splits = {file: _split_of(file) for file in files}
    has_splits = len(files) > 1 and None not in splits.values() and "train" in splits.values()
    names = _class_names(data.parent if is_one else data)
    for file in files:
        rows = _rows_of_table(file) if file.suffix.lower() == TABLE else _rows_of_shard(_open(file))
        for number, (path, label, more) in enumerate(rows, start=1):
            text = str(label) if label is not None else None
            text = names[int(text)] if text and text.isdecimal() and int(text) < len(names) else text
            given = {"split": splits[file]} if has_splits else {}
            yield f"{file}: image {number}", {**given, **more, "path": path, "label": text}


def _files(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if _is_shard_name(path.name)]


def _is_shard_name(name: str) -> bool:
    return name.lower().endswith((*_SHARD_SUFFIXES, TABLE))


def _is_shard(folder: Path) -> bool:
    """True for an opened tar with images that have labels beside them."""
    names = [path.name for path in folder.iterdir() if path.name[0] != "."][:_SAMPLED] if folder.is_dir() else []
    labelled = {_key(name) for name in names if _ending(name) in ("cls", "label", "json")}
    return any(_key(name) in labelled for name in names if f".{_ending(name)}" in EXTENSIONS)


def _open(file: Path) -> Path:
    if file.suffix.lower() == TABLE:
        return _open_table(file)
    return file if isinstance(file, StoredPath) and file.is_dir() else open_archive(file, "tar", is_whole=True)


def _open_table(file: Path) -> Path:
    copy = local_copy(file)
    columns = parquet.image_columns(copy)
    if columns is None:
        raise DataError("has no column of images", where=str(file), hint="Columns: image, with bytes, and label.")
    return open_pack(file, archives.pack_of_table(copy, parquet.read_images(copy, columns)))


def _rows_of_table(file: Path) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    home, copy = _open_table(file), local_copy(file)
    columns = parquet.image_columns(copy)
    if columns is None:
        raise DataError("has no column of images", where=str(file), hint="Columns: image, with bytes, and label.")
    for (name, _), (label, more) in zip(_members(home), parquet.read_labels(copy, columns), strict=True):
        yield str(home / name), label, more


def _rows_of_shard(home: Path) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for name, _ in _members(home):
        if f".{_ending(name).rpartition('.')[2]}" in EXTENSIONS:
            images.setdefault(_key(name), name)
        # `cls` and `label` come before `json`, which may hold anything.
        elif _ending(name) in ("cls", "label") or (_ending(name) == "json" and _key(name) not in labels):
            labels[_key(name)] = name
    for key, name in images.items():
        label = _label_of(home / labels[key]) if key in labels else None
        yield str(home / name), label, {}


def _members(home: Path) -> list[tuple[str, int]]:
    if not isinstance(home, StoredPath):
        raise TypeError(f"{home} is not opened")
    return [(name, entry.bytes or 0) for name, entry in home.below().items()]


def _label_of(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8").strip()
        if not file.name.endswith(".json"):
            return text
        document = json.loads(text)
    except (OSError, ValueError):
        return None
    cells = document if isinstance(document, dict) else {}
    return next((cells[key] for key in _LABEL_KEYS if isinstance(cells.get(key), str | int)), None)


def _key(name: str) -> str:
    folder, mark, last = name.rpartition("/")
    return f"{folder}{mark}{last.partition('.')[0]}"


def _ending(name: str) -> str:
    return PurePosixPath(name).name.partition(".")[2].lower()


def _split_of(file: Path) -> str | None:
    """The split that the name of a file tells: `train-00000-of-00002.parquet`."""
    words = re.split(r"[^a-z]+", file.name.lower())
    return next((SPLIT_OF_NAME[word] for word in words if word in SPLIT_OF_NAME), None)


def _class_names(folder: Path) -> list[str]:
    if isinstance(folder, StoredPath) and not folder.is_located:
        return []
    file = folder / CLASS_NAMES
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
