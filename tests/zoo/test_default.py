"""The network for `auto`: MobileNetV2 with weights in the cache or on a server, else the bundled network."""

import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tlcli.errors import WeightsError
from tlcli.zoo import catalogue, default
from tlcli.zoo.download import RemoteFile

FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{}_no_top.h5"


@dataclass
class Server:
    """The names of the files on a server, and its requests (method, path)."""

    files: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for Keras's weights."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "keras" / "models").mkdir(parents=True)
    return tmp_path / "keras" / "models"


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local server in place of the one with the weights."""
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            state.requests.append((self.command, self.path))
            self.send_response(200 if self.path.rpartition("/")[2] in state.files else 404)
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("TLCLI_MIRROR", f"http://127.0.0.1:{running.server_port}/v2/")
        yield state
        running.shutdown()
        thread.join()


def choose(arguments: dict | None = None, size: tuple[int, int] | None = None, weights: str | None = None) -> str:
    return default.choose_default(arguments or {}, size, weights).name


def test_weights_in_the_cache_are_enough(cache: Path) -> None:
    assert choose() == "mobilenet_synthetic"
    (cache / FILE.format("1.0_224")).write_bytes(b"weights")
    assert default.choose_default({}, None, None) == default.Choice("mobilenet_v2", "")
    assert choose(size=(96, 96)) == "mobilenet_synthetic", "another size has other weights"
    assert choose(size=(100, 100)) == "mobilenet_v2", "a size without published weights uses those for 224"
    assert choose(size=(96, 224)) == "mobilenet_v2"


def test_a_cache_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert choose() == "mobilenet_synthetic"
    (tmp_path / ".keras" / "models").mkdir(parents=True)
    (tmp_path / ".keras" / "models" / FILE.format("1.0_224")).write_bytes(b"weights")
    assert choose() == "mobilenet_v2"


def test_a_server_that_has_the_weights_is_enough(server: Server) -> None:
    server.files = {FILE.format("1.0_160")}
    assert choose(size=(160, 160)) == "mobilenet_v2"
    assert server.requests == [("HEAD", f"/v2/{FILE.format('1.0_160')}")], "one request, no download"


def test_a_server_without_the_file_is_not_enough(server: Server) -> None:
    server.files = {FILE.format("1.0_160")}
    assert choose() == "mobilenet_synthetic"
    assert len(server.requests) == 1


def test_a_cached_file_needs_no_request(server: Server, cache: Path) -> None:
    (cache / FILE.format("1.0_224")).write_bytes(b"weights")
    assert choose() == "mobilenet_v2"
    assert server.requests == []


@pytest.mark.parametrize("weights", ["random", "mine.weights.h5"])
def test_given_weights_need_no_request(server: Server, weights: str) -> None:
    assert choose(weights=weights) == "mobilenet_v2"
    assert server.requests == []


def test_arguments_that_the_bundled_network_lacks_give_mobilenet_v2(server: Server) -> None:
    assert choose({"alpha": 0.35}) == "mobilenet_v2"
    assert choose({"alpha": "wide"}) == "mobilenet_v2", "the error comes when the network is built"
    assert server.requests == []
    own = catalogue.find("mobilenet_synthetic").arguments
    assert choose(own) == "mobilenet_synthetic"
    assert server.requests == [], "Keras publishes no weights for this width"


def test_proxies_are_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the proxy reaches the file."""
    server.files = {FILE.format("1.0_224")}
    monkeypatch.setenv("http_proxy", os.environ["TLCLI_MIRROR"].removesuffix("v2/"))
    monkeypatch.setenv("TLCLI_MIRROR", "http://weights.invalid/v2/")
    assert choose() == "mobilenet_v2"
    assert server.requests == [("HEAD", f"http://weights.invalid/v2/{FILE.format('1.0_224')}")]


def test_a_silent_server_is_not_waited_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "WAIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("TLCLI_MIRROR", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        began = time.perf_counter()
        assert choose() == "mobilenet_synthetic"
        assert time.perf_counter() - began < 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://weights.invalid/", "nonsense", "http://[/"])
def test_every_failure_means_that_the_file_cannot_be_fetched(url: str) -> None:
    assert default.can_fetch(RemoteFile("x.h5", url)) is False


def test_the_timeout_is_at_most_three_seconds() -> None:
    assert default.WAIT_S <= 3


def test_the_notice_gives_reason_consequence_and_next_step(cache: Path) -> None:
    notice = default.choose_default({}, None, None).notice
    for text in (
        "ImageNet weights of mobilenet_v2 are neither cached nor reachable",
        "'mobilenet_synthetic'",
        "synthetic images",
        f"{catalogue.find('mobilenet_synthetic').size} × ",
        "lower accuracy",
        "--model mobilenet_v2",
        "--weights FILE",
        "docs/recipes.md",
    ):
        assert text in notice
    assert str(cache) not in notice, "records contain no folders"


def test_offline_asks_nobody(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files = {FILE.format("1.0_224")}
    monkeypatch.setenv("TLCLI_OFFLINE", "1")
    assert choose() == "mobilenet_synthetic"
    assert server.requests == []


def test_a_mirror_that_is_none_is_an_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLCLI_MIRROR", "ftp://x")
    with pytest.raises(WeightsError, match="TLCLI_MIRROR"):
        choose()
