"""Images and runs in remote stores: a real S3 server, and HTTP, with faults of server and network."""

import json
import shutil
import socket
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer, file_server
from packed import odd_names, pack_all, write_table
from s3_server import S3Server, s3_server

from tlcli.data import source
from tlcli.storage import objects, stores
from tlcli.storage.location import locate, read_all

pytestmark = pytest.mark.extras
BUCKET = "images"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running, pytest.MonkeyPatch.context() as environment:
        for name, value in (
            ("AWS_ENDPOINT_URL", running.url),
            ("AWS_ACCESS_KEY_ID", "me"),
            ("AWS_SECRET_ACCESS_KEY", "a-secret-word"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            environment.setenv(name, value)
        files().mkdir(BUCKET)
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setattr(objects, "FIRST_WAIT_S", 0.01)
    server.reset()
    yield server
    server.reset()


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(objects, "FIRST_WAIT_S", 0.01)
    with file_server() as running:
        yield running


@cache
def files() -> Any:
    """A client of its own, which keeps no listing."""
    import fsspec

    return fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)


def put(folder: Path, name: str) -> str:
    """Upload a folder or file; returns its address."""
    files().put(str(folder), f"{BUCKET}/{name}", recursive=folder.is_dir())
    return f"s3://{BUCKET}/{name}"


def rows(data: Path) -> list[tuple[str, int]]:
    return sorted((image.sha256, image.label) for image in source.scan(data).images)


def test_every_form_in_a_store_gives_the_images_of_the_folder(s3: S3Server, photos: Path, tmp_path: Path) -> None:
    expected = rows(photos)
    forms = pack_all(photos, tmp_path) | {"table": write_table(photos, tmp_path / "photos.parquet"), "folder": photos}
    for form, packed in forms.items():
        assert rows(locate(put(packed, f"forms/{packed.name}"))) == expected, form
    manifest = tmp_path / "m.csv"
    lines = [f"{path.relative_to(photos).as_posix()},{path.parent.name}" for path in sorted(photos.rglob("*.bmp"))]
    manifest.write_text("path,label\n" + "\n".join(lines), encoding="utf-8")
    assert rows(locate(put(manifest, "forms/photos/m.csv"))) == expected
    prefix = f"s3://{BUCKET}/forms/photos/"
    manifest.write_text("path,label\n" + "\n".join(prefix + line for line in lines), encoding="utf-8")
    index = source.scan(manifest)
    assert index.images[0].path == f"{prefix}blue/00.bmp"
    assert index.file(index.images[0]).read_bytes() == (photos / "blue" / "00.bmp").read_bytes()


def test_odd_names_are_those_of_the_folder(s3: S3Server, photos: Path, tmp_path: Path) -> None:
    folder = odd_names(photos, tmp_path / "odd")
    for path in folder.rglob("*.bmp"):
        files().pipe_file(f"{BUCKET}/odd/{path.relative_to(folder).as_posix()}", path.read_bytes())
    stored = source.scan(locate(f"s3://{BUCKET}/odd"))
    assert stored.images == source.scan(folder).images
    assert stored.unreadable == ()


def test_a_run_lies_in_the_store_and_is_used_from_there(
    s3: S3Server, tlcli, photos: Path, tiny: Path, finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = put(photos, "run/photos"), f"s3://{BUCKET}/run/out"
    monkeypatch.setenv("TLCLI_REMOTE_CACHE", f"s3://{BUCKET}/run/cache")
    trained = tlcli("finetune", data, "-r", tiny, "-o", out, "--json")
    assert trained.code == 0, trained.stderr
    assert trained.document["run"] == out
    assert "a-secret-word" not in trained.stdout + trained.stderr
    written = [path.rpartition("/")[2] for method, path in s3.requests if method == "PUT" and "/run/out/" in path]
    assert sorted(written) == sorted(path.name for path in finished[0].iterdir())
    assert written[-1] == "run.json"
    # The same bytes give the same splits and, from the same weights, the same steps, wherever they lie.
    local = (finished[0] / "splits.csv").read_bytes()
    assert files().cat_file(f"{BUCKET}/run/out/splits.csv") == local
    assert json.loads(files().cat_file(f"{BUCKET}/run/out/run.json"))["data"]["path"] == data
    scored = tlcli("evaluate", out, "--json")
    assert scored.document["accuracy"] == trained.document["scores"]["test"]["accuracy"], scored.stderr
    again = tlcli("finetune", data, "-r", tiny, "-o", out)
    assert (again.code, "already exists and is not empty" in again.stderr) == (2, True)
    # Another machine finds the features instead of computing them.
    assert {path.rpartition("/")[2] for path in files().find(f"{BUCKET}/run/cache")} == {"data.npy", "notes.json"}
    s3.requests.clear()
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path / "other"))
    other = tlcli("finetune", data, "-r", tiny, "-o", tmp_path / "other-run", "--json")
    assert other.document["scores"]["val"]["loss"] == trained.document["scores"]["val"]["loss"]
    assert any(method == "GET" and path.endswith("data.npy") for method, path in s3.requests)
    assert not any(method == "PUT" for method, _ in s3.requests)


def test_passing_faults_are_repeated_and_lasting_ones_are_findings(s3: S3Server, tlcli, photos: Path) -> None:
    data = put(photos, "faults/photos")
    seen: dict[str, int] = {}

    def fail(method: str, path: str) -> int:
        seen[path] = seen.get(path, 0) + (method == "GET")
        if path.endswith("blue/03.bmp"):
            return 503
        if path.endswith("red/01.bmp"):
            return 403
        return {1: 500, 2: -1}.get(seen[path], 0) if path.endswith(".bmp") and method == "GET" else 0

    s3.fail = fail
    checked = tlcli("check", data, "--json")
    assert (checked.code, checked.document["images"]) == (3, 28), checked.stderr
    found = {finding["kind"]: finding for finding in checked.document["findings"]}
    assert found["unreadable"]["notes"] == {"blue/03.bmp": "cannot be read (the server answered 503, 5 times in a row)"}
    assert found["no_permission"]["paths"] == ["red/01.bmp"]
    assert seen[f"/{BUCKET}/faults/photos/blue/03.bmp"] == objects.ATTEMPTS


def test_a_store_that_cannot_be_listed_is_one_clear_error(
    s3: S3Server, tlcli, photos: Path, finished, tmp_path: Path
) -> None:
    data = put(photos, "listing/photos")
    s3.fail = lambda method, path: 503
    result = tlcli("plan", data)
    assert result.code == 2
    assert f"{data}: cannot be read (the server answered 503, 5 times in a row)" in result.stderr
    for command in (("check", data), ("predict", finished[0], data), ("pretrain", data, "-o", tmp_path / "card.yaml")):
        s3.fail = lambda method, path: 403
        denied = tlcli(*command)
        assert (denied.code, "access is denied" in denied.stderr) == (2, True), denied.stderr
        assert "Check the address and the credentials." in denied.stderr
    s3.fail = lambda method, path: 0
    missing = tlcli("plan", f"s3://{BUCKET}/nothing")
    assert (missing.code, "there are no files (given as DATA)" in missing.stderr) == (2, True), missing.stderr


def test_unchanged_objects_are_read_once_and_changed_ones_again(s3: S3Server, photos: Path, tmp_path: Path) -> None:
    data = put(photos, "once/photos")

    def read() -> int:
        # A new process has no listing yet.
        stores._objects.cache_clear()
        stores.folders.cache_clear()
        s3.requests.clear()
        source.scan(locate(data))
        return sum(method == "GET" and path.endswith(".bmp") for method, path in s3.requests)

    assert (read(), read()) == (30, 0)
    changed = tmp_path / "00.bmp"
    changed.write_bytes((photos / "blue" / "00.bmp").read_bytes() + b"more")
    put(changed, "once/photos/blue/00.bmp")
    assert read() == 1


def test_a_failed_upload_claims_nothing_and_resuming_finishes_it(
    s3: S3Server, tlcli, photos: Path, tiny: Path, tmp_path: Path
) -> None:
    out = f"s3://{BUCKET}/failed/out"
    s3.fail = lambda method, path: 500 if method == "PUT" and path.endswith("model.keras") else 0
    failed = tlcli("finetune", photos, "-r", tiny, "-o", out)
    assert failed.code == 1
    assert f"{out}/model.keras: cannot be read or written (the server answered 500" in failed.stderr
    assert not any(path.endswith("run.json") for path in files().find(f"{BUCKET}/failed"))
    s3.fail = lambda method, path: 0
    refused = tlcli("evaluate", out)
    assert (refused.code, f"Error: {out}: is not a run folder" in refused.stderr) == (2, True), refused.stderr
    anew = tlcli("finetune", photos, "-r", tiny, "-o", out)
    assert (anew.code, f"--resume {out}" in anew.stderr) == (2, True)
    assert f"--resume {out}" in failed.stderr
    resumed = tlcli("finetune", "--resume", out, "--json")
    assert (resumed.code, resumed.document["run"]) == (0, out), resumed.stderr
    assert tlcli("evaluate", out, "--json").code == 0


def test_faults_of_http_are_repeated_and_then_named_without_secrets(http: FileServer) -> None:
    http.files = {"a.jpg": b"x" * 5000}
    image = locate(f"{http.url}a.jpg")
    http.failures = [500, 503]
    assert image.read_bytes() == b"x" * 5000
    http.cut_after = [100, 4999]
    assert image.read_bytes() == b"x" * 5000
    for failures, cuts, kind, reason in (
        ([500] * 9, [], OSError, "the server answered 500, 5 times in a row"),
        ([], [10] * 9, OSError, "the answer was cut off, 5 times in a row"),
        ([404], [], FileNotFoundError, "there is no such object"),
        ([403], [], PermissionError, "access is denied: the server answered 403"),
    ):
        http.failures, http.cut_after = list(failures), list(cuts)
        with pytest.raises(kind) as caught:
            image.read_bytes()
        assert (caught.value.strerror, caught.value.filename) == (reason, f"{http.url}a.jpg")
    private = locate(f"{http.url.replace('//', '//me:word@')}b.jpg?signature=secret")
    assert str(private) == f"{http.url}b.jpg"
    with pytest.raises(FileNotFoundError) as missing:
        private.read_bytes()
    assert http.requests[-1][1] == "b.jpg?signature=secret"
    assert "word" not in repr(missing.value)
    assert "secret" not in repr(missing.value)


def test_a_server_that_fails_is_not_a_missing_object(http: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec says of every failure to ask about an object over HTTP that there is none."""
    monkeypatch.setattr(objects, "FIRST_WAIT_S", 0.001)
    http.files = {"a.jpg": b"x"}
    http.failures = [503] * 3
    assert objects.about(f"{http.url}a.jpg").bytes == 1
    http.failures = [503] * 99
    with pytest.raises(OSError, match="the server answered 503, 5 times in a row"):
        objects.about(f"{http.url}a.jpg")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/"
    for ask in (lambda: objects.about(f"{nobody}a.jpg"), lambda: objects.Objects(nobody).entries()):
        with pytest.raises(OSError, match="there is no connection"):
            ask()


def test_reads_run_ahead_of_each_other(http: FileServer) -> None:
    http.files = {f"{number}.jpg": bytes([number]) for number in range(32)}
    http.delay_s = 0.2
    began = time.perf_counter()
    contents = list(read_all([locate(f"{http.url}{name}") for name in http.files]))
    assert contents == list(http.files.values())
    assert time.perf_counter() - began < 32 * 0.2 / 2


def test_an_archive_behind_http_is_fetched_once(http: FileServer, tlcli, photos: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", photos))
    http.files = {"photos.zip": archive.read_bytes()}
    http.cut_after = [1000]
    for _ in range(2):
        checked = tlcli("check", f"{http.url}photos.zip", "--json")
        assert (checked.code, checked.document["images"]) == (0, 30), checked.stderr
    assert [method for method, _, _ in http.requests].count("GET") == 2
    missing = tlcli("check", f"{http.url}other.zip")
    assert (missing.code, "there is no such object" in missing.stderr) == (2, True)


def test_offline_and_unknown_addresses_are_refused_before_any_request(
    http: FileServer, tlcli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLCLI_OFFLINE", "1")
    for address in (f"{http.url}photos", f"{http.url}photos.zip"):
        result = tlcli("finetune", address)
        assert (result.code, "TLCLI_OFFLINE is set" in result.stderr) == (2, True), result.stderr
    assert http.requests == []
    assert "there are no ftp:// addresses" in tlcli("check", "ftp://host/photos").stderr
    assert "must be on this machine" in tlcli("tune", "photos", "-o", "s3://bucket/out").stderr
