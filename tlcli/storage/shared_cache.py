"""The cache that several machines share: entries of a local cache folder, copied to and from a remote one."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from tlcli.cache.eviction import METADATA
from tlcli.errors import DataError, OutputError
from tlcli.storage.archives import locked
from tlcli.storage.location import address_of, is_address, locate
from tlcli.storage.objects import Objects
from tlcli.storage.transfer import copy_to, upload

VARIABLE = "TLCLI_REMOTE_CACHE"


class SharedCache:
    """Entries in a remote folder. It only saves time, so a failure ends its use and not the run.

    Attributes:
        place: The folder.
        problem: Why it is used no more; empty while it works.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.problem = place, ""

    def fetch(self, folder: Path, keys: Collection[str]) -> None:
        """Copy entries that a local cache folder lacks from the remote one. The cache verifies them as its own."""
        for key in keys:
            with self._watched():
                if not self.problem and not (folder / key).is_dir() and self._holds(key):
                    with locked(folder / key):
                        if not (folder / key).is_dir():
                            copy_to(self.place / key, folder / key)

    def put(self, folder: Path, keys: Collection[str]) -> None:
        """Copy entries of a local cache folder that the remote one lacks. Each is complete with its metadata."""
        for key in keys:
            with self._watched():
                if not self.problem and (folder / key / METADATA).is_file() and not self._holds(key):
                    upload(folder / key, self.place / key, METADATA)

    def _holds(self, key: str) -> bool:
        return Objects(address_of(self.place / key)).find(METADATA) is not None

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (OSError, DataError, OutputError) as error:
            self.problem = str(error)


def shared_cache() -> SharedCache | None:
    """The shared cache that `TLCLI_REMOTE_CACHE` names; None without.

    Raises:
        OutputError: If it is no address.
    """
    text = os.environ.get(VARIABLE, "")
    return _opened(text) if text else None


def shared_cache_warnings() -> list[str]:
    """What a user should know about the shared cache; empty if it works, or if there is none."""
    shared = shared_cache()
    return [f"the shared cache was not used: {shared.problem}"] if shared is not None and shared.problem else []


@lru_cache(maxsize=4)
def _opened(text: str) -> SharedCache:
    if not is_address(text):
        hint = f"For example {VARIABLE}=s3://bucket/cache. A local cache is named by TLCLI_CACHE."
        raise OutputError(f"is no address of a remote store (got {text})", where=VARIABLE, hint=hint)
    return SharedCache(locate(text))
