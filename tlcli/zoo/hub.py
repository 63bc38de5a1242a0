"""Where a SavedModel is on this machine: a folder, an unpacked archive, or a URL in the cache of TensorFlow Hub."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tlcli.errors import ModelError, WeightsError
from tlcli.paths import cache_dir
from tlcli.zoo import download
from tlcli.zoo.download import RemoteFile
from tlcli.zoo.formats.saved_model import FILE

ARCHIVES = (".tar.gz", ".tgz", ".tar")
# Limits for archives: bytes after unpacking, and number of entries.
MAX_BYTES, MAX_ENTRIES = 16 * 2**30, 10_000
# Run in a process of its own: TensorFlow Hub loads TensorFlow and Keras 2, and prints.
_FETCH = """
import sys, warnings
warnings.simplefilter("ignore")
import socket
socket.setdefaulttimeout(60)
import tensorflow_hub
try:
    tensorflow_hub.resolve(sys.argv[1])
except Exception as error:
    sys.exit("REASON " + " ".join(f"{type(error).__name__}: {error}".split())[:300])
"""


def locate(handle: str) -> tuple[str, Path]:
    """The handle with an absolute path, and the folder of the SavedModel.

    Raises:
        ModelError: There is nothing, it cannot be fetched, or the archive is not safe.
    """
    if "://" in handle:
        return handle, _fetched(handle)
    path = Path(handle).expanduser().resolve()
    if not handle or not path.exists():
        hint = "Give a folder with saved_model.pb, a .tar.gz of one, or a URL: tfhub:https://…"
        raise ModelError("there is no such SavedModel", where=f"tfhub:{handle}", hint=hint)
    if path.is_dir():
        return str(path), path
    if not path.name.lower().endswith(ARCHIVES):
        message = f"is neither a folder nor an archive of a SavedModel (got suffix '{path.suffix}')"
        raise ModelError(message, where=str(path), hint=f"Archives end in {', '.join(ARCHIVES)}.")
    return str(path), _unpacked(path)


def is_address(url: str) -> bool:
    """True if a text is a URL with a host and without spaces."""
    try:
        return bool(urlsplit(url).hostname) and not re.search(r"\s", url)
    except ValueError:  # brackets that are no IPv6 address
        return False


def short_name(source: str) -> str:
    """A name in snake case for the module of a source: its file or folder, or the speaking end of a URL.

    >>> short_name("https://tfhub.dev/google/imagenet/mobilenet_v2_035_224/feature_vector/5")
    'mobilenet_v2_035_224_feature_vector'
    >>> short_name("/models/My Module.tar.gz"), short_name("/models/7")
    ('my_module', 'module_7')
    """
    parts = [part for part in source.partition("?")[0].partition("://")[2].split("/") if part] or [Path(source).name]
    while len(parts) > 1 and re.fullmatch(r"v?\d+", parts[-1]):
        del parts[-1]
    last = parts[-1]
    if len(parts) > 2 and last in ("feature_vector", "feature-vector", "classification"):
        last = f"{parts[-2]}_{last}"
    suffix = next((end for end in ARCHIVES if last.lower().endswith(end)), "")
    name = re.sub(r"[^a-z0-9]+", "_", last[: len(last) - len(suffix)].lower()).strip("_") or "module"
    return name if name[0].isalpha() else f"module_{name}"


def _fetched(url: str) -> Path:
    """The folder of a URL in the cache of TensorFlow Hub, which names it by the SHA-1 of the URL."""
    if not url.startswith(("https://", "http://")):
        raise ModelError("only http and https URLs are fetched", where=f"tfhub:{url}", hint=_ways_out(url))
    if not is_address(url):
        raise ModelError("is not a valid address", where=f"tfhub:{url}", hint=f"Check its spelling. {_ways_out(url)}")
    cache = Path(os.environ.get("TFHUB_CACHE_DIR") or cache_dir() / "tfhub")
    folder = cache / hashlib.sha1(url.encode()).hexdigest()
    if not (folder / FILE).is_file():
        if (mirrored := _from_mirror(url)) is not None:
            return mirrored
        if download.is_offline():
            message = "is not in the cache, and TLCLI_OFFLINE forbids to fetch it"
            raise ModelError(message, where=f"tfhub:{url}", hint=_ways_out(url))
        _fetch(url, cache)
    return folder if (folder / FILE).is_file() else _root(folder, url)


def mirror_name(url: str) -> str:
    """The name of a module in a mirror: `tfhub/HOST/PATH.tar.gz`.

    >>> mirror_name("https://tfhub.dev/google/imagenet/mobilenet_v2_035_224/feature_vector/5")
    'tfhub/tfhub.dev/google/imagenet/mobilenet_v2_035_224/feature_vector/5.tar.gz'
    """
    parts = urlsplit(url)
    path = re.sub(r"[^A-Za-z0-9._/-]", "_", f"{parts.hostname}{parts.path}".rstrip("/"))
    safe = "/".join(part for part in path.split("/") if part.strip("."))
    return f"tfhub/{safe.removesuffix('.tar.gz')}.tar.gz"


def _ways_out(url: str) -> str:
    """The ways to a module that are open here, a line each."""
    place = os.environ.get("TLCLI_MIRROR", "").strip() or "a mirror, and set TLCLI_MIRROR to it"
    ways = ["connection: unset TLCLI_OFFLINE"] if download.is_offline() else []
    ways += [
        "file: fetch the module on another machine, and name its folder or archive: --model tfhub:FILE.tar.gz",
        "cache: copy it into the cache folder of TensorFlow Hub, TFHUB_CACHE_DIR",
    ]
    ways += [f"mirror: put it as {mirror_name(url)} into {place}"] if is_address(url) else []
    return download.as_ways([*ways, "another network: tlcli zoo list"])


def _from_mirror(url: str) -> Path | None:
    """The SavedModel of a URL from the mirror, or None if there is no mirror or it lacks the module."""
    file = RemoteFile(mirror_name(url), "", title=f"the module {url}")
    found = download.find_local(file)
    if found is None and download.mirror() is not None:
        with suppress(WeightsError):
            found = download.fetch(file)
    return None if found is None else _unpacked(found)


def _fetch(url: str, cache: Path) -> None:
    environment = {**os.environ, "TFHUB_CACHE_DIR": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["TFHUB_MODEL_LOAD_FORMAT"] = "COMPRESSED"
    command = [sys.executable, "-c", _FETCH, url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reason = next((line.removeprefix("REASON ") for line in lines if line.startswith("REASON ")), lines[-1])
        hint = f"Check the URL and the network. {_ways_out(url)}"
        raise ModelError(f"TensorFlow Hub cannot fetch the module ({reason})", where=f"tfhub:{url}", hint=hint)


def _unpacked(path: Path) -> Path:
    """The SavedModel of an archive, unpacked into the cache folder under its hash."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_dir() / "saved_models" / sha256[:32]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            _unpack(path, temporary)
            temporary.rename(folder)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            if not folder.is_dir():  # Another process may have unpacked it meanwhile.
                hint = "The file may be damaged or incomplete; fetch it again."
                raise ModelError(f"cannot be unpacked ({error})", where=str(path), hint=hint) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return _root(folder, str(path))


def _unpack(path: Path, folder: Path) -> None:
    """Unpack files and folders, nothing else, within limits; all entries are checked before the first is written."""
    with tarfile.open(path) as archive:
        members, total = [], 0
        for member in archive:
            members.append(_checked(member, path))
            total += member.size
            if len(members) > MAX_ENTRIES or total > MAX_BYTES:
                raise _unsafe(path, f"holds more than {MAX_ENTRIES} entries or {MAX_BYTES // 2**30} GB")
        archive.extractall(folder, members, filter="data")


def _checked(member: tarfile.TarInfo, path: Path) -> tarfile.TarInfo:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise _unsafe(path, f"holds '{member.name}', which lies outside")
    if not (member.isreg() or member.isdir()):
        raise _unsafe(path, f"holds '{member.name}', which is a link or a device")
    return member


def _unsafe(path: Path, reason: str) -> ModelError:
    hint = "A SavedModel is files and folders only. Fetch it again from a source that you trust."
    return ModelError(f"the archive {reason}; nothing was unpacked", where=str(path), hint=hint)


def _root(folder: Path, shown: str) -> Path:
    """The folder with the SavedModel: the given one, or the only folder in it that has one."""
    found = sorted(file.parent for file in folder.rglob(FILE)) if folder.is_dir() else []
    if len(found) != 1:
        hint = "Name the folder of one SavedModel."
        raise ModelError(f"holds {len(found)} SavedModels ({FILE}), not one", where=shown, hint=hint)
    return found[0]
