"""Disks of a few megabytes, full or read-only, for the tests that may mount them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _mount(*words: object) -> bool:
    return subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of this size in a folder. Skips the test where disks cannot be mounted."""
    folder.mkdir(exist_ok=True)
    if shutil.which("mount") is None or not _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder):
        pytest.skip("a small disk can be mounted by root on Linux only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a mounted disk: `size=64m`, `ro`."""
    assert _mount("-o", f"remount,{options}", folder), os.strerror(1)
