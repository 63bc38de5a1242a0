"""Where things are: bundled recipes and cards, the cache, files that appear by rename."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal


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
