"""Trust in networks that are programs. They are loaded only if the user has trusted exactly these files before.

A SavedModel is a TensorFlow program: its operations can read and write files. `--trust` remembers its hash in the
configuration folder, so later commands do not ask. Changed files have another hash and are refused.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import IO

from tlcli.errors import ModelError
from tlcli.paths import config_dir, write_json

_allowing: ContextVar[bool] = ContextVar("allowing", default=False)
_BLOCK = 1 << 20


@contextmanager
def allowing() -> Iterator[None]:
    """A context in which `require` trusts what it is asked about, and remembers it: that of `--trust`."""
    token = _allowing.set(True)
    try:
        yield
    finally:
        _allowing.reset(token)


def require(sha256: str, *, where: str, facts: str = "") -> None:
    """Check that a program is trusted; within `allowing`, trust and remember it.

    Args:
        sha256: Hash of all its files.
        where: Where it is from.
        facts: What is known about it, one sentence for the message.

    Raises:
        ModelError: It is not trusted.
    """
    trusted = _trusted()
    if sha256 in trusted:
        return
    if _allowing.get():
        write_json(_file(), trusted | {sha256: {"source": where, "since": time.strftime("%Y-%m-%d", time.gmtime())}})
        return
    is_changed = any(entry.get("source") == where for entry in trusted.values())
    state = "has changed since it was trusted" if is_changed else "is not trusted yet"
    raise ModelError(
        f"the SavedModel {state}, so it is not loaded: a SavedModel is a program that can read and write your files",
        where=where,
        hint=f"{facts} Its sha256 is {sha256}. If you trust its origin, add --trust once.".strip(),
    )


def folder_sha256(folder: Path) -> str:
    """Hash of the names and contents of all files in a folder, sorted by name.

    Raises:
        ModelError: A file cannot be read, or a link points to a folder, whose files would not be covered.
    """
    try:
        paths = _files(folder)
        return _folder_sha256(folder, tuple((name, *_version(folder / name)) for name in paths))
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror or error})", where=str(folder)) from error


def files_sha256(files: Iterable[tuple[str, Callable[[], IO[bytes]]]]) -> str:
    """Hash of names and contents of files, each given as its name, with slashes, and a function that opens it."""
    digest = hashlib.sha256()
    for name, open_file in sorted(files, key=lambda file: file[0]):
        content = hashlib.sha256()
        with open_file() as stream:
            while block := stream.read(_BLOCK):
                content.update(block)
        digest.update(f"{content.hexdigest()}  {name}\n".encode())
    return digest.hexdigest()


# A command asks several times; files of the same size and time are not read again.
@lru_cache(maxsize=16)
def _folder_sha256(folder: Path, versions: tuple[tuple[str, int, int], ...]) -> str:
    return files_sha256(_opener(folder, row[0]) for row in versions)


def _opener(folder: Path, name: str) -> tuple[str, Callable[[], IO[bytes]]]:
    return name, lambda: (folder / name).open("rb")


def _files(folder: Path) -> list[str]:
    names = []
    for root, folders, files in os.walk(folder):
        if linked := next((name for name in folders if (Path(root) / name).is_symlink()), None):
            hint = "Replace it with a copy of the folder."
            raise ModelError(
                "is a link to a folder, so its files cannot be checked", where=f"{root}/{linked}", hint=hint
            )
        names += [(Path(root) / name).relative_to(folder).as_posix() for name in files]
    return sorted(names)


def _version(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _file() -> Path:
    return config_dir() / "trusted.json"


def _trusted() -> dict[str, dict[str, str]]:
    """The trusted hashes, with source and date; none if the file is missing or damaged."""
    try:
        content = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return (
        {str(key): value for key, value in content.items() if isinstance(value, dict)}
        if isinstance(content, dict)
        else {}
    )
