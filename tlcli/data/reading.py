"""Reading images in a thread of its own, while something else keeps the process busy."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from tlcli.data.folder import FolderIndex
from tlcli.data.pixels import Pixels

Progress = Callable[[str, int, int], None]
"""Told (stage, done, total)."""
Read = Callable[[Progress], tuple[FolderIndex, Pixels]]


class Reading:
    """A read that began when this was made. Leaving its `with` block stops it, unless it has ended."""

    def __init__(self, read: Read) -> None:
        self._stopped = threading.Event()
        self._tell: Progress | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reading")
        self._found = self._pool.submit(read, self._passed_on)

    def __enter__(self) -> "Reading":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._pool.shutdown()

    def result(self, progress: Progress) -> tuple[FolderIndex, Pixels]:
        """Wait for the end. From now on `progress` is told how far it is; errors of the read are raised here."""
        self._tell = progress
        return self._found.result()

    def _passed_on(self, stage: str, done: int, total: int) -> None:
        if self._stopped.is_set():
            raise _Stopped
        if self._tell is not None:
            self._tell(stage, done, total)


class _Stopped(Exception):
    """Ends the read; nobody waits for it any more."""
