"""The catalogue: find the card for a name, a card file, a model file or a run."""

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
from tlcli.zoo.card import CARD_SUFFIXES, ModelCard, Preprocessing, read_card

SUFFIXES = (".keras", ".h5", ".hdf5")
DEFAULT_SIZE = 224
# Networks of former versions, and what they are called now.
RENAMED = {"drawn": "mobilenet_synthetic"}
_TAKEN = (
    "This version takes card names, keras:NAME, card files (.yaml), .keras and .h5 files, and run folders;"
    " see: tlcli zoo list"
)


def load() -> dict[str, ModelCard]:
    """All bundled cards by name, in the order of their names.

    Raises:
        ModelError: A card file is wrong.
    """
    return dict(_bundled_cards(bundled("models")))


def names(pattern: str = "*") -> list[str]:
    """Names of the bundled cards that match a wildcard pattern, such as `mobilenet*`.

    Raises:
        ModelError: Nothing matches.
    """
    known = load()
    if found := fnmatch.filter(known, pattern.lower()):
        return found
    raise ModelError(
        f"no model matches '{pattern}'", where="zoo", hint=f"{did_you_mean(pattern, known)} {_TAKEN}".strip()
    )


def find(text: str) -> ModelCard:
    """The card for what a user typed after `--model`: a name, `keras:NAME`, a card file, a model file or a run folder.

    Raises:
        ModelError: There is no such model or file, or it is of a kind that is not taken.
    """
    known = load()
    source, colon, handle = text.partition(":")
    if card := known.get(text) or _by_name(text, known):
        return card
    if is_path(text):
        path = Path(text).expanduser()
        return read_card(path) if _is_card_file(path) else _file_card(path)
    if text in RENAMED:
        raise ModelError(f"'{text}' was renamed", where="model", hint=f"Write {RENAMED[text]} instead.")
    if not colon:
        raise ModelError(f"no model is called '{text}'", where="model", hint=_suggestion(text, known))
    if source != "keras":
        raise ModelError(f"models from '{source}:' are not taken (got '{text}')", where="model", hint=_TAKEN)
    if card := _by_name(handle, known):
        return card
    raise ModelError(f"keras has no model '{handle}' with a card", where="model", hint=_suggestion(handle, known))


def is_path(text: str) -> bool:
    """Whether `find` takes a text for the path of a file or folder."""
    known = load()
    is_name = text in known or _by_name(text, known) is not None
    return not is_name and (Path(text).expanduser().exists() or _looks_like_path(text))


def outputs(file: Path) -> int | None:
    """How many numbers the network in a model file answers with, where it ends in a head, read without Keras.

    A head is a dense layer, or a convolution above a global pooling or with nothing but one and a softmax above it.
    """
    found, channels, is_pooled = None, None, False
    for kind, config in _layers(_config(file)):
        if kind == "Dense":
            found = config.get("units")
        elif "Conv" in kind:
            channels = config.get("filters")
            found = channels if is_pooled else None
        elif kind.startswith("Global"):
            is_pooled = True
        elif is_pooled and found is None and (kind == "Softmax" or config.get("activation") == "softmax"):
            found = channels
    return found


@cache
def _bundled_cards(folder: Path) -> dict[str, ModelCard]:
    cards = [read_card(path) for path in sorted(folder.glob("*.yaml"))]
    return {card.name: card for card in sorted(cards, key=lambda card: card.name)}


def _by_name(text: str, known: dict[str, ModelCard]) -> ModelCard | None:
    """The card whose name or Keras class name is `text`, whatever the case, dashes and underscores.

    A class name means the network with the weights that Keras publishes, not a card that brings others.
    """
    wanted = _plain(text)
    for card in known.values():
        handle = card.source.partition(":")[2] if card.weights is None else card.name
        if wanted in (_plain(card.name), _plain(handle)):
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
    """A card for a model file or the model of a run; what it says of the input comes from the file's own config."""
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
    """The file behind a path a user gave, and the name to call the model by."""
    if path.is_dir():
        if (path / "model.keras").is_file() and (path / "run.json").is_file():
            return path / "model.keras", path.resolve().name
        raise ModelError(
            "is a folder, but not that of a run (no model.keras and run.json)", where=str(path), hint=_TAKEN
        )
    if not path.exists():
        raise ModelError("there is no such file", where=str(path), hint=_TAKEN)
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(f"is no Keras model file (got suffix '{path.suffix}')", where=str(path), hint=_TAKEN)
    return path, path.stem


def _config(path: Path) -> dict[str, Any]:
    """The model configuration inside a model file, read without Keras."""
    text = _archive_config(path) if path.suffix.lower() == ".keras" else _hdf5_config(path)
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ModelError(f"holds a configuration that cannot be read ({error})", where=str(path)) from error
    if not isinstance(config, dict):
        raise ModelError("holds no model configuration", where=str(path))
    return config


def _archive_config(path: Path) -> str | bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read("config.json")
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise ModelError(
            f"is no Keras model ({error})", where=str(path), hint="The file may be damaged or only partly copied."
        ) from error


def _hdf5_config(path: Path) -> str | bytes:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config: str | bytes | None = file.attrs.get("model_config")
    except OSError as error:
        raise ModelError(
            f"is no Keras model ({error})", where=str(path), hint="The file may be damaged or only partly copied."
        ) from error
    if config is None:
        raise ModelError(
            "holds weights only, no model",
            where=str(path),
            hint="Name the network and give the file as its weights:"
            f" --model NAME --weights {path}; for inspect NAME --set model.weights={path}",
        )
    return config


def _layers(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class name and configuration of every layer, in order; nested models are dissolved."""
    inner = config.get("config")
    # The oldest Sequential files keep the bare list of layers there.
    children = inner.get("layers") if isinstance(inner, dict) else inner
    if isinstance(children, list):
        for child in children:
            yield from _layers(child)
    elif isinstance(inner, dict):
        yield str(config.get("class_name")), inner


def _input_size(layers: list[tuple[str, dict[str, Any]]]) -> tuple[int, str]:
    """Side of the input in pixels, and a title; 224 where the file leaves the size open."""
    for _, config in layers:
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if shape and len(shape) == 4:
            sides = [side for side in shape[1:3] if side]
            # A card holds one side; of a model for oblong images the longer keeps all detail.
            size = max(sides, default=DEFAULT_SIZE)
            return size, f"Keras model file for {shape[1] or 'any'}x{shape[2] or 'any'} pixels"
    return DEFAULT_SIZE, "Keras model file"


def _own_preprocessing(layers: list[tuple[str, dict[str, Any]]]) -> Preprocessing | None:
    """`none` when the model itself scales its input before its first convolution, None when nothing tells."""
    for kind, _ in layers:
        if kind in ("Rescaling", "Normalization"):
            return "none"
        if re.search(r"Conv\d|Dense", kind):
            return None
    return None
