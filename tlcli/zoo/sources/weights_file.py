"""Local weights into a network, all or nothing: Keras 3 `.weights.h5` and `.keras`, legacy Keras 1 and 2 `.h5`.

A file is told by its content, not by its name. Its arrays are laid beside the network's; only when every one has
its counterpart of the same shape is anything assigned, and what was assigned is read back.

The other way, `save` writes a Keras 3 `.weights.h5`, in half the bytes where that is wanted.
"""

import hashlib
import io
import json
import re
import tempfile
import zipfile
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

_SHOWN = 5
_DAMAGED = "The file may be damaged or only partly copied; fetch it again."


def load(network: keras.Model, path: Path, *, with_top: Callable[[], keras.Model]) -> None:
    """Fill a network without top from a file with or without the network's own ImageNet top.

    Args:
        network: Network without top; all its weights are replaced, or none.
        path: `.weights.h5`, `.h5`, `.hdf5` or `.keras`.
        with_top: Builds the same network with its classification top, for any number of classes. Asked only when
            the file holds more than `network`; built without memory for its weights.

    Raises:
        WeightsError: The file is missing, damaged, or made for another network.
    """
    with _opened(path) as file:
        places = _places(file, network)
        if _has_more(places):
            places = _below_top(places, file, network, with_top)
        if wrong := [place for place in places if not place.fits]:
            raise _misfit(wrong, places, network.name, path=path, calls_itself=_own_name(file))
        arrays = [_read(place.dataset, file) for place in places]
    _assign(network, [place.variable for place in places], arrays, path)


def save(network: keras.Model, path: Path, *, half: bool) -> str:
    """Write the weights of a network as Keras lays them out, atomically; `load` and `load_weights` read them.

    The same weights give the same bytes.

    Args:
        network: All its weights are written, the state of random generators too.
        path: The file to make or replace, `.weights.h5`.
        half: Store arrays of two and more dimensions (kernels) as float16 where it holds their values; vectors, such
            as the statistics of BatchNorm, stay as they are.

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
    """Give `target` the weights of `source`, a network of the same layers."""
    target.set_weights(source.get_weights())
    _settle(target)


@dataclass(frozen=True)
class _Place:
    """One array of a network beside its counterpart in a file; either is None where it is missing."""

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
        found = self.dataset.shape if self.dataset is not None else "nothing"
        return f"{self.layer} {self.name}: network {network}, file {found}"


def _copy(source: h5py.Group, target: h5py.Group, *, half: bool) -> None:
    """All groups, arrays and attributes, in the order of their names."""
    for name, value in source.attrs.items():
        target.attrs[name] = value
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            _copy(item, target.create_group(name), half=half)
            continue
        array = item[()]
        dataset = target.create_dataset(name, data=_halved(array) if half else array)
        for key, value in item.attrs.items():
            dataset.attrs[key] = value


def _halved(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype != np.float32 or array.ndim < 2 or np.abs(array).max(initial=0) > np.finfo(np.float16).max:
        return array
    return array.astype(np.float16)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The HDF5 content of a weights file; failures to read it, also later ones, become WeightsErrors."""
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
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise WeightsError(f"cannot be read as Keras weights ({error})", where=str(path), hint=_DAMAGED) from error


def _places(file: h5py.File, network: keras.Model) -> list[_Place]:
    if _names(file, "layer_names"):
        return list(_places_in_order(file, network))
    if "model_weights" in file:
        return list(_places_in_order(file["model_weights"], network))
    return list(_places_by_path(file, network))


def _places_in_order(group: h5py.Group, network: keras.Model) -> Iterator[_Place]:
    """Legacy files: layers with weights in order, whatever their names; in a layer the trainable weights first."""
    ours = [(layer.name, layer.trainable_weights + layer.non_trainable_weights) for layer in network.layers]
    theirs = [
        (name, [group[name][weight] for weight in _names(group[name], "weight_names")])
        for name in _names(group, "layer_names")
    ]
    nothing: tuple[str, list[Any]] = ("", [])
    for (name, variables), (other, datasets) in zip_longest(
        [layer for layer in ours if layer[1]], [layer for layer in theirs if layer[1]], fillvalue=nothing
    ):
        for variable, dataset in zip_longest(variables, datasets):
            label = variable.name if variable is not None else dataset.name.rpartition("/")[2].partition(":")[0]
            yield _Place(name or other, label, variable, dataset)


def _places_by_path(file: h5py.File, network: keras.Model) -> Iterator[_Place]:
    """Keras 3 files: every layer has a path made of its kind and a count, its arrays are numbered."""
    # TensorFlow 2.12 and 2.13 used another word for the same thing.
    root = "layers" if "layers" in file else "_layer_checkpoint_dependencies"
    taken = set()
    for path, layer in _storage_paths(network, root):
        for number, variable in enumerate(layer.weights):
            dataset = file.get(f"{path}/vars/{number}")
            taken.add(f"{path}/vars/{number}")
            yield _Place(layer.name, variable.name, variable, dataset)
    for key in _array_keys(file):
        if key.startswith(f"{root}/") and key not in taken:
            group = file[key].parent
            yield _Place(
                str(group.attrs.get("name", key.partition("/vars")[0])),
                file[key].name.rpartition("/")[2],
                None,
                file[key],
            )


def _storage_paths(model: keras.Model, root: str, prefix: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Where Keras 3 keeps each layer: `layers/conv2d`, `layers/conv2d_1`, nested `layers/sequential/layers/…`."""
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
    """`DepthwiseConv2D` → `depthwise_conv2d`, `ReLU` → `re_lu`: the spelling in Keras 3 files."""
    split = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", split).lower()


def _array_keys(file: h5py.File) -> list[str]:
    """Paths of all arrays that are weights; the state of random generators (dropout) is none."""
    keys: list[str] = []
    file.visititems(lambda key, item: keys.append(key) if isinstance(item, h5py.Dataset) else None)
    return [key for key in keys if "generator/" not in key]


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names among the attributes; long lists are stored in numbered pieces."""
    pieces = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(pieces)}" in group.attrs:
        pieces.append(f"{attribute}{len(pieces)}")
    names = [name for piece in pieces for name in group.attrs[piece]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _has_more(places: list[_Place]) -> bool:
    """True where the file holds all of the network, and something besides."""
    return any(place.variable is None for place in places) and all(
        place.fits for place in places if place.variable is not None
    )


def _below_top(
    places: list[_Place], file: h5py.File, network: keras.Model, with_top: Callable[[], keras.Model]
) -> list[_Place]:
    """Check a file with top against the whole network, and keep what lies below the top."""
    with keras.StatelessScope(initialize_variables=False):
        whole = _places(file, with_top())
    last = whole[-1].layer
    wrong = [place for place in whole if not (place.fits_but_for_classes if place.layer == last else place.fits)]
    return wrong or [place for place in places if place.variable is not None]


def _own_name(file: h5py.File) -> str:
    """What the file calls its network, or the empty string."""
    if "vars" in file:
        return str(file["vars"].attrs.get("name", ""))
    config = json.loads(file.attrs.get("model_config", "{}")).get("config")
    return str(config.get("name", "")) if isinstance(config, dict) else ""


def _misfit(wrong: list[_Place], places: list[_Place], network: str, *, path: Path, calls_itself: str) -> WeightsError:
    # The first array of a layer is enough to know it by.
    layers = list({place.layer: place for place in reversed(wrong)}.values())[::-1]
    shown = "; ".join(map(str, layers[:_SHOWN]))
    rest = f"; and {len(layers) - _SHOWN} more layers" if len(layers) > _SHOWN else ""
    known_as = f" The file calls its network '{calls_itself}'." if calls_itself else ""
    return WeightsError(
        f"does not fit {network}, {len(wrong)} of {len(places)} arrays differ: {shown}{rest}",
        where=str(path),
        hint=_advice(wrong, places) + known_as,
    )


def _advice(wrong: list[_Place], places: list[_Place]) -> str:
    if all(place.is_matched and len(place.variable.shape) == place.dataset.ndim for place in places):
        return "It looks like the same network at another width: set model.arguments (alpha) to that of the file."
    if all(place.dataset is None for place in wrong) and len(wrong) < len(places) / 2:
        return "It looks incomplete; fetch it again."
    return "It looks like another network: choose that one with --model. A whole model: --model FILE."


def _read(dataset: h5py.Dataset, file: h5py.File) -> np.ndarray[Any, Any]:
    """One array as numbers. Arrays kept in other files than this one are refused."""
    if dataset.external or dataset.is_virtual or dataset.file.filename != file.filename:
        raise OSError(f"{dataset.name} is kept in another file")
    array = np.asarray(dataset[()])
    if dataset.attrs.get("dtype") == "bfloat16":
        array = array.view(ml_dtypes.bfloat16).astype(np.float32)
    if array.dtype.kind not in "fiu":
        raise OSError(f"{dataset.name} holds no numbers")
    if not np.isfinite(array).all():
        raise OSError(f"{dataset.name} holds infinite numbers or none")
    return array


def _assign(network: keras.Model, variables: list[Any], arrays: list[np.ndarray[Any, Any]], path: Path) -> None:
    """Set all weights, and read them back."""
    if {id(variable) for variable in variables} != {id(variable) for variable in network.weights}:
        raise WeightsError(f"{network.name} has layers inside layers that cannot be filled", where=str(path))
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    _settle(network)
    for variable, array in zip(variables, arrays, strict=True):
        if not np.array_equal(keras.ops.convert_to_numpy(variable), array.astype(variable.dtype)):
            raise WeightsError(f"{variable.path} did not take the values of the file", where=str(path))


def _settle(network: keras.Model) -> None:
    """Let layers see their new weights: Normalization computes with numbers it derived from them."""
    for _, layer in _storage_paths(network, "layers"):
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.finalize_state()
