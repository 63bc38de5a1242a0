"""Load weights files into networks: Keras 3 `.weights.h5` and `.keras`, legacy Keras 1 and 2 `.h5`. Save `.weights.h5`.

The format of a file is recognised by its content, not by its name. The arrays of the file are paired with those of the
network. Weights are assigned only if each array has a counterpart of the same shape, and are read back afterwards.
"""

import hashlib
import io
import json
import re
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np

from tlcli.errors import WeightsError
from tlcli.paths import replacing
from tlcli.zoo.formats import content

_SHOWN_LAYERS = 5
_FETCH_AGAIN = "The file may be damaged or incomplete; fetch it again."


def load(network: keras.Model, path: Path, *, with_top: Callable[[], keras.Model]) -> None:
    """Load weights into a network without top, from a file with or without the network's original top.

    Args:
        network: Network without top. Either all its weights are replaced or none.
        path: `.weights.h5`, `.h5`, `.hdf5` or `.keras`.
        with_top: Builds the same network with its classification top, for any number of classes. Called only if the
            file has more arrays than `network`, without allocating memory for the weights.

    Raises:
        WeightsError: The file is missing, damaged, or belongs to another network.
    """
    with _open_hdf5(path) as file:
        pairs = _fitting_pairs(file, network, path, with_top)
        arrays = [_read(pair.dataset, file) for pair in pairs]
    _assign(network, [pair.variable for pair in pairs], arrays, path)


def check(network: keras.Model, path: Path, *, with_top: Callable[[], keras.Model]) -> None:
    """Check that weights could be loaded, by the shapes of the arrays; their values are not read. See `load`.

    Raises:
        WeightsError: The file is missing, damaged, or belongs to another network.
    """
    with _open_hdf5(path) as file:
        _fitting_pairs(file, network, path, with_top)


def save(network: keras.Model, path: Path, *, half: bool) -> str:
    """Save the weights of a network in the format of Keras, atomically.

    `load` and Keras's `load_weights` read the file. Equal weights give equal files.

    Args:
        network: All its weights are saved, including the state of random generators.
        path: The file to create or replace, `.weights.h5`.
        half: Save arrays with two or more dimensions (kernels) as float16 if their values fit. Vectors, such as the
            statistics of BatchNorm, stay as they are.

    Returns:
        sha256 of the file, hexadecimal.
    """
    with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
        whole = Path(folder) / "whole.weights.h5"
        network.save_weights(whole)
        with h5py.File(whole, "r") as source, h5py.File(temporary, "w") as target:
            _copy(source, target, half=half)
        with temporary.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy all weights from `source` to `target`, a network with the same layers."""
    target.set_weights(source.get_weights())
    _update_normalization(target)


@dataclass(frozen=True)
class _Pair:
    """An array of a network and its counterpart in a file; one of them is None if it is missing."""

    layer: str
    name: str
    variable: Any
    dataset: Any

    @property
    def fits(self) -> bool:
        return self.is_matched and tuple(self.variable.shape) == self.dataset.shape

    @property
    def is_matched(self) -> bool:
        return self.variable is not None and self.dataset is not None

    @property
    def fits_but_for_classes(self) -> bool:
        return self.is_matched and tuple(self.variable.shape)[:-1] == self.dataset.shape[:-1]

    def __str__(self) -> str:
        network = tuple(self.variable.shape) if self.variable is not None else "nothing"
        file = self.dataset.shape if self.dataset is not None else "nothing"
        return f"{self.layer} {self.name}: network {network}, file {file}"


def _copy(source: h5py.Group, target: h5py.Group, *, half: bool) -> None:
    """Copy all groups, arrays and attributes, in the order of their names."""
    for name, value in source.attrs.items():
        target.attrs[name] = value
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            _copy(item, target.create_group(name), half=half)
            continue
        array = item[()]
        dataset = target.create_dataset(name, data=_to_half(array) if half else array)
        for key, value in item.attrs.items():
            dataset.attrs[key] = value


def _to_half(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array as float16, or as it is if it is not float32, has fewer than two dimensions or values out of range."""
    if array.dtype != np.float32 or array.ndim < 2 or np.abs(array).max(initial=0) > np.finfo(np.float16).max:
        return array
    return array.astype(np.float16)


@contextmanager
def _open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open the HDF5 content of a weights file. Errors while it is open become WeightsErrors, too."""
    if not path.is_file():
        raise WeightsError(
            "there is no such file", where=str(path), hint="Give the path of a .weights.h5, .h5 or .keras file."
        )
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
                yield file
        else:
            with h5py.File(path, "r") as file:
                yield file
    except (OSError, KeyError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        why = content.reason(path, error, "a zip archive" if zipfile.is_zipfile(path) else "an HDF5 file")
        raise WeightsError(f"cannot be read as Keras weights: {why}", where=str(path), hint=_FETCH_AGAIN) from error


def _fitting_pairs(
    file: h5py.File, network: keras.Model, path: Path, with_top: Callable[[], keras.Model]
) -> list[_Pair]:
    """All arrays of a network with their counterparts in a file.

    Raises:
        WeightsError: Some differ.
    """
    pairs = _pairs(file, network)
    if _has_extra_arrays(pairs):
        pairs = _check_with_top(pairs, file, network, with_top)
    if wrong := [pair for pair in pairs if not pair.fits]:
        raise _mismatch_error(wrong, pairs, network.name, path=path, stored_name=_stored_name(file))
    return pairs


def _pairs(file: h5py.File, network: keras.Model) -> list[_Pair]:
    """All arrays of a file and a network in pairs, for each of the formats."""
    if _names(file, "layer_names"):
        return list(_pairs_by_order(file, network))
    if "model_weights" in file:
        return list(_pairs_by_order(file["model_weights"], network))
    return list(_pairs_by_path(file, network))


def _pairs_by_order(group: h5py.Group, network: keras.Model) -> Iterator[_Pair]:
    """Pairs for legacy files: layers with weights by order, not by name; trainable weights first in each layer."""
    in_network = [(layer.name, layer.trainable_weights + layer.non_trainable_weights) for layer in network.layers]
    in_file = [
        (name, [group[name][weight] for weight in _names(group[name], "weight_names")])
        for name in _names(group, "layer_names")
    ]
    no_layer: tuple[str, list[Any]] = ("", [])
    for (layer, variables), (file_layer, datasets) in zip_longest(
        [layer for layer in in_network if layer[1]], [layer for layer in in_file if layer[1]], fillvalue=no_layer
    ):
        for variable, dataset in zip_longest(variables, datasets):
            name = variable.name if variable is not None else dataset.name.rpartition("/")[2].partition(":")[0]
            yield _Pair(layer or file_layer, name, variable, dataset)


def _pairs_by_path(file: h5py.File, network: keras.Model) -> Iterator[_Pair]:
    """Pairs for Keras 3 files: the path of a layer is its kind and a count, and its arrays are numbered."""
    # TensorFlow 2.12 and 2.13 used another name.
    root = "layers" if "layers" in file else "_layer_checkpoint_dependencies"
    paired = set()
    for path, layer in _storage_paths(network, root):
        for number, variable in enumerate(layer.weights):
            dataset = file.get(f"{path}/vars/{number}")
            paired.add(f"{path}/vars/{number}")
            yield _Pair(layer.name, variable.name, variable, dataset)
    for key in _array_keys(file):
        if key.startswith(f"{root}/") and key not in paired:
            dataset = file[key]
            layer_name = str(dataset.parent.attrs.get("name", key.partition("/vars")[0]))
            yield _Pair(layer_name, dataset.name.rpartition("/")[2], None, dataset)


def _storage_paths(model: keras.Model, root: str, prefix: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Layers and their paths in Keras 3 files: `layers/conv2d`, `layers/conv2d_1`, `layers/sequential/layers/…`."""
    count: Counter[str] = Counter()
    for layer in model.layers:
        kind = _snake_case(type(layer).__name__)
        path = f"{prefix}{root}/{kind}_{count[kind]}" if count[kind] else f"{prefix}{root}/{kind}"
        count[kind] += 1
        if isinstance(layer, keras.Model):
            yield from _storage_paths(layer, root, f"{path}/")
        else:
            yield path, layer


def _snake_case(name: str) -> str:
    """A class name as Keras 3 spells it in files: `DepthwiseConv2D` → `depthwise_conv2d`, `ReLU` → `re_lu`."""
    split = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", split).lower()


def _array_keys(file: h5py.File) -> list[str]:
    """Paths of all weights in a file, without the state of random generators (dropout)."""
    keys: list[str] = []
    file.visititems(lambda key, item: keys.append(key) if isinstance(item, h5py.Dataset) else None)
    return [key for key in keys if "generator/" not in key]


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names from the attributes of a group. Long lists are stored in numbered pieces."""
    pieces = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(pieces)}" in group.attrs:
        pieces.append(f"{attribute}{len(pieces)}")
    names = [name for piece in pieces for name in group.attrs[piece]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _has_extra_arrays(pairs: list[_Pair]) -> bool:
    """True if the file has all arrays of the network, and others."""
    return any(pair.variable is None for pair in pairs) and all(
        pair.fits for pair in pairs if pair.variable is not None
    )


def _check_with_top(
    pairs: list[_Pair], file: h5py.File, network: keras.Model, with_top: Callable[[], keras.Model]
) -> list[_Pair]:
    """Check a file with top against the whole network. Returns mismatches if any, else the pairs below the top."""
    with keras.StatelessScope(initialize_variables=False):
        whole = _pairs(file, with_top())
    last = whole[-1].layer
    wrong = [pair for pair in whole if not (pair.fits_but_for_classes if pair.layer == last else pair.fits)]
    return wrong or [pair for pair in pairs if pair.variable is not None]


def _stored_name(file: h5py.File) -> str:
    """The name of the network in the file, or the empty string."""
    if "vars" in file:
        return str(file["vars"].attrs.get("name", ""))
    config = json.loads(file.attrs.get("model_config", "{}")).get("config")
    return str(config.get("name", "")) if isinstance(config, dict) else ""


def _mismatch_error(
    wrong: list[_Pair], pairs: list[_Pair], network: str, *, path: Path, stored_name: str
) -> WeightsError:
    # One array per layer, the first, is enough for the message.
    layers = list({pair.layer: pair for pair in reversed(wrong)}.values())[::-1]
    shown = "; ".join(map(str, layers[:_SHOWN_LAYERS]))
    rest = f"; and {len(layers) - _SHOWN_LAYERS} more layers" if len(layers) > _SHOWN_LAYERS else ""
    name_hint = f" The network in the file is '{stored_name}'." if stored_name else ""
    return WeightsError(
        f"does not fit {network}, {len(wrong)} of {len(pairs)} arrays differ: {shown}{rest}",
        where=str(path),
        hint=_mismatch_hint(wrong, pairs) + name_hint,
    )


def _mismatch_hint(wrong: list[_Pair], pairs: list[_Pair]) -> str:
    if all(pair.is_matched and len(pair.variable.shape) == pair.dataset.ndim for pair in pairs):
        return "It looks like the same network at another width: set model.arguments (alpha) to match the file."
    if all(pair.dataset is None for pair in wrong) and len(wrong) < len(pairs) / 2:
        return "It looks incomplete; fetch it again."
    return "It looks like another network: choose it with --model. For a whole model: --model FILE."


def _read(dataset: h5py.Dataset, file: h5py.File) -> np.ndarray[Any, Any]:
    """Read one array. Arrays that are stored in other files are rejected."""
    if dataset.external or dataset.is_virtual or dataset.file.filename != file.filename:
        raise OSError(f"{dataset.name} is stored in another file")
    array = np.asarray(dataset[()])
    if dataset.attrs.get("dtype") == "bfloat16":
        array = array.view(ml_dtypes.bfloat16).astype(np.float32)
    if array.dtype.kind not in "fiu":
        raise OSError(f"{dataset.name} is not numeric")
    if not np.isfinite(array).all():
        raise OSError(f"{dataset.name} has infinite or NaN values")
    return array


def _assign(network: keras.Model, variables: list[Any], arrays: list[np.ndarray[Any, Any]], path: Path) -> None:
    """Assign all weights and read them back."""
    if {id(variable) for variable in variables} != {id(variable) for variable in network.weights}:
        raise WeightsError(f"{network.name} has nested layers that cannot be loaded", where=str(path))
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    _update_normalization(network)
    for variable, array in zip(variables, arrays, strict=True):
        if not np.array_equal(keras.ops.convert_to_numpy(variable), array.astype(variable.dtype)):
            raise WeightsError(f"{variable.path} differs from the file after loading", where=str(path))


def _update_normalization(network: keras.Model) -> None:
    """Update the values that Normalization layers derive from their weights."""
    for _, layer in _storage_paths(network, "layers"):
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.finalize_state()
