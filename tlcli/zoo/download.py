"""Files of pretrained networks: found on disk, copied from a mirror, or downloaded once, resumed and checked.

A file is looked for, in this order, in the folders of other programs that its source names, in the cache, in the mirror
(`TLCLI_MIRROR`: a folder, file:// or http(s)://) and on its server. With `TLCLI_OFFLINE=1` no socket is opened.
"""

import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from tlcli.errors import OutputError, WeightsError
from tlcli.paths import cache_dir
from tlcli.zoo.card import sha256_of

TIMEOUT_S = 30.0
# Waits before the next attempt, seconds. The count starts again whenever an attempt has brought bytes.
WAITS_S = (0.5, 2.0)
_CHUNK_BYTES = 64 * 1024

Report = Callable[[str, int, int], None]
_report: ContextVar[Report | None] = ContextVar("report", default=None)


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        name: Its name in the cache and in mirrors, with forward slashes if it has folders.
        url: Its address.
        hash: `md5:…` or `sha256:…`, as its publisher states it; empty if none is stated.
        title: What it is, for messages: "the ImageNet weights of resnet50".
        also_in: Folders of other programs that may already hold it.
    """

    name: str
    url: str
    hash: str = ""
    title: str = "the weights"
    also_in: tuple[Path, ...] = ()


@contextmanager
def reporting(report: Report) -> Iterator[None]:
    """A context in which downloads report their progress: title, bytes so far, and bytes in all."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def is_offline() -> bool:
    """True if `TLCLI_OFFLINE` is set to anything but 0, no, false or nothing."""
    return os.environ.get("TLCLI_OFFLINE", "").strip().lower() not in ("", "0", "no", "false")


@contextmanager
def no_sockets() -> Iterator[None]:
    """A context for imports that opens no socket if the program is offline.

    TensorFlow imports requests, whose urllib3 otherwise binds a socket to see whether this machine has IPv6.
    """
    before = socket.has_ipv6
    socket.has_ipv6 = before and not is_offline()
    try:
        yield
    finally:
        socket.has_ipv6 = before


def mirror() -> Path | str | None:
    """The mirror in `TLCLI_MIRROR`: a folder, the address of a server, or None.

    Raises:
        WeightsError: It is neither.
    """
    text = os.environ.get("TLCLI_MIRROR", "").strip()
    if not text:
        return None
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and not re.search(r"\s", text)
    except ValueError:  # brackets that are no IPv6 address
        parts, has_host = urlsplit(""), False
    if parts.scheme.lower() in ("http", "https") and has_host:
        return text.rstrip("/") + "/"
    if parts.scheme.lower() == "file":
        return Path(unquote(parts.path))
    if "://" in text:
        hint = "Set it to a folder, or to an address with file://, http:// or https://."
        raise WeightsError(f"cannot be used as a mirror (got '{text}')", where="TLCLI_MIRROR", hint=hint)
    return Path(text).expanduser()


def weights_cache() -> Path:
    """The folder of downloaded files."""
    return cache_dir() / "weights"


def find_local(file: RemoteFile, *, checked: bool = True) -> Path | None:
    """The file on this machine, or None. A mirror does not count.

    Args:
        file: The file.
        checked: True to ignore files with a wrong hash, which takes a second for a large file.
    """
    for folder in (*file.also_in, weights_cache()):
        path = folder / file.name
        if path.is_file() and (not checked or has_right_hash(path, file)):
            return path
    return None


def has_right_hash(path: Path, file: RemoteFile) -> bool:
    """True if the content of `path` has the hash of the file, or else that of its download, or if none is known."""
    if not file.hash:
        recorded = Path(f"{path}.sha256")
        return (
            not recorded.is_file() or sha256_of(path) == recorded.read_text(encoding="ascii", errors="replace").strip()
        )
    kind, _, expected = file.hash.partition(":")
    with path.open("rb") as stream:
        # md5 is what the publisher states; it guards against damage here, not against attacks.
        digest = hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False))
    return digest.hexdigest() == expected.lower()


def fetch(file: RemoteFile) -> Path:
    """The file on this machine; copied or downloaded into the cache if it is not there yet.

    Processes that ask for the same file at once download it once. An interrupted download is resumed where it was cut,
    if the server can; a file is under its name only if its hash is right.

    Raises:
        WeightsError: The file cannot be had. The message says what was tried and names all ways out.
        OutputError: The cache cannot be written.
    """
    if path := find_local(file):
        return path
    target = weights_cache() / file.name
    with _storing(target):
        # Another process may have brought it while this one waited.
        return find_local(file) or _obtain(file, target)


def store(file: RemoteFile, source: Path) -> Path:
    """Copy a file from elsewhere into the cache, checked. Returns its path there.

    Raises:
        WeightsError: Its hash is not that of its publisher.
        OutputError: The cache cannot be written.
    """
    target = weights_cache() / file.name
    with _storing(target):
        if reason := _copy(file, source, target):
            raise WeightsError(reason, where=str(source), hint=ways_out(file))
    return target


def ways_out(file: RemoteFile) -> str:
    """The ways to get the weights of a file by hand that are open here, a line each, in the order they are tried."""
    folders = (*file.also_in, weights_cache())
    place = os.environ.get("TLCLI_MIRROR", "").strip()
    ways = ["connection: unset TLCLI_OFFLINE"] if is_offline() else []
    ways += [f"cache: copy the file to {' or '.join(str(folder / file.name) for folder in folders)}"]
    ways += [
        f"mirror: put {file.name} into {place}, which TLCLI_MIRROR names"
        if place
        else f"mirror: set TLCLI_MIRROR to a folder or an address that has {file.name}",
        f"file: --weights {file.name.rpartition('/')[2]}, wherever it lies",
        "another network: --model efficientnet_lite0, whose weights come with tlcli",
        "without these weights: --weights random, or tlcli demo",
    ]
    return as_ways(ways)


def as_ways(ways: list[str]) -> str:
    """Ways out of an error as text, a line each."""
    return "Ways out:\n" + "\n".join(f"- {way}" for way in ways)


@contextmanager
def _storing(target: Path) -> Iterator[None]:
    """A context that holds the lock of a file in the cache, and explains errors of the disk."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            try:
                yield
            finally:
                # Removed while it is held: a process that waits for it sees that, and makes a new one.
                with suppress(OSError):
                    Path(f"{target}.lock").unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "Free some space, or set TLCLI_CACHE to another folder."
        raise OutputError(f"the file cannot be stored ({reason})", where=str(target), hint=hint) from error


def _obtain(file: RemoteFile, target: Path) -> Path:
    """Bring the file from the mirror or the server to `target`. The caller holds its lock."""
    reasons = []
    place = mirror()
    if isinstance(place, Path):
        if reason := _copy(file, place / file.name, target):
            reasons.append(f"{place / file.name}: {reason}")
        else:
            return target
    addresses = [_join(place, file), file.url] if isinstance(place, str) else [file.url]
    for url in filter(None, addresses):
        reason = "not tried, because TLCLI_OFFLINE is set" if is_offline() else _download(file, url, target)
        if not reason:
            return target
        reasons.append(f"{url} ({reason})")
    if not _range(file, _part(target), _validator(target)):
        # The next attempt could not continue it.
        _part(target).unlink(missing_ok=True)
        _validator(target).unlink(missing_ok=True)
    raise WeightsError(
        f"{file.title} could not be fetched from {', nor from '.join(reasons)}",
        where="model.weights",
        hint=ways_out(file),
    )


def _join(base: str, file: RemoteFile) -> str:
    return base + quote(file.name)


def _copy(file: RemoteFile, source: Path, target: Path) -> str:
    """Copy a file of a mirror to `target`. Returns why that is not possible, or the empty string."""
    if not source.is_file():
        return "there is no such file"
    part = _part(target)
    shutil.copyfile(source, part)
    return _keep(file, part, target)


def _keep(file: RemoteFile, part: Path, target: Path) -> str:
    """Give a complete file its name, if its hash is right. Returns what is wrong, or the empty string."""
    if not has_right_hash(part, file):
        part.unlink()
        return f"its hash is not {file.hash}, as its publisher states: the file is damaged or another one"
    # For `zoo verify`, because some publishers state no hash, and no sha256.
    Path(f"{target}.sha256").write_text(f"{sha256_of(part)}\n", encoding="ascii")
    part.replace(target)
    _validator(target).unlink(missing_ok=True)
    return ""


def _download(file: RemoteFile, url: str, target: Path) -> str:
    """Download to `target`, in as many attempts as it takes. Returns why it failed, or the empty string."""
    part, tries = _part(target), 0
    may_be_mixed = _size(part) > 0
    while True:
        before = _size(part)
        reason, is_final = _attempt(file, url, target)
        if not reason:
            reason = _keep(file, part, target)
            if not reason or not may_be_mixed:
                return reason
            # The beginning may have come from another version of the file: once more, from the start.
            may_be_mixed = False
        elif is_final:
            return reason
        tries = 0 if _size(part) > before else tries + 1
        if tries > len(WAITS_S):
            return reason
        time.sleep(WAITS_S[max(tries - 1, 0)])


def _attempt(file: RemoteFile, url: str, target: Path) -> tuple[str, bool]:
    """One request. Returns why it failed and whether another attempt would fail too, or the empty string."""
    import requests

    try:
        _receive(file, url, target)
    except requests.HTTPError as error:
        status = error.response.status_code
        if status == 416:
            _part(target).unlink(missing_ok=True)
        return f"{status} {error.response.reason}".strip(), status < 500 and status not in (408, 416, 429)
    except requests.exceptions.InvalidURL as error:
        return _reason(error), True
    except requests.RequestException as error:
        return _reason(error), False
    return "", False


def _receive(file: RemoteFile, url: str, target: Path) -> None:
    """One request. Appends to the part of `target` if the server continues where it ends, else begins anew.

    Raises:
        requests.RequestException: For every failure; what has arrived stays in the part.
    """
    import pooch

    part, validator = _part(target), _validator(target)
    progress = _Progress(f"downloading {target.name}")
    with part.open("ab") as stream:

        def begin(response: Any, **_: Any) -> None:
            if response.status_code == 200:
                stream.truncate(0)
                validator.write_text(_mark(response.headers), encoding="latin-1")
            progress.done = stream.seek(0, os.SEEK_END)

        receive = pooch.HTTPDownloader(
            progressbar=progress,
            chunk_size=_CHUNK_BYTES,
            timeout=TIMEOUT_S,
            headers={"Accept-Encoding": "identity", **_range(file, part, validator)},
            hooks={"response": begin},
        )
        receive(url, stream, None)


def _range(file: RemoteFile, part: Path, validator: Path) -> dict[str, str]:
    """The headers that ask for the rest of a part; empty to begin anew."""
    mark = validator.read_text(encoding="latin-1") if validator.is_file() else ""
    # With neither a mark of its version nor a hash, nobody would notice that the rest belongs to another version.
    if not _size(part) or not (mark or file.hash):
        return {}
    return {"Range": f"bytes={_size(part)}-"} | ({"If-Range": mark} if mark else {})


def _mark(headers: Any) -> str:
    """What identifies the version of a file on a server; weak ETags may not be used for ranges."""
    tag = str(headers.get("ETag", ""))
    return str(headers.get("Last-Modified", "")) if not tag or tag.startswith("W/") else tag


class _Progress:
    """Takes the progress that pooch reports, and passes it on as bytes of the whole file."""

    def __init__(self, title: str) -> None:
        self.title, self.done, self.remaining = title, 0, 0

    @property
    def total(self) -> int:
        """Bytes of this response; set by pooch before the first ones."""
        return self.remaining

    @total.setter
    def total(self, value: int) -> None:
        self.remaining = value
        self.whole = self.done + value

    def update(self, size: int) -> None:
        """Count bytes; pooch rounds up to whole chunks."""
        self.done = min(self.done + size, self.whole)
        if (report := _report.get()) and self.whole:
            report(self.title, self.done, self.whole)

    def reset(self) -> None:
        """Called at the end, before an update with the size of the response."""
        self.done = self.whole - self.remaining

    def close(self) -> None:
        """Called at the end."""


def _part(target: Path) -> Path:
    return Path(f"{target}.part")


def _validator(target: Path) -> Path:
    return Path(f"{target}.part-of")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(error: Exception) -> str:
    """The innermost cause of an error of requests, which wraps it in several others."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    text = str(getattr(cause, "strerror", None) or cause or type(cause).__name__)
    return text.partition("\n")[0][:200]
