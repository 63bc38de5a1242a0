"""What all tests share: a scrubbed environment and the sample material."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Quiet TensorFlow's C++ start-up lines; set before any test imports it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every test has a cache of its own and no settings of the person who runs it."""
    for name in [name for name in os.environ if name.startswith("TLCLI_") and name != "TLCLI_TEST_DATA"]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a sample set by name. `TLCLI_TEST_DATA` holds folders or tars; skips where there are none."""
    home = Path(os.environ.get("TLCLI_TEST_DATA", CHECKOUT.parent / "shared" / "data"))
    unpacked = tmp_path_factory.mktemp("samples")

    def find(name: str) -> Path:
        if (home / name).is_dir():
            return home / name
        for archive in (home / f"{name}.tar", home / f"weights_{name}.tar"):
            if archive.is_file() and not (unpacked / name).is_dir():
                with tarfile.open(archive) as tar:
                    tar.extractall(unpacked, filter="data")
        if not (unpacked / name).is_dir():
            pytest.skip(f"sample data '{name}' is not in {home} (set TLCLI_TEST_DATA)")
        return unpacked / name

    return find
