"""Bundled files, the folders of cache and settings, and atomic writes."""

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tlcli.errors import OutputError

# Errors of a damaged zip archive, such as .npz and .keras. NumPy and zipfile verify the checksum of each member. An
# unknown version or compression is a NotImplementedError, a password a RuntimeError; a wrong shape may need more memory
# than there is.
DAMAGED_ZIP = (
    *(OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, NotImplementedError, RuntimeError),
    *(MemoryError, zipfile.BadZipFile, zlib.error),
)


def bundled(kind: Literal["recipes", "models"]) -> Path:
    """The folder of bundled recipes or model cards: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "_bundled" / kind
    return packaged if packaged.is_dir() else package.parent / kind


def cache_dir() -> Path:
    """The cache folder: `TLCLI_CACHE` if set, else the cache folder of the platform. It is not created here."""
    if folder := os.environ.get("TLCLI_CACHE"):
        return Path(folder).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("tlcli", appauthor=False)


def config_dir() -> Path:
    """The folder of the user's settings: `TLCLI_CONFIG` if set, else that of the platform. It is not created here."""
    if folder := os.environ.get("TLCLI_CONFIG"):
        return Path(folder).expanduser()
    from platformdirs import user_config_path

    return user_config_path("tlcli", appauthor=False)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success the file there replaces `path` in one rename.

    The temporary name has the suffix of `path`, because writers such as Keras choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        # A full disk is met while writing, where the system names no file.
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line endings, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity raise a ValueError, because JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def require_empty_folder(path: Path, option: str) -> None:
    """Check that a folder is new or empty.

    Raises:
        OutputError: It has files, or is a file.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputError("is not an empty folder", where=str(path), hint=f"Name a new folder for {option}.")


def require_new_file(path: Path, option: str, *, outside: Path | None = None) -> None:
    """Check that a new file can be written, before the work for it starts.

    Args:
        path: The file.
        option: The option that names it, for messages.
        outside: The folder of the images, which must not contain the file.

    Raises:
        OutputError: If the file exists, lies in `outside`, or cannot be written.
    """
    if outside is not None and path.resolve().is_relative_to(outside.resolve()):
        raise OutputError("is inside the image folder", where=str(path), hint=f"Choose a {option} outside {outside}.")
    if path.exists() and not path.is_dir():
        raise OutputError("the file already exists", where=str(path), hint="Name another file, or remove this one.")
    parent = path.resolve().parent
    if not path.is_dir() and not parent.is_dir():
        hint = f"Create it, or choose another {option}."
        raise OutputError("there is no such folder", where=str(path.parent), hint=hint)
    require_writable(path, option)


def require_writable(path: Path, option: str) -> None:
    """Check that a file can be written or replaced, before the work for it starts. Folders around it may be made.

    Args:
        path: The file.
        option: The option that names it, for messages.

    Raises:
        OutputError: If it is a folder or cannot be written.
    """
    if path.is_dir():
        raise OutputError("is a folder, not a file", where=str(path), hint=f"Name a file for {option}.")
    there = next(folder for folder in path.resolve().parents if folder.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        message = f"the folder cannot be written to ({error.strerror})"
        raise OutputError(message, where=str(path.parent), hint=f"Choose another {option}.") from error
