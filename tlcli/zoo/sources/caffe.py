"""Networks of Caffe: `caffe:FOLDER`, `caffe:deploy.prototxt` or `caffe:deploy.prototxt,net.caffemodel`.

The network is read without Keras, which is imported only to build it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcli.errors import ModelError, WeightsError, did_you_mean
from tlcli.zoo.card import ModelCard
from tlcli.zoo.formats import caffe, caffe_graph
from tlcli.zoo.formats.caffe import CaffeFile

if TYPE_CHECKING:
    import keras

# What Caffe's own networks subtract from blue, green and red if the files do not say.
DEFAULT_MEAN = (104.0, 117.0, 123.0)
# Scale of LeNet, the network for grey images that comes with Caffe.
DEFAULT_GREY_SCALE = 1 / 256
_SYNTAX = "Write caffe:FOLDER, caffe:deploy.prototxt or caffe:deploy.prototxt,net.caffemodel."
_ARGUMENTS = ("mean", "scale")
# Words in the names of prototxt files that are not for inference.
_NOT_DEPLOYED = re.compile(r"solver|train|test|val", re.IGNORECASE)


def find_card(handle: str) -> ModelCard:
    """The card of a network in a folder or in two files; see `Source.find_card`.

    The mean and scale of its preprocessing are in the card's arguments, and its title says where they are from.
    """
    prototxt, weights = _files(handle)
    file = caffe.read_prototxt(prototxt)
    graph = caffe_graph.backbone(file)
    channels = graph.shape[0]
    mean, scale, origin = _preprocessing(file, channels)
    order = "BGR" if channels == 3 else "grey"
    name = file.name or (prototxt.parent.name if prototxt.stem.lower() == "deploy" else prototxt.stem)
    values = ", ".join(f"{value:g}" for value in mean)
    return ModelCard(
        name=re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_") or "caffe",
        source=f"caffe:{prototxt},{weights}",
        title=f"Caffe {name}, input {order} minus ({values}) times {scale:g} ({origin})",
        size=max(graph.shape[1:]),
        min_size=graph.min_size(),
        preprocessing="none",
        licence="that of the files",
        arguments={"mean": list(mean), "scale": scale},
        data="not stated in the files",
    )


def network(card: ModelCard, *, size: tuple[int, int], arguments: Mapping[str, Any], weights: bool) -> "keras.Model":
    """Build the network of a card without its top; see `Source.network`.

    Its first layers do the preprocessing, so that it takes RGB 0–255. Arguments: `mean`, the means that are
    subtracted, such as `104,117,123`, BGR or grey, and `scale`, the factor after that.
    """
    prototxt, caffemodel = _files(card.source.partition(":")[2])
    file = caffe.read_prototxt(prototxt)
    graph = caffe_graph.backbone(file)
    mean, scale = _preprocessing(file, graph.shape[0])[:2]
    given = {"mean": list(mean), "scale": scale, **card.arguments, **arguments}
    mean, scale = _checked_arguments(given, graph.shape[0])
    graph.at(size)
    blobs = None
    if weights:
        blobs = caffe_graph.match_weights(graph, caffe.read_weights(caffemodel), str(caffemodel))
    from tlcli.zoo.architectures.caffe import build

    try:
        return build(graph, size=size, mean=mean, scale=scale, weights=blobs)
    except (ValueError, TypeError, OverflowError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ModelError(f"cannot be built in Keras ({reason})", where=str(prototxt)) from error


def _files(handle: str) -> tuple[Path, Path]:
    """Absolute paths of the prototxt and the caffemodel of a handle."""
    first, comma, second = handle.rpartition(",")
    if comma and second.lower().endswith(".caffemodel"):
        prototxt, weights = Path(first).expanduser().resolve(), Path(second).expanduser().resolve()
        for path, kind in ((prototxt, ModelError), (weights, WeightsError)):
            if not path.is_file():
                raise kind("there is no such file", where=str(path), hint=_SYNTAX)
        return prototxt, weights
    path = Path(handle).expanduser().resolve()
    if not handle or not path.exists():
        raise ModelError("there is no such file or folder", where=f"caffe:{handle}", hint=_SYNTAX)
    prototxt = _deployed(path) if path.is_dir() else path
    return prototxt, _caffemodel(prototxt)


def _deployed(folder: Path) -> Path:
    """The prototxt of a folder that is meant for inference."""
    known = sorted(folder.glob("*.prototxt"))
    named = [path for path in known if "deploy" in path.name.lower()]
    others = [path for path in known if not _NOT_DEPLOYED.search(path.name)]
    for candidates in (named, known, others):
        if len(candidates) == 1:
            return candidates[0]
    raise ModelError(_count(known, ".prototxt"), where=str(folder), hint=_SYNTAX)


def _caffemodel(prototxt: Path) -> Path:
    same = prototxt.with_suffix(".caffemodel")
    known = sorted(prototxt.parent.glob("*.caffemodel"))
    if same in known:
        return same
    if len(known) == 1:
        return known[0]
    raise WeightsError(_count(known, ".caffemodel"), where=str(prototxt.parent), hint=_SYNTAX)


def _count(paths: Sequence[Path], suffix: str) -> str:
    if not paths:
        return f"has no {suffix} file"
    shown = ", ".join(path.name for path in paths[:10])
    return f"has {len(paths)} {suffix} files, and it is not clear which is meant: {shown}"


def _preprocessing(file: CaffeFile, channels: int) -> tuple[tuple[float, ...], float, str]:
    """Mean by channel, scale, and where they are from."""
    source, transform = (file.path.name, file.transform) if file.transform else _beside(file.path)
    if transform is not None and not transform.mean_file:
        return _by_channel(transform.mean or (0.0,), channels, file.path), transform.scale, f"from {source}"
    scale = 1.0 if transform is None else transform.scale
    if image := _mean_image(file.path.parent, "" if transform is None else transform.mean_file):
        return _by_channel(caffe.read_mean(image), channels, image), scale, f"mean of {image.name}"
    if channels == 3:
        return DEFAULT_MEAN, scale, "Caffe's usual mean; the files do not say"
    if transform is None:
        return (0.0,), DEFAULT_GREY_SCALE, "Caffe's usual scale; the files do not say"
    return (0.0,), scale, f"from {source}, whose mean image is missing"


def _mean_image(folder: Path, wanted: str) -> Path | None:
    """The mean image that a file wants, or the only one in the folder; None if there is none."""
    images = sorted(folder.glob("*.binaryproto"))
    name = wanted.replace("\\", "/").rpartition("/")[2]
    named = [path for path in images if path.name == name]
    return named[0] if named else images[0] if len(images) == 1 else None


def _beside(path: Path) -> tuple[str, caffe.Transform | None]:
    """Name of a training prototxt beside the file and its preprocessing; None if there is none or they differ."""
    found = []
    for other in sorted(path.parent.glob("*.prototxt"))[:20]:
        try:
            transform = None if other == path else caffe.read_prototxt(other).transform
        except ModelError:
            continue
        if transform is not None:
            found.append((other.name, transform))
    return found[0] if len({transform for _, transform in found}) == 1 else ("", None)


def _by_channel(mean: Sequence[float], channels: int, path: Path) -> tuple[float, ...]:
    if len(mean) not in (1, channels):
        message = f"has means for {len(mean)} channels, and the network has {channels}"
        raise ModelError(message, where=str(path), hint="Correct it, or remove it.")
    return tuple(mean) if len(mean) == channels else (mean[0],) * channels


def _checked_arguments(arguments: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], float]:
    for name in arguments:
        if name not in _ARGUMENTS:
            hint = f"{did_you_mean(name, _ARGUMENTS)} Arguments: mean (blue,green,red), scale.".strip()
            raise ModelError(f"there is no argument '{name}'", where="model.arguments", hint=hint)
    mean, scale = _numbers(arguments["mean"]), _numbers(arguments["scale"])
    if mean is None or len(mean) not in (1, channels):
        hint = "Give one number for each channel, such as 104,117,123, or one number for all."
        raise ModelError(f"cannot be {arguments['mean']!r}", where="model.arguments.mean", hint=hint)
    if scale is None or len(scale) != 1:
        hint = "Give a number, such as 0.017."
        raise ModelError(f"cannot be {arguments['scale']!r}", where="model.arguments.scale", hint=hint)
    return (mean if len(mean) == channels else mean * channels), scale[0]


def _numbers(value: Any) -> tuple[float, ...] | None:
    """The numbers in an argument: a number, a list, or a text such as `104,117,123`; None if it is something else."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        return None
    return numbers if all(abs(number) < 1e6 for number in numbers) else None
