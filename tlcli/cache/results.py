"""Cached results on disk: plain state and arrays under a content key."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.cache.eviction import evict_files_to_budget, stamp
from tlcli.paths import DAMAGED_ZIP, replacing


@dataclass(frozen=True)
class CachedResult:
    """A result: state that can be written as JSON, and arrays in a fixed order."""

    state: dict[str, Any]
    arrays: list[np.ndarray]


@dataclass(frozen=True)
class ResultCache:
    """A folder of results, one file `<key>.npz` each. A file is written as a whole or not at all.

    Attributes:
        folder: Created by the first `keep`.
        budget: Bytes that all results may take. The least recently used are evicted first.
    """

    folder: Path
    budget: int

    def find(self, key: str) -> CachedResult | None:
        """The result under a key; None if there is none or its file is damaged."""
        path = self.folder / f"{key}.npz"
        try:
            # The file is opened here because NumPy does not close a damaged file that it opened itself.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                state = json.loads(archive["state"].tobytes())
                arrays = [archive[f"arr_{index}"] for index in range(len(archive.files) - 1)]
        except DAMAGED_ZIP:
            return None
        stamp(path, self.folder.glob("*.npz"))
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
        stamp(self.folder / f"{key}.npz", self.folder.glob("*.npz"))
        evict_files_to_budget(self.budget, self.folder, "*.npz")
