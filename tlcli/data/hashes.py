"""Content hashes of files. Those of remote objects are kept, so that an unchanged one is read only once."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tlcli.paths import cache_dir, write_json
from tlcli.storage.location import StoredPath, is_remote, version_of


def content_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Hashes:
    """The hashes of the files below a folder.

    The answers of a remote store to the question what has changed (ETag, or time and size) stand for its objects, as
    they do for every program that copies them.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        key = hashlib.sha256(str(root).encode(errors="surrogateescape")).hexdigest()[:32]
        self._file = cache_dir() / "hashes" / f"{key}.json" if is_remote(root) else None
        self._before = {} if self._file is None else _read(self._file)
        self._now: dict[str, list[Any]] = {}

    def of(self, path: Path) -> tuple[str, int]:
        """SHA-256 of a file in hexadecimal, and its size in bytes.

        Raises:
            OSError: If it cannot be read.
        """
        if not isinstance(path, StoredPath):
            return content_hash(path), path.stat().st_size
        version, name = version_of(path), str(path)
        if version and (known := self._before.get(name)) and known[0] == version:
            self._now[name] = known
            return str(known[1]), int(known[2])
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if version:
            self._now[name] = [version, digest, len(content)]
        return digest, len(content)

    def keep(self) -> None:
        """Write the hashes for the next time."""
        if self._file is not None and self._now != self._before:
            write_json(self._file, self._now)


def _read(file: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
