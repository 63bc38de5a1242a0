"""Import weights of another framework into one's own zoo."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.errors import ModelError
from tlcli.zoo import catalogue, own, weight_map
from tlcli.zoo.architectures import table
from tlcli.zoo.card import ModelCard
from tlcli.zoo.formats import arrays
from tlcli.zoo.sources import state_dict, weights_file


@dataclass(frozen=True)
class ImportRequest:
    """An import that a user requests.

    Attributes:
        weights: File of arrays by name.
        architecture: The network.
        name: Name of the network in one's own zoo.
        map: Map file, or name of a bundled map; None for that of the architecture.
        licence: Licence of the weights.
        data: What the weights were trained on, in words.
    """

    weights: Path
    architecture: str
    name: str
    map: str | None = None
    licence: str = "unknown"
    data: str = ""


def import_weights(request: ImportRequest) -> dict[str, Any]:
    """Import weights by a map, all or nothing.

    Returns:
        The report as JSON values: the card file, its sha256, and what became of the arrays.

    Raises:
        TlcliError: For the first problem.
    """
    own.check_name(request.name)
    card = _card(request.architecture)
    rules = weight_map.read_map(_map_file(request))
    tensors = arrays.read(request.weights)
    network, report = state_dict.import_arrays(card, rules, tensors, path=request.weights)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{request.name}.weights.h5"
        sha256 = weights_file.save(network, file, half=False)
        update = {
            "name": request.name,
            "weights": file.name,
            "sha256": sha256,
            "licence": request.licence,
            "data": request.data or f"unknown; weights from {request.weights.name}",
            "parameters": network.count_params(),
        }
        path = own.add_card(card.model_copy(update=update), {file.name: file})
    return {
        "name": request.name,
        "card": str(path),
        "sha256": sha256,
        "matched": [
            {"array": name, "layer": key[0], "variable": key[1], "shape": list(array.shape)}
            for name, key, array in report.matched
        ],
        "ignored": report.ignored,
    }


def _card(architecture: str) -> ModelCard:
    """The card of an architecture, or of a network of `keras.applications` without its published figures."""
    card = catalogue.load().get(architecture)
    if card is None or architecture in table.ARCHITECTURES or not card.source.startswith("keras:"):
        return catalogue.find(f"state_dict:{architecture}")
    return card.model_copy(update={"weights": None, "sha256": None, "imagenet_top1": None, "data": ""})


def _map_file(request: ImportRequest) -> Path:
    """The file of the map: given, bundled under the given name, or that of the architecture."""
    bundled = weight_map.bundled_maps()
    if request.map is not None:
        return bundled.get(request.map, Path(request.map).expanduser())
    if request.architecture in table.ARCHITECTURES:
        return bundled[table.ARCHITECTURES[request.architecture].map]
    raise ModelError(
        f"'{request.architecture}' has no bundled map",
        where="--map",
        hint=f"Give a --map FILE, or an --architecture that has one: {', '.join(table.ARCHITECTURES)}.",
    )
