"""Cached results on disk: plain state and arrays under a content key."""

import json
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.cache.eviction import limit_files
from tlcli.paths import replacing

# Errors of a damaged file: NumPy and zipfile verify the checksum of every array.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class CachedResult:
    """A result: plain state, ready for JSON, and arrays in a fixed order."""

    state: dict[str, Any]
    arrays: list[np.ndarray]


@dataclass(frozen=True)
class ResultCache:
    """A folder of results, one file `<key>.npz` each. A file is written completely or not at all.

    Attributes:
        folder: Created when it is first written to.
        budget: Bytes that all results together may take; the least recently used are evicted first.
    """

    folder: Path
    budget: int

    def find(self, key: str) -> CachedResult | None:
        """The result under a key; None if there is none or its file is damaged."""
        path = self.folder / f"{key}.npz"
        try:
            # Opened here, because NumPy does not close a damaged file that it opened itself.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                state = json.loads(archive["state"].tobytes())
                arrays = [archive[f"arr_{index}"] for index in range(len(archive.files) - 1)]
        except _DAMAGE:
            return None
        # The file may belong to another user.
        with suppress(OSError):
            path.touch()
        return CachedResult(state, arrays)

    def keep(self, key: str, result: CachedResult) -> None:
        """Store a result and evict others until all fit the budget. A result above the budget is not stored.

        Raises:
            OSError: If the folder cannot be written.
        """
        if sum(array.nbytes for array in result.arrays) > self.budget:
            return
        state = np.frombuffer(json.dumps(result.state, allow_nan=False).encode(), np.uint8)
        with replacing(self.folder / f"{key}.npz") as temporary, temporary.open("wb") as stream:
            np.savez(stream, *result.arrays, state=state)
        limit_files(self.budget, self.folder, "*.npz")
