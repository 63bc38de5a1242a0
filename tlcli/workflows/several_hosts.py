"""Several hosts: the same run on each, of which the first writes the run folder."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tlcli.cluster import connection
from tlcli.cluster.hosts import COUNT, this_host
from tlcli.errors import OutputError, UsageError
from tlcli.model.backend import backend, require_hosts
from tlcli.recipe.schema import Recipe
from tlcli.storage.location import is_remote
from tlcli.workflows.request import Request


@contextmanager
def as_host(request: Request) -> Iterator[Request]:
    """The request as this host carries it out. All hosts but the first write into a temporary folder.

    Raises:
        OutputError: If the run to resume is not found on this host.
        UsageError: If the variables of Keras contradict each other.
    """
    host = this_host()
    if host is None:
        yield request
    elif host.is_first:
        yield replace(request, joins_hosts=True)
    else:
        with tempfile.TemporaryDirectory(prefix="tlcli-host-") as name:
            yield _following(request, Path(name) / "run")


def _following(request: Request, folder: Path) -> Request:
    """The request of a host that is not the first, with a folder of its own."""
    if request.resume is None:
        return replace(request, out=folder, joins_hosts=True)
    if is_remote(request.resume):
        hint = "Resume it from a disk that all hosts share."
        raise UsageError("several hosts resume no remote run", where=f"--resume {request.resume}", hint=hint)
    if not request.resume.is_dir():
        hint = "Resume it from a disk that all hosts share."
        raise OutputError("is not there on this host", where=str(request.resume), hint=hint)
    # Before the first host, which waits for this one, writes into it.
    shutil.copytree(request.resume, folder, ignore=shutil.ignore_patterns(".lock"))
    return replace(request, resume=folder, joins_hosts=True)


def joining(request: Request) -> Request:
    """The request of a command that only plans what this host will do together with the others, if there are any.

    Raises:
        UsageError: If the variables of Keras contradict each other.
    """
    return replace(request, joins_hosts=this_host() is not None)


def check_hosts(request: Request, recipe: Recipe) -> None:
    """Check that several hosts can carry out a request: what depends on the time differs between them.

    Raises:
        UsageError: If they cannot.
    """
    if not request.joins_hosts:
        return
    refused = {
        "performance.budget": recipe.performance.budget is not None,
        "data.folds": recipe.data.folds is not None,
        "quality": recipe.quality == "best",
        "--cluster": connection.current() is not None,
        "teacher": recipe.teacher is not None,
        "policy depth_search": any(phase.policy == "depth_search" for phase in recipe.phases),
    }
    if names := [name for name, is_asked in refused.items() if is_asked]:
        hint = f"Leave it out, or unset {COUNT}."
        raise UsageError(f"needs one host, not the several of {COUNT}", where=names[0], hint=hint)
    require_hosts(backend(), request.device)
