"""Where SavedModels are found: folders, archives that may be hostile, and URLs on a real server."""

import functools
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tlcli.errors import ModelError
from tlcli.zoo import hub
from tlcli.zoo.formats.saved_model import FILE


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
    return info, io.BytesIO(b"data")


def archive(path: Path, *entries: tuple[tarfile.TarInfo, io.BytesIO]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in entries:
            tar.addfile(info, content if info.size else None)
    return path


@pytest.mark.parametrize("inside", ["", "module/"])
def test_an_archive_is_unpacked_once(tmp_path: Path, inside: str) -> None:
    path = archive(tmp_path / "m.tar.gz", entry(f"{inside}{FILE}"), entry(f"{inside}variables/variables.index"))
    source, folder = hub.locate(str(path))
    assert source == str(path)
    assert sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*")) == [
        FILE,
        "variables/variables.index",
    ]
    written = (folder / FILE).stat().st_mtime_ns
    assert hub.locate(str(path)) == (source, folder)
    assert (folder / FILE).stat().st_mtime_ns == written


HOSTILE = {
    "outside": [entry("../escaped")],
    "absolute": [entry("/tmp/escaped-by-tlcli-test")],
    "link": [entry("variables", tarfile.SYMTYPE, "/etc"), entry("variables/escaped")],
    "hard link": [entry("variables", tarfile.LNKTYPE, "../escaped")],
    "device": [entry("null", tarfile.CHRTYPE)],
    "pipe": [entry("pipe", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_unpacked(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("TLCLI_CACHE", str(cache))
    path = archive(tmp_path / "m.tgz", entry(FILE), *HOSTILE[name])
    with pytest.raises(ModelError, match="nothing was unpacked") as caught:
        hub.locate(str(path))
    assert str(path) in str(caught.value)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    assert not Path("/tmp/escaped-by-tlcli-test").exists()


def test_an_archive_that_grows_too_large_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.tar", *(entry(f"{number}") for number in range(hub.MAX_ENTRIES + 1)))
    with pytest.raises(ModelError, match="holds more than 10000 entries or 16 GB"):
        hub.locate(str(path))
    info = tarfile.TarInfo(FILE)
    info.size = hub.MAX_BYTES + 1
    # The header alone states the size.
    (tmp_path / "huge.tar").write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(ModelError, match="holds more than"):
        hub.locate(str(tmp_path / "huge.tar"))


def test_what_is_no_module_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such SavedModel"):
        hub.locate(str(tmp_path / "missing"))
    (tmp_path / "damaged.tar.gz").write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(ModelError, match="cannot be unpacked"):
        hub.locate(str(tmp_path / "damaged.tar.gz"))
    with pytest.raises(ModelError, match="holds 0 SavedModels"):
        hub.locate(str(archive(tmp_path / "empty.tar.gz", entry("readme.txt"))))
    (tmp_path / "model.zip").touch()
    with pytest.raises(ModelError, match=r"neither a folder nor an archive.*got suffix '.zip'"):
        hub.locate(str(tmp_path / "model.zip"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A server with a module at /google/small/feature_vector/1, and the paths that it was asked for."""
    asked: list[str] = []
    module = tmp_path / "www" / "google" / "small" / "feature_vector"
    module.mkdir(parents=True)
    archive(module / "1", entry(FILE), entry("variables", tarfile.DIRTYPE), entry("variables/variables.index"))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/google/small/feature_vector", asked
        running.shutdown()
        thread.join()


def test_a_url_is_fetched_by_tensorflow_hub_once(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = server
    monkeypatch.setenv("TLCLI_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"(?s)TLCLI_OFFLINE forbids.*tfhub:FILE.tar.gz.*TFHUB_CACHE_DIR.*zoo list"):
        hub.locate(f"{address}/1")
    assert asked == []
    monkeypatch.delenv("TLCLI_OFFLINE")
    source, folder = hub.locate(f"{address}/1")
    assert (source, (folder / FILE).read_bytes()) == (f"{address}/1", b"data")
    assert hub.short_name(source) == "small_feature_vector"
    assert asked[-1] == "/google/small/feature_vector/1?tf-hub-format=compressed"

    count = len(asked)
    monkeypatch.setenv("TLCLI_OFFLINE", "1")
    assert hub.locate(f"{address}/1") == (source, folder)
    assert len(asked) == count


@pytest.mark.extras  # Loading TensorFlow Hub once is enough for the quick tests.
def test_a_url_that_cannot_be_fetched_names_all_ways_out(server: tuple[str, list[str]]) -> None:
    with pytest.raises(
        ModelError, match=r"(?s)cannot fetch the module \(HTTPError: .*404.*tfhub:FILE.tar.gz.*zoo list"
    ):
        hub.locate(f"{server[0]}/2")
    with pytest.raises(ModelError, match="only http and https"):
        hub.locate("ftp://127.0.0.1/module")
