"""The catalogue: find model cards by name, card file, model file or run folder."""

import fnmatch
import json
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tlcli.errors import ModelError, did_you_mean
from tlcli.paths import bundled
from tlcli.zoo import presets
from tlcli.zoo.card import CARD_SUFFIXES, ModelCard, Preprocessing, read_card
from tlcli.zoo.sources.source import MODULES, module_of

SUFFIXES = (".keras", ".h5", ".hdf5")
DEFAULT_SIZE = 224
# Names of networks in earlier versions and their present names.
RENAMED = {"drawn": "mobilenet_synthetic"}
_SUPPORTED = (
    "A model is a card name, keras:NAME, a card file (.yaml), a .keras or .h5 file, or a run folder."
    " For card names: tlcli zoo list"
)


def load() -> dict[str, ModelCard]:
    """All bundled cards and the presets of KerasHub by name, sorted by name.

    Raises:
        ModelError: A card file is invalid.
    """
    return dict(sorted({**presets.cards(), **_bundled_cards(bundled("models"))}.items()))


def names(pattern: str = "*") -> list[str]:
    """Names of the cards that match a wildcard pattern, such as `mobilenet*`.

    Raises:
        ModelError: No name matches.
    """
    known = load()
    if matches := fnmatch.filter(known, pattern.lower()):
        return matches
    hint = did_you_mean(pattern, known) or "For all names: tlcli zoo list"
    raise ModelError(f"no network name matches '{pattern}'", where="zoo list", hint=hint)


def find(text: str) -> ModelCard:
    """Find the card for a value of `--model`: a name, `keras:NAME`, a card file, a model file or a run folder.

    Raises:
        ModelError: There is no such model or file, or its kind is not supported.
    """
    known = load()
    source, colon, handle = text.partition(":")
    if source in MODULES:
        return module_of(source).find_card(handle)
    if card := known.get(text) or _by_name(text, known):
        return card
    if is_path(text):
        path = Path(text).expanduser()
        return read_card(path) if _is_card_file(path) else _file_card(path)
    if text in RENAMED:
        raise ModelError(f"'{text}' was renamed", where="model", hint=f"Write {RENAMED[text]} instead.")
    if not colon:
        raise ModelError(f"there is no model '{text}'", where="model", hint=_suggestion(text, known))
    if source != "keras":
        raise ModelError(f"models from '{source}:' are not supported (got '{text}')", where="model", hint=_SUPPORTED)
    if card := _by_name(handle, known):
        return card
    raise ModelError(f"there is no card for the Keras model '{handle}'", where="model", hint=_suggestion(handle, known))


def is_path(text: str) -> bool:
    """True if `find` reads the text as the path of a file or folder."""
    known = load()
    is_name = text in known or text.partition(":")[0] in MODULES or _by_name(text, known) is not None
    return not is_name and (Path(text).expanduser().exists() or _looks_like_path(text))


def count_outputs(file: Path) -> int | None:
    """Number of outputs of the network in a model file, read without Keras; None if it has no head.

    A head is a dense layer, a convolution above a global pooling, or a convolution with only a global pooling and a
    softmax above it.
    """
    count, channels, is_pooled = None, None, False
    for kind, config in _layers(_config(file)):
        if kind == "Dense":
            count = config.get("units")
        elif "Conv" in kind:
            channels = config.get("filters")
            count = channels if is_pooled else None
        elif kind.startswith("Global"):
            is_pooled = True
        elif is_pooled and count is None and (kind == "Softmax" or config.get("activation") == "softmax"):
            count = channels
    return count


@cache
def _bundled_cards(folder: Path) -> dict[str, ModelCard]:
    cards = [read_card(path) for path in sorted(folder.glob("*.yaml"))]
    return {card.name: card for card in sorted(cards, key=lambda card: card.name)}


def _by_name(text: str, known: dict[str, ModelCard]) -> ModelCard | None:
    """The card whose name or Keras class name is `text`, apart from case, dashes and underscores.

    A class name means the network with the weights that Keras publishes, not a card with weights of its own.
    """
    name = _plain(text)
    for card in known.values():
        handle = card.source.partition(":")[2] if card.weights is None else card.name
        if name in (_plain(card.name), _plain(handle)):
            return card
    return None


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _suggestion(text: str, known: dict[str, ModelCard]) -> str:
    return f"{did_you_mean(text, known)} Names: tlcli zoo list".strip()


def _looks_like_path(text: str) -> bool:
    return text.lower().endswith((*SUFFIXES, *CARD_SUFFIXES)) or "/" in text.partition(":")[0] or "\\" in text


def _is_card_file(path: Path) -> bool:
    return path.suffix.lower() in CARD_SUFFIXES and path.is_file()


def _file_card(path: Path) -> ModelCard:
    """A card for a model file or the model of a run. Input size and preprocessing come from the file."""
    file, name = _model_file(path)
    layers = list(_layers(_config(file)))
    size, title = _input_size(layers)
    return ModelCard(
        name=name,
        source=f"file:{file.resolve()}",
        title=title,
        size=size,
        min_size=1,
        preprocessing=_own_preprocessing(layers),
        licence="that of the file",
    )


def _model_file(path: Path) -> tuple[Path, str]:
    """The model file for a path from the user, and a name for the model."""
    if path.is_dir():
        if (path / "model.keras").is_file() and (path / "run.json").is_file():
            return path / "model.keras", path.resolve().name
        raise ModelError(
            "is a folder, but not a run folder with model.keras and run.json", where=str(path), hint=_SUPPORTED
        )
    if not path.exists():
        raise ModelError("there is no such file", where=str(path), hint=_SUPPORTED)
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(f"is not a Keras model file (got suffix '{path.suffix}')", where=str(path), hint=_SUPPORTED)
    return path, path.stem


def _config(path: Path) -> dict[str, Any]:
    """The model configuration inside a model file, read without Keras."""
    text = _archive_config(path) if path.suffix.lower() == ".keras" else _hdf5_config(path)
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ModelError(f"has an invalid model configuration ({error})", where=str(path)) from error
    if not isinstance(config, dict):
        raise ModelError("has no model configuration", where=str(path))
    return config


def _archive_config(path: Path) -> str | bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read("config.json")
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise ModelError(
            f"is not a Keras model ({error})", where=str(path), hint="The file may be damaged or incomplete."
        ) from error


def _hdf5_config(path: Path) -> str | bytes:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config: str | bytes | None = file.attrs.get("model_config")
    except OSError as error:
        raise ModelError(
            f"is not a Keras model ({error})", where=str(path), hint="The file may be damaged or incomplete."
        ) from error
    if config is None:
        raise ModelError(
            "holds weights but no model",
            where=str(path),
            hint="Name the network, and use the file as its weights:"
            f" --model NAME --weights {path} (for inspect: NAME --set model.weights={path}).",
        )
    return config


def _layers(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class name and configuration of each layer, in order, including the layers of nested models."""
    inner = config.get("config")
    # The oldest Sequential files have the list of layers here.
    children = inner.get("layers") if isinstance(inner, dict) else inner
    if isinstance(children, list):
        for child in children:
            yield from _layers(child)
    elif isinstance(inner, dict):
        yield str(config.get("class_name")), inner


def _input_size(layers: list[tuple[str, dict[str, Any]]]) -> tuple[int, str]:
    """Input size in pixels, and a title. The size is 224 if the file does not fix it."""
    for _, config in layers:
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if shape and len(shape) == 4:
            sides = [side for side in shape[1:3] if side]
            # A card has one size. For oblong inputs, the longer side keeps all detail.
            size = max(sides, default=DEFAULT_SIZE)
            return size, f"Keras model file for {shape[1] or 'any'}x{shape[2] or 'any'} pixels"
    return DEFAULT_SIZE, "Keras model file"


def _own_preprocessing(layers: list[tuple[str, dict[str, Any]]]) -> Preprocessing | None:
    """`none` if the model scales its input before its first convolution or dense layer, otherwise None (unknown)."""
    for kind, _ in layers:
        if kind in ("Rescaling", "Normalization"):
            return "none"
        if re.search(r"Conv\d|Dense", kind):
            return None
    return None
