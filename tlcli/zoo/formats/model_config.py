"""The configuration inside a Keras model file: its layers as plain dictionaries, read without Keras."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.errors import ModelError
from tlcli.paths import DAMAGED_ZIP
from tlcli.text import why_unreadable
from tlcli.zoo.formats import content

_DAMAGED = "The file may be damaged or incomplete; fetch it again."


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of a model.

    Attributes:
        tree: Class name and configuration of the model; that of Keras 2 is rewritten for Keras 3.
        is_keras_2: True if Keras 2 or 1 wrote the file.
    """

    tree: dict[str, Any]
    is_keras_2: bool

    def layers(self) -> list[tuple[str, dict[str, Any]]]:
        """Class name and configuration of each layer, in order, including the layers of nested models."""
        return list(_layers(self.tree))


def read(path: Path) -> ModelConfig:
    """Read the configuration of a `.keras`, `.h5` or `.hdf5` file.

    Raises:
        ModelError: The file is not a model, or Keras 2 wrote it with layers that have no counterpart in Keras 3.
    """
    text, version = _read_archive(path) if path.suffix.lower() == ".keras" else _read_hdf5(path)
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise ModelError(
            f"has an invalid model configuration ({why_unreadable(error)})", where=str(path), hint=_DAMAGED
        ) from error
    if not isinstance(tree, dict):
        raise ModelError("has no model configuration", where=str(path), hint=_DAMAGED)
    if version >= "3":
        return ModelConfig(tree, is_keras_2=False)
    from tlcli.zoo.formats import keras_2

    return ModelConfig(keras_2.convert(tree, path), is_keras_2=True)


def _read_archive(path: Path) -> tuple[str | bytes, str]:
    """The configuration in a `.keras` archive as JSON, and the version of Keras; 3 if it is not stated."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json")
            metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in archive.namelist() else {}
    except DAMAGED_ZIP as error:
        why = content.reason(path, error, "a zip archive")
        raise ModelError(f"is not a Keras model: {why}", where=str(path), hint=_DAMAGED) from error
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    return config, str(version or "3")


def _read_hdf5(path: Path) -> tuple[str | bytes, str]:
    """The configuration in a legacy HDF5 file as JSON, and the version of Keras; 1 if it is not stated."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config: str | bytes | None = file.attrs.get("model_config")
            version = file.attrs.get("keras_version", "1")
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        why = content.reason(path, error, "an HDF5 file")
        raise ModelError(f"is not a Keras model: {why}", where=str(path), hint=_DAMAGED) from error
    if config is None:
        raise ModelError(
            "holds weights but no model",
            where=str(path),
            hint="Name the network, and use the file as its weights:"
            f" --model NAME --weights {path} (for inspect: NAME --set model.weights={path}).",
        )
    return config, version.decode() if isinstance(version, bytes) else str(version)


def _layers(tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    inner = tree.get("config")
    # The oldest Sequential files have the list of layers here.
    children = inner.get("layers") if isinstance(inner, dict) else inner
    if isinstance(children, list):
        for child in children:
            yield from _layers(child)
    elif isinstance(inner, dict):
        yield str(tree.get("class_name")), inner
