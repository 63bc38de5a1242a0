"""Presets of KerasHub: by name, by address (`hf://USER/REPO`), or saved in a folder.

The network contains the scaling of the preset, so it reads RGB 0–255. `kerashub_graph` opens encoders that consist of
one layer. Files come from the cache of KerasHub if they are there, and are downloaded otherwise.
"""

import importlib.util
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcli.errors import ModelError, WeightsError, did_you_mean
from tlcli.zoo import download, presets
from tlcli.zoo.card import ModelCard
from tlcli.zoo.presets import FAMILIES, KIND
from tlcli.zoo.sources import kerashub_files

if TYPE_CHECKING:
    import keras

INSTALL = "Install it: pip install 'tlcli[kerashub]'"
OFFLINE = "TLCLI_OFFLINE"
_CONFIG, _CONVERTER, _TASK, _WEIGHTS = "config.json", "image_converter.json", "task.json", "model.weights.h5"
_FILES = f"{_CONFIG}, {_WEIGHTS} and, if it has them, {_CONVERTER}, preprocessor.json and {_TASK}"
_ADDRESS = "://"
# Names of parts that hold the image encoder of a larger model.
_ENCODERS = ("image_encoder", "vision_encoder")


def find_card(handle: str) -> ModelCard:
    """The card of a preset: a name from the table, an address such as `hf://USER/REPO`, or a folder.

    The input size is that of the image converter of the preset, else that of its network.

    Raises:
        ModelError: There is no such preset, or it is not a network for images.
        WeightsError: The files of an address cannot be fetched.
    """
    if card := presets.cards().get(handle):
        return card
    if _ADDRESS in handle:
        return _card(_fetched(handle), handle, name=handle.rstrip("/").rpartition("/")[2])
    folder = Path(handle).expanduser()
    if folder.is_dir():
        return _card(str(folder.resolve()), str(folder.resolve()), name=folder.resolve().name)
    raise _unknown(handle)


def network(card: ModelCard, *, size: tuple[int, int], arguments: Mapping[str, Any], weights: bool) -> "keras.Model":
    """Build the network of a preset; see `source.Source.network`.

    Layers of KerasHub remain in it, so a model with them can be loaded only where keras-hub is installed.
    """
    if arguments:
        raise ModelError(
            f"a KerasHub preset takes no arguments (got {dict(arguments)})",
            where="model.arguments",
            hint="Remove them.",
        )
    handle = card.source.partition(":")[2]
    if not handle:
        raise _unknown(handle)
    preset = _located(handle)
    family = _require_family(_backbone_class(preset), handle)
    _import()
    with _explained(handle, size, weights=weights):
        backbone = _backbone(preset, FAMILIES[family].size_argument, size, weights=weights)
    return _assembled(backbone, card, preset, size, weights=weights)


def pull(handle: str) -> Path:
    """The folder with all files of a preset; they are fetched by KerasHub if neither cache nor mirror has them.

    Raises:
        ModelError: There is no such preset, or KerasHub is not installed.
        WeightsError: The files cannot be fetched.
    """
    preset = _located(handle)
    if Path(preset).is_dir():
        return Path(preset)
    from keras_hub.src.utils.preset_utils import get_file

    for file in (_CONVERTER, _TASK):
        _json(preset, file)
    with _explained(handle, None, weights=True):
        return Path(get_file(preset, _WEIGHTS)).parent


def is_installed() -> bool:
    """True if KerasHub is installed."""
    return importlib.util.find_spec("keras_hub") is not None


def mirror_folder(handle: str) -> str:
    """The folder of a preset of the table in a mirror, with forward slashes; empty for addresses and folders."""
    return f"{KIND}/{handle}" if handle in presets.table() else ""


def require_library(path: Path) -> None:
    """Import KerasHub, whose layers a model file contains.

    Raises:
        ModelError: It is not installed.
    """
    _import(where=str(path), message="contains layers of KerasHub, and keras-hub is not installed")


def _assembled(backbone: Any, card: ModelCard, preset: str, size: tuple[int, int], *, weights: bool) -> "keras.Model":
    import keras

    from tlcli.zoo.sources import kerashub_graph

    encoder = getattr(backbone, "image_encoder", backbone)
    if FAMILIES[type(backbone).__name__].is_fixed:
        _require_size(getattr(encoder, "vision_encoder", encoder), size, card.name)
    images = keras.Input((*size, 3), name="images")
    with _explained(card.name, size, weights=False):
        scaled = images if card.preprocessing != "none" else _scaled(images, preset, card)
        features = kerashub_graph.features(encoder, scaled, _pooling(preset), weights=weights)
    built = keras.Model(images, features, name=type(backbone).__name__)
    kerashub_graph.make_names_valid(built)
    kerashub_graph.make_savable(built)
    return built


def _backbone(preset: str, size_argument: str, size: tuple[int, int], *, weights: bool) -> Any:
    import keras_hub

    options = {size_argument: (*size, 3)} if size_argument else {}
    return keras_hub.models.Backbone.from_preset(preset, load_weights=weights, **options)


def _scaled(images: Any, preset: str, card: ModelCard) -> Any:
    """The images as the image converter of the preset scales them, by a built-in layer."""
    import keras

    converter = _converter(preset)
    if converter is None:
        if card.name in presets.table():
            raise ModelError(
                "the preset does not state its preprocessing", where=card.name, hint="Set model.preprocessing."
            )
        return images
    if converter.scale is None and converter.offset is None:
        return images
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="preprocess_scale")(images)


def _converter(preset: str) -> Any:
    """The image converter of a preset; None if it has none."""
    import keras_hub

    try:
        return keras_hub.layers.ImageConverter.from_preset(preset)
    except (FileNotFoundError, ValueError):
        return None


def _pooling(preset: str) -> str:
    """How the classifier of a preset pools tokens: `token` or `gap`."""
    task = _json(preset, _TASK) or {}
    pooling = task.get("config", {}).get("pooling") if isinstance(task.get("config"), dict) else None
    return pooling if pooling == "gap" else "token"


def _require_size(encoder: Any, size: tuple[int, int], name: str) -> None:
    own = tuple(encoder.image_shape[:2])
    if own != tuple(size):
        raise ModelError(
            f"{name} works only on images of {own[0]} × {own[1]} pixels (got {size[0]} × {size[1]})",
            where="data.size",
            hint=f"Set data.size: [{own[0]}, {own[1]}].",
        )


def _card(preset: str, handle: str, *, name: str) -> ModelCard:
    backbone = _require_family(_backbone_class(preset), handle)
    size, is_scaled = _size_and_scaling(preset)
    return presets.card_of(name, handle, backbone, size, is_scaled=is_scaled)


def _size_and_scaling(preset: str) -> tuple[int, bool]:
    """Input size in pixels, and whether the preset states the scaling of images."""
    stored = _json(preset, _CONVERTER)
    config = _json(preset, _CONFIG) or {}
    if stored is None and "registered_name" not in config:
        _import()
        converter = _converter(preset)
        stored = None if converter is None else {"config": {"image_size": converter.image_size}}
    shapes = [(stored or {}).get("config", {}).get("image_size"), *_shapes(config.get("config", {}))]
    sides = [max(shape[:2]) for shape in shapes if isinstance(shape, list | tuple) and all(shape[:2])]
    return next((int(side) for side in sides), 224), stored is not None


def _shapes(config: Mapping[str, Any]) -> Iterator[Any]:
    """The input shapes in the configuration of a backbone and of its image encoder."""
    yield config.get("image_shape")
    for name in _ENCODERS:
        if isinstance(part := config.get(name), dict):
            yield from _shapes(part.get("config", {}))


def _backbone_class(preset: str) -> str:
    """The class name of the backbone in a preset."""
    config = _json(preset, _CONFIG)
    if config is None:
        raise ModelError(
            f"has no {_CONFIG}, so it is not a preset", where=preset, hint=f"A preset is a folder with {_FILES}."
        )
    if "registered_name" in config:
        return str(config.get("class_name"))
    _import()
    from keras_hub.src.utils.preset_utils import get_preset_loader

    try:
        return str(get_preset_loader(preset).check_backbone_class().__name__)
    except (ValueError, KeyError, AttributeError) as error:
        hint = "KerasHub reads its own presets, and checkpoints of Transformers and timm of the families it has."
        raise ModelError(f"KerasHub cannot read it ({_reason(error)})", where=preset, hint=hint) from error


def _require_family(backbone: str, handle: str) -> str:
    if backbone not in FAMILIES:
        raise ModelError(
            f"is a {backbone}, which is not a network for images",
            where=f"{KIND}:{handle}",
            hint=f"Supported: {', '.join(sorted(FAMILIES))}. For presets: tlcli zoo list",
        )
    return backbone


def _located(handle: str) -> str:
    """What KerasHub loads: the folder of a preset, if its files are on this machine, else its name or address."""
    if handle not in presets.table() and _ADDRESS not in handle:
        if not Path(handle).is_dir():
            raise _unknown(handle)
        return handle
    return _fetched(handle)


def _fetched(handle: str) -> str:
    """The folder in the cache for a name or address; its small files are downloaded if they are not there.

    Weights that are not in the cache are downloaded when they are loaded: then this is the handle itself.
    """
    folder = _cached(handle)
    if folder is not None and (folder / _CONFIG).is_file() and (_is_offline() or (folder / _WEIGHTS).is_file()):
        return str(folder)
    if handle in presets.table() and (copied := kerashub_files.from_mirror(handle)) is not None:
        return str(copied)
    if _is_offline():
        raise WeightsError(
            f"the preset is not on this machine, and {OFFLINE} is set"
            + ("" if is_installed() else "; keras-hub, which builds it, is not installed either"),
            where=f"{KIND}:{handle}",
            hint=_ways_out(handle, folder),
        )
    _import()
    return handle


def _cached(handle: str) -> Path | None:
    """The folder where KerasHub caches a preset; None if only its library knows."""
    if preset := presets.table().get(handle):
        return _kaggle_folder(preset.handle)
    scheme, _, name = handle.partition(_ADDRESS)
    if scheme == "kaggle":
        return _kaggle_folder(name)
    if scheme == "hf" and importlib.util.find_spec("huggingface_hub"):
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(name, _CONFIG)
        return Path(file).parent if isinstance(file, str) else None
    return None


def _kaggle_folder(handle: str) -> Path:
    cache = os.environ.get("KAGGLEHUB_CACHE") or "~/.cache/kagglehub"
    return Path(cache).expanduser() / "models" / handle


def _is_offline() -> bool:
    return os.environ.get(OFFLINE, "") not in ("", "0")


def _json(preset: str, file: str) -> dict[str, Any] | None:
    """A JSON file of a preset; None if it has no such file."""
    path = Path(preset) / file
    if Path(preset).is_dir():
        if not path.is_file():
            return None
    else:
        _import()
        from keras_hub.src.utils.preset_utils import check_file_exists, get_file

        with _explained(preset, None, weights=True):
            if not check_file_exists(preset, file):
                return None
            path = Path(get_file(preset, file))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read ({_reason(error)})", where=str(path)) from error
    if not isinstance(content, dict):
        raise ModelError("is not the configuration of a preset", where=str(path))
    return content


@contextmanager
def _explained(handle: str, size: tuple[int, int] | None, *, weights: bool) -> Iterator[None]:
    """Errors of KerasHub and of its downloads become errors of this program."""
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # libraries for downloads raise errors of many kinds
        is_local = Path(handle).is_dir()
        at = "" if size is None else f" for images of {size[0]} × {size[1]} pixels"
        if not is_local and weights:
            raise WeightsError(
                f"the preset could not be fetched or read ({_reason(error)})",
                where=f"{KIND}:{handle}",
                hint=_ways_out(handle, _cached(handle)),
            ) from error
        kind = WeightsError if "weight" in str(error) or isinstance(error, OSError) else ModelError
        raise kind(
            f"the preset cannot be built{at} ({_reason(error)})",
            where=f"{KIND}:{handle}",
            hint="Set data.size to auto. If its files are damaged or incomplete, fetch them again.",
        ) from error


def _ways_out(handle: str, folder: Path | None) -> str:
    """The ways that are open here, a line each."""
    ways = [] if is_installed() else [f"library: {INSTALL[0].lower()}{INSTALL[1:]}"]
    ways += [f"connection: unset {OFFLINE}"] if _is_offline() else []
    if handle.startswith("hf://"):
        ways.append(f"elsewhere: hf download {handle.removeprefix('hf://')} --local-dir FOLDER")
    elif folder is not None:
        ways.append(f"cache: copy its files ({_FILES}) to {folder}")
    ways.append(f"folder: --model {KIND}:FOLDER, a folder with its files")
    if mirrored := mirror_folder(handle):
        place = os.environ.get("TLCLI_MIRROR", "").strip()
        ways.append(f"mirror: put its files into {mirrored} of {place or 'a mirror, and set TLCLI_MIRROR to it'}")
    return download.as_ways([*ways, "another network: --model efficientnet_lite0, whose weights come with tlcli"])


def _unknown(handle: str) -> ModelError:
    suggestion = did_you_mean(handle, presets.table())
    others = f"A preset is a name (tlcli zoo list), an address such as hf://USER/REPO, or a folder with {_CONFIG}."
    return ModelError(
        f"there is no image preset '{handle}'", where=f"{KIND}:{handle}", hint=f"{suggestion} {others}".strip()
    )


def _import(*, where: str = "model", message: str = "this model needs keras-hub, which is not installed") -> None:
    if not is_installed():
        raise ModelError(message, where=where, hint=INSTALL)
    import keras_hub  # noqa: F401

    # Swin gives a mask to its windows, which Keras takes for a mask of time steps.
    warnings.filterwarnings("ignore", message="Layer .* was passed an input with a mask")


def _reason(error: Exception) -> str:
    reason = str(error).strip() or type(error).__name__
    return reason.partition("\n")[0][:200].rstrip(".")
