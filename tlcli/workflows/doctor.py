"""Doctor: the versions, devices and folders that tlcli uses."""

import os
import shutil
from pathlib import Path
from typing import Any

import keras

from tlcli.paths import bundled, cache_dir, config_dir
from tlcli.recipe import load
from tlcli.report import extras
from tlcli.report.record import versions
from tlcli.zoo import catalogue, download, own, published


def examine() -> dict[str, Any]:
    """Versions, devices, folders and extras. Each section maps names to values."""
    obstacle = _obstacle(config_dir())
    return {
        "versions": versions(),
        "devices": {"backend": keras.backend.backend(), "found": ", ".join(keras.distribution.list_devices())}
        | {"cpus": str(os.cpu_count())},
        "folders": {
            "cache": _folder(cache_dir()),
            "downloaded weights": _folder(download.weights_cache()),
            "weights of Keras": _folder(published.keras_cache() / "models"),
            "own zoo": _folder(own.folder()),
            "settings": f"{config_dir()}{f' ({obstacle})' if obstacle else ''}",
            "recipes": f"{bundled('recipes')} ({len(load.names())})",
            "models": f"{bundled('models')} ({len(catalogue.load())})",
        },
        "extras": extras.states(),
    }


def _folder(path: Path) -> str:
    if not path.is_dir():
        return f"{path} ({_obstacle(path) or 'not there yet'})"
    used = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    locked = "" if os.access(path, os.W_OK) else ", cannot be written"
    return f"{path} ({used / 1e6:.0f} MB used, {shutil.disk_usage(path).free / 1e9:.0f} GB free{locked})"


def _obstacle(path: Path) -> str:
    """Why a folder cannot be made: a file is where it or a folder above it should be. Empty if nothing is."""
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if nearest.is_dir():
        return ""
    return f"{'' if nearest == path else f'{nearest} '}is a file, not a folder"
