"""Bundled files, the cache folder, and files that appear by rename."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tlcli.errors import OutputError


def bundled(kind: Literal["recipes", "models"]) -> Path:
    """The folder of bundled recipes or model cards: in the wheel inside the package, in a checkout beside it."""
    package = Path(__file__).resolve().parent
    packaged = package / "_bundled" / kind
    return packaged if packaged.is_dir() else package.parent / kind


def cache_dir() -> Path:
    """The cache folder: `TLCLI_CACHE` if set, else the platform's own place for caches. Not created here."""
    if chosen := os.environ.get("TLCLI_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("tlcli", appauthor=False)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path` in one rename.

    The temporary name keeps the suffix of `path`, since writers such as Keras choose a format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Not-a-number is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def require_new_file(path: Path, option: str, *, outside: Path | None = None) -> None:
    """Find out before the work what would otherwise be told after it.

    Args:
        path: The file that is to be written.
        option: What named it, for messages.
        outside: A folder that it must not lie in: that of the images.

    Raises:
        OutputError: If it exists, lies in there, or cannot be written.
    """
    if outside is not None and path.resolve().is_relative_to(outside.resolve()):
        raise OutputError("would lie among the images", where=str(path), hint=f"Choose a {option} outside {outside}.")
    if path.is_dir():
        raise OutputError("is a folder, a file is expected", where=str(path), hint=f"Name a file for {option}.")
    if path.exists():
        raise OutputError("the file already exists", where=str(path), hint="Name another file, or remove this one.")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise OutputError(
            "there is no such folder", where=str(path.parent), hint=f"Make it, or choose another {option}."
        )
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        message = f"nothing can be written there ({error.strerror})"
        raise OutputError(message, where=str(path.parent), hint=f"Choose another {option}.") from error
