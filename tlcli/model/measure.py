"""Measure the layer groups of a network: once per network and arguments, then read from the cache.

Run as a program it measures in a process of its own, so that `tlcli plan` needs no Keras:
`python -m tlcli.model.measure` reads `{"card": …, "arguments": …, "size": …}` as JSON on stdin.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from tlcli.errors import ModelError
from tlcli.model import graph, groups, structure
from tlcli.paths import cache_dir
from tlcli.zoo.card import ModelCard
from tlcli.zoo.sources import applications, keras_file


def layer_groups(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int]) -> groups.LayerGroups:
    """The groups from the bundled or cached measurement; measured and stored if there is none.

    Raises:
        ModelError: If the network cannot be built so.
    """
    known = structure.find(card, dict(arguments), size, cache=cache_dir())
    if known is not None:
        return known
    measured = of_network(network(card, arguments, size), card, size)
    structure.store(measured, card, dict(arguments), cache=cache_dir())
    return measured


def network(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int]) -> keras.Model:
    """The network of a card without its top, and without values where its architecture is known to Keras."""
    if card.source.startswith("file:"):
        return keras_file.without_top(keras_file.load(Path(card.source.removeprefix("file:"))))
    with graph.weightless():
        return applications.architecture(card, size=size, arguments=dict(arguments))


def of_network(model: keras.Model, card: ModelCard, size: tuple[int, int]) -> groups.LayerGroups:
    """The groups of a built network."""
    return groups.assign(graph.measure(model), card.groups, name=card.name, input_size=size)


if __name__ == "__main__":
    task = json.load(sys.stdin)
    try:
        layer_groups(ModelCard.model_validate(task["card"]), task["arguments"], tuple(task["size"]))
    except ModelError as error:
        json.dump({"message": error.message, "where": error.where, "hint": error.hint}, sys.stdout)
        raise SystemExit(error.exit_code) from error
