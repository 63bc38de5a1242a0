"""Objects of remote stores, by fsspec: list, read, write. All retries of the program for them are here.

fsspec is optional, and so is the library of each store. They find credentials and endpoints themselves, in the
environment and in the profiles of the user. No message shows a credential.
"""

import errno
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from tlcli.errors import DataError

Result = TypeVar("Result")

# Scheme of an address to the extra with its library.
EXTRAS = {
    "s3": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
    "hf": "hf",
    "http": "http",
    "https": "http",
}
# A request that fails for a passing reason is sent this often, with waits that double.
ATTEMPTS, FIRST_WAIT_S = 5, 0.2
# A larger object is hardly an image. Reading it would fill the memory.
MAX_BYTES = 2**28

_PASSING_STATUSES = (408, 425, 429)
# Modules whose errors are those of a connection or a server.
_CLIENTS = ("aiohttp", "aiobotocore", "azure", "botocore", "gcsfs", "google", "httpcore", "httpx", "requests")
# In abfs://CONTAINER@ACCOUNT/… a name before the @ is no secret.
_USERINFO = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*@|(?<=http://)[^/@\s]*@|(?<=https://)[^/@\s]*@")
_QUERY = re.compile(r"(https?://[^\s?'\")>]*)\?[^\s'\")>]*")


def without_secrets(text: str) -> str:
    """A text with addresses without user names, passwords and query strings, which may hold signatures.

    >>> without_secrets("cannot open https://me:word@host/a.zip?sig=1 now")
    'cannot open https://host/a.zip now'
    """
    return _QUERY.sub(r"\1", _USERINFO.sub("", text)) if "://" in text else text


def is_offline() -> bool:
    """True if `TLCLI_OFFLINE` is set to anything but 0, no, false or nothing."""
    return os.environ.get("TLCLI_OFFLINE", "").strip().lower() not in ("", "0", "no", "false")


def child(address: str, name: str) -> str:
    """The address of an object below another address. A query string stays at the end."""
    if not name:
        return address
    if not address.startswith("http"):
        return f"{address.rstrip('/')}/{name}"
    base, mark, query = address.partition("?")
    return f"{base.rstrip('/')}/{quote(name)}{mark}{query}"


@dataclass(frozen=True)
class Object:
    """A remote object: its size in bytes, None if the server does not say, and a mark that changes with its content."""

    bytes: int | None
    version: str


class Objects:
    """The objects below an address, which are listed once.

    Attributes:
        address: The address, with its secrets.
        text: The address without them, for messages.
    """

    def __init__(self, address: str) -> None:
        self.address, self.text = address, without_secrets(address)
        self._listed: dict[str, Object] | None = None
        self._known: dict[str, Object | None] = {}

    def entries(self) -> Mapping[str, Object]:
        """Every object below the address, by its name relative to it.

        Raises:
            OSError: If it cannot be listed.
        """
        if self._listed is None:
            self._listed = _retrying(lambda: _list(self.address), self.text)
        return self._listed

    def find(self, name: str) -> Object | None:
        """One object; None if there is none.

        Raises:
            OSError: If the store cannot be asked.
        """
        if self._listed is not None:
            return self._listed.get(name)
        if name not in self._known:
            try:
                self._known[name] = about(child(self.address, name))
            except FileNotFoundError:
                self._known[name] = None
        return self._known[name]

    def read(self, name: str) -> bytes:
        """The content of an object.

        Raises:
            OSError: If it cannot be read, or has more bytes than `MAX_BYTES`.
        """
        known = (self._listed or self._known).get(name)
        return read(child(self.address, name), None if known is None else known.bytes)

    def version(self, name: str) -> str:
        """A mark that changes with the content of a listed object; empty if the store gives none."""
        found = (self._listed or {}).get(name)
        return "" if found is None or found.bytes is None or found.version.endswith("-") else found.version

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of an object.

        Raises:
            OSError: If it cannot be read.
        """
        address = child(self.address, name)

        def read_head() -> bytes:
            files, path = _open(address)
            return bytes(files.cat_file(path, start=0, end=count))[:count]

        return _retrying(read_head, without_secrets(address))


def about(address: str) -> Object:
    """Size and version of an object.

    Raises:
        OSError: FileNotFoundError if there is none.
    """

    def ask() -> Object:
        files, path = _open(address)
        files.invalidate_cache(files._parent(path))
        found = files.info(path)
        if found["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address)
        return _object(found)

    return _retrying(ask, without_secrets(address))


def read(address: str, size: int | None = None) -> bytes:
    """The content of an object.

    Args:
        address: Its address.
        size: Its size in bytes; None if it is not known. A shorter answer counts as cut off.

    Raises:
        OSError: If it cannot be read, or has more bytes than `MAX_BYTES`.
    """
    where = without_secrets(address)
    if size is not None and size > MAX_BYTES:
        raise OSError(errno.EFBIG, f"has {size:,} bytes, and at most {MAX_BYTES:,} are read", where)

    def read_once() -> bytes:
        files, path = _open(address)
        content = bytes(files.cat_file(path))
        if size is not None and len(content) != size:
            raise OSError(errno.EIO, f"{len(content):,} of {size:,} bytes arrived")
        return content

    return _retrying(read_once, where)


def fetch(address: str, file: Path) -> None:
    """Copy an object to a file, in pieces.

    Raises:
        OSError: If it cannot be read.
    """
    size = about(address).bytes

    def copy() -> None:
        files, path = _open(address)
        files.get_file(path, str(file))
        if size is not None and file.stat().st_size != size:
            raise OSError(errno.EIO, f"{file.stat().st_size:,} of {size:,} bytes arrived")

    _retrying(copy, without_secrets(address))


def put(file: Path, address: str) -> None:
    """Copy a file to an object, which appears when all of it is there.

    Raises:
        OSError: If it cannot be written.
    """

    def copy() -> None:
        files, path = _open(address)
        files.put_file(str(file), path)

    _retrying(copy, without_secrets(address))


def remove(address: str) -> None:
    """Remove an object, if there is one.

    Raises:
        OSError: If it cannot be removed.
    """

    def delete() -> None:
        files, path = _open(address)
        files.rm_file(path)

    try:
        _retrying(delete, without_secrets(address))
    except FileNotFoundError:
        return


def require_library(address: str) -> None:
    """Check that the library for an address is installed and that the network may be used.

    Raises:
        DataError: If it is not, or `TLCLI_OFFLINE` is set.
    """
    _open(address)


def _list(address: str) -> dict[str, Object]:
    files, path = _open(address)
    files.invalidate_cache()
    base = path.partition("?")[0].rstrip("/") + "/"
    is_http = address.startswith("http")
    found = files.find(base if is_http else path, detail=True)
    if is_http and not found:
        # To find files leaves out folders that cannot be listed. This one must be.
        files.ls(base)
    entries = {}
    for name, about_it in found.items():
        # A page of an HTTP server may also link to other places, and to itself in another order.
        if about_it["type"] == "file" and name.startswith(base) and not (is_http and "?" in name):
            entries[unquote(name[len(base) :]) if is_http else name[len(base) :]] = _object(about_it)
    return {name: entry for name, entry in entries.items() if name and not name.endswith("/")}


def _object(found: Mapping[str, Any]) -> Object:
    marks = (
        "ETag",
        "etag",
        "Content-MD5",
        "md5Hash",
        "content_md5",
        "oid",
        "blob_id",
        "LastModified",
        "last_modified",
        "Last-Modified",
        "mtime",
    )
    version = next((str(found[mark]) for mark in marks if found.get(mark)), "")
    size = found.get("size")
    return Object(None if size is None else int(size), f"{size}-{version}")


def _open(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it."""
    scheme = address.partition("://")[0]
    if is_offline():
        hint = "Unset it, or name a local folder or archive."
        raise DataError("is not on this machine, and TLCLI_OFFLINE is set", where=without_secrets(address), hint=hint)
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(scheme)
        # Only addresses of Azure name an account.
        named = kind._get_kwargs_from_urls(address) if EXTRAS[scheme] == "az" else {}
        return _file_system(scheme, named.get("account_name", "")), str(kind._strip_protocol(address))
    except ImportError as error:
        hint = f"pip install 'tlcli[{EXTRAS[scheme]}]'"
        message = f"addresses with {scheme}:// need a library that is not installed"
        raise DataError(message, where=without_secrets(address), hint=hint) from error


@cache
def _file_system(scheme: str, account: str) -> Any:
    """The file system of a scheme. Its own retries are turned off, where it has a switch: ours would multiply them."""
    import fsspec

    options: dict[str, Any] = {"account_name": account} if account else {}
    if scheme == "s3":
        options["config_kwargs"] = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 64}
    elif scheme in ("http", "https"):
        options["client_kwargs"] = {"trust_env": True}
    files = fsspec.filesystem(scheme, **options)
    if scheme == "s3":
        files.retries = 1
    return files


def _retrying(action: Callable[[], Result], where: str) -> Result:
    """The result of an action, which is repeated after errors that may pass.

    Raises:
        OSError: With `where` as its file: FileNotFoundError, PermissionError, or one with the last reason.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except Exception as raised:
            error = _uncovered(raised)
            if not _is_of_store(error):
                raise
            if not _may_pass(error):
                raise _explained(error, where) from None
            if attempt == ATTEMPTS:
                raise OSError(errno.EIO, f"{_reason(error)}, {ATTEMPTS} times in a row", where) from None
        time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.5, 1))
    raise AssertionError("the last attempt returns or raises")


def _uncovered(error: Exception) -> Exception:
    """What fsspec's HTTP file system takes for a missing file, though the server was not reached or failed."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception) or not _is_of_store(cause):
        return error
    return error if _status(cause) in (404, 410) else cause


def _is_of_store(error: Exception) -> bool:
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.partition(".")[0] in _CLIENTS


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error; None if there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    for holder in (error, response):
        for name in ("status", "status_code", "code"):
            if isinstance(value := getattr(holder, name, None), int):
                return value
    # s3fs turns errors into OSErrors. Those of aiohttp hide codes of their parser, which are no answers.
    return _status(error.__cause__) if isinstance(error, OSError) and error.__cause__ is not None else None


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None and 400 <= status < 500:
        return status in _PASSING_STATUSES
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    return not (isinstance(error, lasting) or "Credentials" in type(error).__name__)


def _explained(error: Exception, where: str) -> OSError:
    """An error that repeating does not help, as an OSError that names the place."""
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError(errno.ENOENT, "there is no such object", where)
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
        reason = f"the server answered {status}" if status else "no credentials were found"
        return PermissionError(errno.EACCES, f"access is denied: {reason}", where)
    return OSError(errno.EIO, _reason(error), where)


def _reason(error: Exception) -> str:
    status = _status(error)
    if status is not None and status >= 400:
        return f"the server answered {status}"
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if "not completed" in str(error) or "Incomplete" in type(error).__name__:
        return "the answer was cut off"
    if "Connect call failed" in str(error):
        return "there is no connection: the server does not take any"
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return without_secrets(text.partition("\n")[0])[:200]
