"""Downloads from a real local server that is slow, cuts off, has no ranges, sends something else, or is gone."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import FileServer, file_server

from tlcli.errors import OutputError, WeightsError
from tlcli.zoo import download
from tlcli.zoo.card import sha256_of
from tlcli.zoo.download import RemoteFile

CONTENT = bytes(range(256)) * 2000
HALF = 300_000
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(download, "WAITS_S", (0.01, 0.01))
    with file_server() as running:
        running.files["net.h5"] = CONTENT
        yield running


@pytest.fixture
def file(server: FileServer, tmp_path: Path) -> RemoteFile:
    return RemoteFile("net.h5", f"{server.url}net.h5", MD5, "the weights of net", (tmp_path / "other",))


def is_complete(path: Path) -> bool:
    """True if the file is right, and nothing unfinished lies beside it."""
    names = {entry.name for entry in path.parent.iterdir()}
    return path.read_bytes() == CONTENT and names == {"net.h5", "net.h5.sha256"}


def failure(file: RemoteFile) -> str:
    with pytest.raises(WeightsError) as caught:
        download.fetch(file)
    assert download.find_local(file) is None
    return str(caught.value)


def test_a_file_is_downloaded_once_with_progress(server: FileServer, file: RemoteFile) -> None:
    seen = []
    with download.reporting(lambda *event: seen.append(event)):
        path = download.fetch(file)
        assert download.fetch(file) == path
    assert path == download.weights_cache() / "net.h5"
    assert is_complete(path)
    assert (path.parent / "net.h5.sha256").read_text() == f"{sha256_of(path)}\n"
    assert server.requests == [("GET", "net.h5", "")]
    counts = [done for _, done, _ in seen]
    assert counts == sorted(counts)
    assert len(counts) > 3
    assert seen[-1] == ("downloading net.h5", len(CONTENT), len(CONTENT))


def test_a_cut_download_is_resumed_where_it_ended(server: FileServer, file: RemoteFile) -> None:
    server.cut_after = [HALF, 100_000]
    seen = []
    with download.reporting(lambda *event: seen.append(event)):
        assert is_complete(download.fetch(file))
    ranges = [int(asked.strip("bytes=-") or 0) for _, _, asked in server.requests]
    assert ranges[0] == 0
    assert 0 < ranges[1] <= HALF < ranges[2] + 100_000
    assert sum(server.bodies) < len(CONTENT) + 2 * 65536
    assert {whole for _, _, whole in seen} == {len(CONTENT)}


def test_a_download_is_resumed_by_the_next_process(server: FileServer, file: RemoteFile) -> None:
    server.cut_after = [HALF]
    server.failures = []
    part = download.weights_cache() / "net.h5.part"
    server.cut_after = [HALF, 0, 0, 0, 0]
    assert "net.h5" in failure(file)
    assert 0 < part.stat().st_size <= HALF
    server.cut_after = []
    assert is_complete(download.fetch(file))
    assert server.bodies[-1] < len(CONTENT)


@pytest.mark.parametrize("tag", ['"1"', ""], ids=["etag", "no etag"])
def test_a_server_without_ranges_sends_everything_again(server: FileServer, file: RemoteFile, tag: str) -> None:
    server.ranges, server.tag, server.cut_after = False, tag, [HALF]
    assert is_complete(download.fetch(file))
    assert server.bodies == [HALF, len(CONTENT)]


@pytest.mark.parametrize("tag", ['"2"', ""], ids=["etag", "no etag"])
@pytest.mark.parametrize("known", [MD5, ""], ids=["hash", "no hash"])
def test_parts_of_two_versions_are_never_joined(server: FileServer, file: RemoteFile, tag: str, known: str) -> None:
    file = replace(file, hash=known)
    server.files["net.h5"], server.cut_after = bytes(len(CONTENT)), [HALF, 0, 0, 0, 0]
    server.tag = tag and '"1"'
    failure(file)
    server.files["net.h5"], server.cut_after, server.tag = CONTENT, [], tag
    assert is_complete(download.fetch(file))


def test_a_part_that_is_too_long_is_thrown_away(server: FileServer, file: RemoteFile) -> None:
    part = download.weights_cache() / "net.h5.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT + b"more")
    assert is_complete(download.fetch(file))


def test_a_wrong_hash_leaves_no_file(server: FileServer, file: RemoteFile) -> None:
    server.files["net.h5"] = b"something else"
    text = failure(file)
    assert f"its hash is not {MD5}" in text
    assert list(download.weights_cache().iterdir()) == []
    assert len(server.requests) == 1, "the same file would come again"


def test_a_missing_file_is_asked_for_once(server: FileServer, file: RemoteFile) -> None:
    del server.files["net.h5"]
    assert f"{file.url} (404 Not Found)" in failure(file)
    assert len(server.requests) == 1
    assert list(download.weights_cache().iterdir()) == [], "neither a lock nor an empty part is left"


def test_a_server_in_trouble_is_asked_again(server: FileServer, file: RemoteFile) -> None:
    server.failures = [503, 500]
    assert is_complete(download.fetch(file))
    server.failures = [503] * 9
    assert "503" in failure(replace(file, name="b.h5"))
    assert len(server.failures) == 6


def test_redirects_are_followed(server: FileServer, file: RemoteFile) -> None:
    server.cut_after = [HALF]
    assert is_complete(download.fetch(replace(file, url=f"{server.url}moved/net.h5")))
    assert [name for _, name, _ in server.requests] == ["moved/net.h5", "net.h5"] * 2


def test_a_silent_server_is_given_up(server: FileServer, file: RemoteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.05)
    server.delay_s = 0.5
    assert "timed out" in failure(file)


def test_two_processes_download_once(server: FileServer, file: RemoteFile, tmp_path: Path) -> None:
    server.delay_s = 1.0
    code = f"from tlcli.zoo.download import *; print(fetch(RemoteFile('net.h5', '{file.url}', '{MD5}')))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert outputs == [str(download.weights_cache() / "net.h5")] * 2
    assert server.requests == [("GET", "net.h5", "")]


def test_files_of_other_programs_are_used_if_their_hash_is_right(server: FileServer, file: RemoteFile) -> None:
    (other,) = file.also_in
    other.mkdir()
    (other / "net.h5").write_bytes(CONTENT)
    assert download.fetch(file) == other / "net.h5"
    assert server.requests == []
    (other / "net.h5").write_bytes(b"damaged")
    assert download.fetch(file) == download.weights_cache() / "net.h5"


@pytest.mark.parametrize("kind", ["folder", "file", "http"])
def test_a_mirror_is_asked_first(
    kind: str, server: FileServer, file: RemoteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my mirror"
    folder.mkdir()
    (folder / "net.h5").write_bytes(CONTENT)
    server.files["mirror/net.h5"] = CONTENT
    place = {"folder": str(folder), "file": folder.as_uri(), "http": f"{server.url}mirror"}[kind]
    monkeypatch.setenv("TLCLI_MIRROR", place)
    assert is_complete(download.fetch(file))
    assert {name for _, name, _ in server.requests} <= {"mirror/net.h5"}


def test_a_mirror_without_the_file_or_with_another_one_is_not_the_end(
    server: FileServer, file: RemoteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLCLI_MIRROR", str(tmp_path))
    assert is_complete(download.fetch(file))
    (tmp_path / "b.h5").write_bytes(b"damaged")
    text = failure(replace(file, name="b.h5", url=f"{server.url}gone"))
    assert f"{tmp_path / 'b.h5'}: its hash is not" in text
    assert f"nor from {server.url}gone (404" in text


def test_a_mirror_that_is_none_is_an_error(file: RemoteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLCLI_MIRROR", "ftp://host/x")
    with pytest.raises(WeightsError, match=r"TLCLI_MIRROR: .*'ftp://host/x'.*file://, http://"):
        download.fetch(file)


def test_the_error_names_the_ways_out_that_apply(
    server: FileServer, file: RemoteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del server.files["net.h5"]
    (other,) = file.also_in
    _, first, *ways = failure(file).splitlines()
    assert first == f"- cache: copy the file to {other / 'net.h5'} or {download.weights_cache() / 'net.h5'}"
    assert [way.partition(":")[0] for way in ways] == [
        "- mirror", "- file", "- another network", "- without these weights",
    ]  # fmt: skip
    assert ways[0].startswith("- mirror: set TLCLI_MIRROR to")
    monkeypatch.setenv("TLCLI_MIRROR", str(tmp_path))
    monkeypatch.setenv("TLCLI_OFFLINE", "1")
    text = failure(file)
    assert "- connection: unset TLCLI_OFFLINE" in text
    assert f"- mirror: put net.h5 into {tmp_path}" in text


def test_locks_that_are_removed_still_exclude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes count in a file under the lock; none of the additions is lost, and no lock is left."""
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path))
    count = tmp_path / "count"
    count.write_text("0")
    code = (
        "from pathlib import Path; from tlcli.zoo.download import _storing\n"
        f"count = Path({str(count)!r})\n"
        "for _ in range(30):\n    with _storing(count): count.write_text(str(int(count.read_text()) + 1))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert count.read_text() == "120"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_a_cache_that_cannot_be_written_is_an_error(
    file: RemoteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="TLCLI_CACHE"):
        download.fetch(file)


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("yes", True), ("0", False), ("", False), ("no", False)])
def test_offline_asks_nobody(
    value: str, expected: bool, server: FileServer, file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLCLI_OFFLINE", value)
    monkeypatch.setenv("TLCLI_MIRROR", f"{server.url}mirror")
    assert download.is_offline() is expected
    if not expected:
        assert is_complete(download.fetch(file))
    else:
        assert "not tried, because TLCLI_OFFLINE is set" in failure(file)
        assert server.requests == []
