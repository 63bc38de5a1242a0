"""The catalogue: find model cards by name, card file, model file or run folder."""

import fnmatch
import re
from functools import cache
from pathlib import Path
from typing import Any

from tlcli.errors import ModelError, did_you_mean
from tlcli.paths import bundled
from tlcli.zoo import own, presets
from tlcli.zoo.card import CARD_SUFFIXES, MODEL_SUFFIXES, ModelCard, Preprocessing, read_card
from tlcli.zoo.formats import model_config
from tlcli.zoo.sources.source import MODULES, module_of

DEFAULT_SIZE = 224
# Names of networks in earlier versions and their present names.
RENAMED = {"drawn": "mobilenet_synthetic"}
# Layers that the Keras export of Teachable Machine always has; it scales images to -1..1 outside the model.
# Ref: the converter and the example code in github.com/googlecreativelab/teachablemachine-community.
_TEACHABLE_MACHINE = {"global_average_pooling2d_GlobalAveragePooling2D1", "dense_Dense1", "dense_Dense2"}
# Networks work with values of up to about 3; twelve leaves room. Means of pixels are about 100.
_LARGEST_SCALE = 12 / 255
_SMALLEST_PIXEL_MEAN = 50.0
# Kinds of sources that users name by their networks only.
_INTERNAL = ("architecture", "state_dict")
_SUPPORTED = (
    "A model is a name of `tlcli zoo list`, a card file (.yaml), a .keras or .h5 file, a run folder, or a network of"
    f" keras:, {', '.join(f'{kind}:' for kind in MODULES if kind not in _INTERNAL)} (docs/models.md)."
)
# Files that show which source reads a folder. A run folder has none of them.
_MARKS = {"saved_model.pb": "tfhub", "model.weights.h5": "kerashub", "checkpoint": "slim"}
_SUFFIXES = {".prototxt": "caffe", ".caffemodel": "caffe", ".index": "slim", ".ckpt": "slim"}


def load() -> dict[str, ModelCard]:
    """All bundled cards, presets of KerasHub and networks of one's own zoo by name, sorted by name.

    Raises:
        ModelError: A bundled card file is invalid.
    """
    cards = {**own.cards(), **presets.cards(), **_bundled_cards(bundled("models"))}
    return dict(sorted(cards.items()))


def names(pattern: str = "*") -> list[str]:
    """Names of the cards that match a wildcard pattern, such as `mobilenet*`.

    Raises:
        ModelError: No name matches.
    """
    known = load()
    if matches := [name for name in known if fnmatch.fnmatchcase(name.lower(), pattern.lower())]:
        return matches
    hint = did_you_mean(pattern, known) or "For all names: tlcli zoo list"
    raise ModelError(f"no network name matches '{pattern}'", where="zoo list", hint=hint)


def find(text: str) -> ModelCard:
    """Find the card for a value of `--model`: a name, `KIND:HANDLE`, a card file, a model file or a run folder.

    The kind may be left out where the address or the files show it.

    Raises:
        ModelError: There is no such model or file, or its kind is not supported.
    """
    known = load()
    text = _with_kind(text)
    source, colon, handle = text.partition(":")
    if source in MODULES:
        if not handle.strip():
            raise ModelError(f"'{text}' names no network", where="model", hint=_SUPPORTED)
        return module_of(source).find_card(handle)
    if card := known.get(text) or _by_name(text, known):
        return card
    if _is_address(text):
        raise _address_error(text)
    if is_path(text):
        path = Path(text).expanduser()
        return read_card(path) if _is_card_file(path) else _file_card(path)
    if text in own.names():
        return own.find(text)
    if text in RENAMED:
        raise ModelError(f"'{text}' was renamed", where="model", hint=f"Write {RENAMED[text]} instead.")
    if not colon:
        raise ModelError(f"there is no model '{text}'", where="model", hint=_suggestion(text, known))
    if source != "keras":
        raise ModelError(f"models from '{source}:' are not supported (got '{text}')", where="model", hint=_SUPPORTED)
    if card := _by_name(handle, known):
        return card
    raise ModelError(f"there is no card for the Keras model '{handle}'", where="model", hint=_suggestion(handle, known))


def has_source(text: str) -> bool:
    """True if the text is the network of a source other than keras.applications, with or without its kind."""
    return _with_kind(text).partition(":")[0] in MODULES


def is_path(text: str) -> bool:
    """True if `find` reads the text as the path of a card file, a model file or a run folder."""
    known = load()
    is_name = text in known or has_source(text) or _by_name(text, known) is not None
    return not is_name and not _is_address(text) and (Path(text).expanduser().exists() or _looks_like_path(text))


def count_outputs(file: Path) -> int | None:
    """Number of outputs of the network in a model file, read without Keras; None if it has no head.

    A head is a dense layer, a convolution above a global pooling, or a convolution with only a global pooling and a
    softmax above it.
    """
    count, channels, is_pooled = None, None, False
    for kind, config in model_config.read(file).layers():
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


def _with_kind(text: str) -> str:
    """The text with the kind of its source in front, if its address or its files show which source reads it."""
    if text.startswith(("hf://", "kaggle://")):
        return f"kerashub:{text}"
    path = Path(text).expanduser()
    kind = _SUFFIXES.get(path.suffix.lower()) if path.is_file() else None
    kind = kind or next((kind for file, kind in _MARKS.items() if (path / file).is_file()), None)
    return text if kind is None else f"{kind}:{text}"


@cache
def _bundled_cards(folder: Path) -> dict[str, ModelCard]:
    cards = [read_card(path) for path in sorted(folder.glob("*.yaml"))]
    return {card.name: card for card in sorted(cards, key=lambda card: card.name)}


def _by_name(text: str, known: dict[str, ModelCard]) -> ModelCard | None:
    """The card whose name or Keras class name is `text`, apart from case, dashes and underscores.

    A class name means the network with the weights that Keras publishes, not a card with weights of its own.
    """
    name = own.plain_name(text)
    for card in known.values():
        is_published = card.source.startswith("keras:") and card.weights is None
        handle = card.source.partition(":")[2] if is_published else card.name
        if name in (own.plain_name(card.name), own.plain_name(handle)):
            return card
    return None


def _is_address(text: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def _address_error(text: str) -> ModelError:
    """The error for an address without its kind; only some sources have addresses."""
    is_hub = re.search(r"tfhub\.dev|/tensorflow2?/|\.tar\.gz$|\.tgz$", text, re.IGNORECASE)
    first = f"For a SavedModel of TensorFlow Hub: --model tfhub:{text}. " if is_hub or "/" in text else ""
    others = "Fetch any other file yourself, then --model FILE. Presets of KerasHub: hf://USER/REPO."
    return ModelError(f"an address alone names no network (got '{text}')", where="model", hint=first + others)


def _suggestion(text: str, known: dict[str, ModelCard]) -> str:
    return f"{did_you_mean(text, known)} Names: tlcli zoo list".strip()


def _looks_like_path(text: str) -> bool:
    return text.lower().endswith((*MODEL_SUFFIXES, *CARD_SUFFIXES)) or "/" in text.partition(":")[0] or "\\" in text


def _is_card_file(path: Path) -> bool:
    return path.suffix.lower() in CARD_SUFFIXES and path.is_file()


def _file_card(path: Path) -> ModelCard:
    """A card for a model file or the model of a run. Input size and preprocessing come from the file."""
    file, name = _model_file(path)
    layers = model_config.read(file).layers()
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
    if path.suffix.lower() not in MODEL_SUFFIXES:
        raise ModelError(f"is not a Keras model file (got suffix '{path.suffix}')", where=str(path), hint=_SUPPORTED)
    return path, path.stem


def _input_size(layers: list[tuple[str, dict[str, Any]]]) -> tuple[int, str]:
    """Input size in pixels, and a title. The size is 224 if the file does not fix it."""
    sides: list[int | None] = []
    for kind, config in layers:
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if shape and len(shape) == 4 and not sides:
            sides = list(shape[1:3])
        if kind in ("Resizing", "CenterCrop", "RandomCrop"):
            # Images are resized before the network, so this layer is removed.
            sides = [config.get("height"), config.get("width")]
        if re.search(r"Conv\d|Dense", kind):
            break
    if not sides:
        return DEFAULT_SIZE, "Keras model file"
    # A card has one size. For oblong inputs, the longer side keeps all detail.
    size = max((side for side in sides if side), default=DEFAULT_SIZE)
    return size, f"Keras model file for {sides[0] or 'any'}x{sides[1] or 'any'} pixels"


def _own_preprocessing(layers: list[tuple[str, dict[str, Any]]]) -> Preprocessing | None:
    """`none` if the model scales pixels from 0-255 before its first weights, `tf` for Teachable Machine, else None."""
    for kind, config in layers:
        if kind == "Normalization" or (kind == "Rescaling" and _scales_pixels(config)):
            return "none"
        if re.search(r"Conv\d|Dense", kind):
            break
    return "tf" if {config.get("name") for _, config in layers} >= _TEACHABLE_MACHINE else None


def _scales_pixels(config: dict[str, Any]) -> bool:
    """True if a Rescaling brings values up to 255 to a small range, or subtracts a mean of pixels."""
    scale, offset = ([abs(number) for number in _numbers(config.get(key, 0.0))] for key in ("scale", "offset"))
    return max(scale, default=1.0) <= _LARGEST_SCALE or max(offset, default=0.0) >= _SMALLEST_PIXEL_MEAN


def _numbers(value: Any) -> list[float]:
    """All numbers in a value, which is a number, a list, or an array as Keras writes it."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []
