"""Run folders at remote places: a run is written to a local folder and uploaded, whatever its end."""

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tlcli.errors import OutputError, RunError
from tlcli.report import record
from tlcli.report.record import RunRecord
from tlcli.storage.location import is_remote
from tlcli.storage.transfer import RECORD, copy_to, download, explained, holds_files, staging_folder, upload
from tlcli.workflows.request import Request


def staged(request: Request) -> Request:
    """The request with a local run folder in place of a remote one, which is kept in `place`.

    A run to resume is copied here, unless its last upload failed and it is here still.

    Raises:
        OutputError: If the remote folder is not empty, cannot be read, or a run for it is here still.
    """
    place = request.resume or request.out
    if place is None or not is_remote(place):
        return request
    folder = staging_folder(place)
    if request.resume is not None:
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with explained(place):
                copy_to(place, folder)
        return replace(request, resume=folder, place=place)
    resume = f"Resume it with --resume {shlex.quote(str(place))}, or choose another --out."
    if folder.is_dir():
        raise OutputError("a run for this place was not uploaded and is here still", where=str(place), hint=resume)
    if holds_files(place):
        raise OutputError("the run folder already exists and is not empty", where=str(place), hint=resume)
    return replace(request, out=folder, place=place)


def copied(request: Request) -> Request:
    """The request for a plan, which writes nothing: with a local copy of a remote run, and a local name of a new one.

    Raises:
        OutputError: If the remote run cannot be read.
    """
    if request.resume is not None and is_remote(request.resume):
        return replace(request, resume=download(request.resume))
    return staged(request)


def upload_finished(request: Request) -> RunRecord | None:
    """Upload the run to resume if it is complete and only its upload failed; None if there is no such run.

    Raises:
        RunError: If it cannot be uploaded.
    """
    if request.place is None or request.resume is None or not (request.resume / RECORD).is_file():
        return None
    found = record.read(request.resume)
    if found.status != "complete":
        return None
    with uploading(request):
        return found


@contextmanager
def uploading(request: Request) -> Iterator[None]:
    """Upload the run folder of a request at the end, also after an error, and remove the local one.

    Raises:
        RunError: If it cannot be uploaded. The local folder stays.
    """
    try:
        yield
    finally:
        folder = request.resume or request.out
        if request.place is not None and folder is not None and folder.is_dir():
            try:
                upload(folder, request.place)
            except OutputError as error:
                hint = f"All is in {folder}. Upload it with --resume {shlex.quote(str(request.place))}."
                raise RunError(error.message, where=error.where, hint=hint) from error
            shutil.rmtree(folder, ignore_errors=True)
