"""`--cluster`: addresses that cannot work, and a missing Ray, are one clear error before anything is done."""

import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest

from tlcli.cluster.connection import current, use_cluster


@pytest.fixture
def has_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses are checked before Ray is used, so any module will do."""
    for name in ("ray", "ray._private", "ray._private.worker"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))


@pytest.mark.usefixtures("has_ray")
@pytest.mark.parametrize("address", ["here", "ray://head:10001", "head:port", ":6379"])
def test_an_address_that_is_none_is_refused(tlcli: Callable, photos: Path, address: str) -> None:
    result = tlcli("finetune", photos, "--cluster", address)
    assert result.code == 2
    assert f"--cluster: is no address (got '{address}'). Give local, auto or HOST:PORT." in result.stderr


@pytest.mark.usefixtures("has_ray")
def test_an_address_where_nothing_answers_is_refused(tlcli: Callable, photos: Path) -> None:
    result = tlcli("tune", photos, "--cluster", "127.0.0.1:1")
    assert result.code == 2
    assert "there is no Ray cluster at 127.0.0.1:1" in result.stderr
    assert "ray start --head" in result.stderr


@pytest.mark.usefixtures("has_ray")
def test_a_server_of_another_kind_is_refused(tlcli: Callable, photos: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        result = tlcli("probe", photos, "--cluster", f"127.0.0.1:{server.server_port}")
    assert result.code == 2
    assert "something else answers there" in result.stderr


def test_a_missing_library_names_the_extra(tlcli: Callable, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = tlcli("probe", photos, "--cluster", "local")
    assert result.code == 2
    assert "pip install 'tlcli[ray]'" in result.stderr


def test_there_is_no_cluster_without_the_option() -> None:
    with use_cluster(None) as cluster:
        assert cluster is current() is None
