"""Which network `auto` is: by weights in the cache, by a server that answers, else the one that comes along."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tlcli.zoo import catalogue, default

FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{}_no_top.h5"


@dataclass
class Server:
    """What is on offer, and what was asked for."""

    offered: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keras's folder for weights, empty."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "keras" / "models").mkdir(parents=True)
    return tmp_path / "keras" / "models"


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server in the place of the one that has the weights."""
    found = Server()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            found.asked.append((self.command, self.path))
            self.send_response(200 if self.path.rpartition("/")[2] in found.offered else 404)
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setattr(default, "BASE_URL", f"http://127.0.0.1:{running.server_port}/v2/")
        yield found
        running.shutdown()
        thread.join()


def chosen(arguments: dict | None = None, size: tuple[int, int] | None = None, weights: str | None = None) -> str:
    return default.choose_default(arguments or {}, size, weights).name


def test_weights_in_the_cache_are_enough(cache: Path) -> None:
    assert chosen() == "mobilenet_synthetic"
    (cache / FILE.format("1.0_224")).write_bytes(b"weights")
    assert default.choose_default({}, None, None) == default.Choice("mobilenet_v2", "")
    assert chosen(size=(96, 96)) == "mobilenet_synthetic", "another size has other weights"
    assert chosen(size=(100, 100)) == "mobilenet_v2", "a size without weights of its own takes those for 224"
    assert chosen(size=(96, 224)) == "mobilenet_v2"


def test_a_cache_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert chosen() == "mobilenet_synthetic"
    (tmp_path / ".keras" / "models").mkdir(parents=True)
    (tmp_path / ".keras" / "models" / FILE.format("1.0_224")).write_bytes(b"weights")
    assert chosen() == "mobilenet_v2"


def test_a_server_that_has_the_weights_is_enough(server: Server) -> None:
    server.offered = {FILE.format("1.0_160")}
    assert chosen(size=(160, 160)) == "mobilenet_v2"
    assert server.asked == [("HEAD", f"/v2/{FILE.format('1.0_160')}")], "asked once, and nothing fetched"


def test_a_server_without_the_weights_does_not_count(server: Server) -> None:
    server.offered = {FILE.format("1.0_160")}
    assert chosen() == "mobilenet_synthetic"
    assert len(server.asked) == 1


def test_a_cached_file_asks_nobody(server: Server, cache: Path) -> None:
    (cache / FILE.format("1.0_224")).write_bytes(b"weights")
    assert chosen() == "mobilenet_v2"
    assert server.asked == []


@pytest.mark.parametrize("weights", ["random", "mine.weights.h5"])
def test_weights_of_ones_own_need_nothing(server: Server, weights: str) -> None:
    assert chosen(weights=weights) == "mobilenet_v2"
    assert server.asked == []


def test_a_width_that_the_bundled_network_does_not_have_is_wanted(server: Server) -> None:
    assert chosen({"alpha": 0.35}) == "mobilenet_v2"
    assert chosen({"alpha": "wide"}) == "mobilenet_v2", "whoever builds it tells what is wrong"
    assert server.asked == []
    own = catalogue.find("mobilenet_synthetic").arguments
    assert chosen(own) == "mobilenet_synthetic"
    assert server.asked == [("HEAD", f"/v2/{FILE.format(str(float(own.get('alpha', 1.0))) + '_224')}")]


def test_proxies_are_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the proxy is the only way, and it has the file."""
    server.offered = {FILE.format("1.0_224")}
    monkeypatch.setenv("http_proxy", default.BASE_URL.removesuffix("v2/"))
    monkeypatch.setattr(default, "BASE_URL", "http://weights.invalid/v2/")
    assert chosen() == "mobilenet_v2"
    assert server.asked == [("HEAD", f"http://weights.invalid/v2/{FILE.format('1.0_224')}")]


def test_a_silent_server_is_not_waited_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "WAIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(default, "BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        began = time.perf_counter()
        assert chosen() == "mobilenet_synthetic"
        assert time.perf_counter() - began < 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://weights.invalid/", "nonsense", "http://[/"])
def test_whatever_goes_wrong_is_a_no(url: str) -> None:
    assert default.can_fetch(url) is False


def test_the_wait_is_short() -> None:
    assert default.WAIT_S <= 3


def test_the_notice_says_why_at_what_cost_and_what_to_do(cache: Path) -> None:
    notice = default.choose_default({}, None, None).notice
    for text in (
        "ImageNet weights of mobilenet_v2 are neither in Keras's cache nor can they be fetched",
        "'mobilenet_synthetic'",
        "synthetic images",
        f"{catalogue.find('mobilenet_synthetic').size} × ",
        "lower accuracy",
        "--model mobilenet_v2",
        "--weights FILE",
        "docs/recipes.md",
    ):
        assert text in notice
    assert str(cache) not in notice, "it goes into records, which name no folders"


def test_the_file_and_the_server_are_those_of_keras(cache: Path) -> None:
    """What Keras asks for, it tells in its error; a process of its own, as KERAS_HOME is read at import."""
    code = """
import keras
from keras.src.applications import mobilenet_v2
from tlcli.zoo import default
assert mobilenet_v2.BASE_WEIGHT_PATH == default.BASE_URL
for alpha, size in ((0.35, (96, 96)), (1, (64, 96)), (0.75, (100, 100))):
    try:
        keras.applications.MobileNetV2(input_shape=(*size, 3), alpha=alpha, include_top=False)
    except Exception as error:
        file = default.weights_file({"alpha": alpha}, size)
        assert f"{default.BASE_URL}{file}" in str(error), (file, str(error))
    else:
        raise AssertionError("the internet was reached")
assert keras.src.backend.config.keras_home() == str(default.keras_cache())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
