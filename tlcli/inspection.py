"""The layer report of a network, a file or a run, from stored measurements wherever there is one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlcli.model.groups import LayerGroups
from tlcli.model.selection import Selection
from tlcli.prepare import groups_without_keras
from tlcli.recipe import load
from tlcli.report import record
from tlcli.train import plan
from tlcli.zoo import catalogue
from tlcli.zoo.card import ModelCard


def look_at(target: str, *, size: tuple[int, int] | None, settings: Sequence[str]) -> LayerGroups:
    """The layer groups of a card's network, a model file, or the network that a run fine-tuned.

    Raises:
        TlcliError: If there is no such thing, or it cannot be built at that size.
    """
    if (Path(target) / "run.json").is_file():
        ran = record.read(Path(target)).model
        card, arguments = ModelCard.model_validate(ran["card"]), ran["arguments"]
        own_size = tuple(ran["size"])
    else:
        card = catalogue.find(target)

        arguments = load.load(load.DEFAULT, settings=settings).model.arguments
        own_size = (card.size, card.size)
    chosen = size or (int(own_size[0]), int(own_size[1]))
    plan.check_size(card, chosen, where="--size")
    return groups_without_keras(card, arguments, chosen)


def report(groups: LayerGroups, chosen: Selection | None, *, by_layer: bool) -> dict[str, Any]:
    """The JSON shape of `tlcli inspect --format json`."""
    rows = [plan.group_json(group) for group in groups.groups]
    total = max(groups.parameters, 1)
    for row, group in zip(rows, groups.groups, strict=True):
        row["share"] = group.parameters / total
        if chosen is not None:
            row["trained_layers"] = sum(layer.name in chosen.layers for layer in group.layers)
    found: dict[str, Any] = {
        "name": groups.name,
        "parameters": groups.parameters,
        "flops": sum(group.flops for group in groups.groups),
        "input_size": list(groups.input_size),
        "groups": rows,
    }
    if by_layer:
        found["layers"] = [
            {
                "group": group.name,
                "name": layer.name,
                "kind": layer.kind,
                "parameters": layer.parameters,
                "trainable_parameters": layer.trainable_parameters,
                "output_shape": list(layer.output_shape),
                "flops": layer.flops,
                **({} if chosen is None else {"trained": layer.name in chosen.layers}),
            }
            for group in groups.groups
            for layer in group.layers
        ]
    return found
