"""Folders to and from a remote store.

Files are copied one by one. The file that says that a folder is complete is copied last and removed first, so the
folder on the other side never claims more than is there.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tlcli.cache.eviction import stamp
from tlcli.errors import DataError, OutputError
from tlcli.paths import cache_dir
from tlcli.storage import objects
from tlcli.storage.archives import locked
from tlcli.storage.location import address_of
from tlcli.storage.objects import Objects

# The record of a run, which says whether the run is complete.
RECORD = "run.json"
# Files of a run folder that belong to the process that writes it.
_OWN = (".lock",)
# Local copies of remote folders that are kept.
_KEPT_COPIES = 20


def staging_folder(place: Path) -> Path:
    """The local folder in which a run is written that will lie at a remote place."""
    digest = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    return cache_dir().absolute() / "staging" / digest / place.name


def holds_files(place: Path) -> bool:
    """True if there is any file below a remote place.

    Raises:
        OutputError: If the store cannot be asked.
    """
    with explained(place):
        return bool(Objects(address_of(place)).entries())


def upload(folder: Path, place: Path, last: str = RECORD) -> None:
    """Make a remote folder equal to a local one. `last` is the file that appears when all others are there.

    Raises:
        OutputError: If it cannot be written.
    """
    address = address_of(place)
    with explained(place):
        there = Objects(address).entries()
        here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        here = {name: path for name, path in here.items() if path.name not in _OWN}
        if last in there:
            objects.remove(objects.child(address, last))
        for name in sorted(here, key=lambda name: (name == last, name)):
            if name == last:
                for left in sorted(set(there) - set(here)):
                    objects.remove(objects.child(address, left))
            objects.put(here[name], objects.child(address, name))


def download(place: Path) -> Path:
    """A local copy of a remote folder, from the cache if the folder has not changed since.

    Raises:
        OutputError: If it cannot be read.
        DataError: If there is no such folder.
    """
    address = address_of(place)
    with explained(place):
        found = Objects(address).entries()
        listing = json.dumps([str(place), sorted((name, entry.version) for name, entry in found.items())])
        home = cache_dir().absolute() / "runs" / hashlib.sha256(listing.encode()).hexdigest()[:32]
        with locked(home):
            if not (home / place.name).is_dir():
                copy_to(place, home / place.name, found)
            stamp(home, home.parent.iterdir())
    _remove_old(home.parent, keep=home)
    return home / place.name


def copy_to(place: Path, folder: Path, names: Collection[str] | None = None) -> None:
    """Copy the files of a remote folder to a local one, which appears when all are there.

    Args:
        place: The remote folder.
        folder: The local one, which does not exist.
        names: The files; all if None.

    Raises:
        OSError: If a file cannot be read or written.
        DataError: If there are no files, or a name leads out of the folder.
    """
    address = address_of(place)
    names = Objects(address).entries() if names is None else names
    if not names:
        raise DataError("there are no files", where=str(place), hint="Check the address and the credentials.")
    unfinished = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        for name in names:
            target = unfinished / name
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise DataError("has a file outside itself", where=f"{place}/{name}", hint="Remove the file.")
            target.parent.mkdir(parents=True, exist_ok=True)
            objects.fetch(objects.child(address, name), target)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def explained(place: Path) -> Iterator[None]:
    """Turn errors of a store into an error that names the place.

    Raises:
        OutputError: For every OSError.
    """
    try:
        yield
    except OSError as error:
        where = str(error.filename or place)
        hint = "Try again, and check the address and the credentials."
        raise OutputError(f"cannot be read or written ({error.strerror or error})", where=where, hint=hint) from error


def _remove_old(folder: Path, keep: Path) -> None:
    """Remove the copies that were not used for longest."""
    copies = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in copies[:-_KEPT_COPIES]:
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)
