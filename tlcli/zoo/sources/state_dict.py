"""Networks with weights from another framework (`state_dict:ARCHITECTURE`), and the import of such weights."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlcli.errors import ModelError, WeightsError
from tlcli.zoo.architectures import table
from tlcli.zoo.card import ModelCard, verified_weights
from tlcli.zoo.sources import applications, weights_file
from tlcli.zoo.weight_map import Report, Target, WeightMap, assign


def find_card(handle: str) -> ModelCard:
    """The card of an architecture, without weights.

    Raises:
        ModelError: There is no such architecture.
    """
    if Path(handle).exists():
        raise ModelError(
            "is a file of weights, and state_dict: takes the name of an architecture",
            where=handle,
            hint=f"Import it, then use its name: tlcli zoo import {handle} --architecture A --name NAME.",
        )
    found = table.find(handle)
    return ModelCard(
        name=found.name,
        source=f"state_dict:{found.name}",
        title=found.title,
        size=found.size,
        min_size=found.min_size,
        preprocessing="torch",
        licence="that of the weights",
        paper=f"https://arxiv.org/abs/{found.paper}",
    )


def network(card: ModelCard, *, size: tuple[int, int], arguments: Mapping[str, Any], weights: bool) -> keras.Model:
    """Build the network of a card, with the imported weights beside the card.

    Raises:
        ModelError: There is no such architecture, or arguments are given.
        WeightsError: The weights are missing, damaged, or belong to another network.
    """
    found = table.find(card.source.partition(":")[2])
    if arguments:
        raise ModelError(f"{found.name} takes no arguments (got {dict(arguments)})", where="model.arguments")
    module = importlib.import_module(f"tlcli.zoo.architectures.{found.module}")
    built: keras.Model = module.build(size, **found.options)
    if not weights:
        return built
    if card.weights is None:
        raise WeightsError(
            f"{card.name} has no weights",
            where="model.weights",
            hint=f"Import some: tlcli zoo import FILE --architecture {found.name} --name NAME. Or --weights random.",
        )
    weights_file.load(built, verified_weights(card), with_top=lambda: built)
    return built


def import_arrays(
    card: ModelCard, weight_map: WeightMap, arrays: Mapping[str, np.ndarray], *, path: Path
) -> tuple[keras.Model, Report]:
    """Build the network of a card and give it the arrays by a map.

    Args:
        card: A card of this source, or of `keras.applications`.
        weight_map: The map.
        arrays: The arrays by name.
        path: Their file, for messages.

    Returns:
        The network without top, and what became of the arrays.

    Raises:
        WeightsError: An array or a variable has no counterpart, or one of another shape.
    """
    size = (card.size, card.size)
    if card.source.startswith("keras:"):
        built = applications.architecture(card, size=size, arguments={})
    else:
        built = network(card, size=size, arguments={}, weights=False)
    report = fill(built, weight_map, arrays)
    report.require_complete(path, card.name)
    return built, report


def fill(built: keras.Model, weight_map: WeightMap, arrays: Mapping[str, np.ndarray]) -> Report:
    """Give a network the arrays that fit its variables by a map. The report says whether all do."""
    variables = {(layer.name, variable.name): (layer, variable) for layer in built.layers for variable in layer.weights}
    report = assign(weight_map, arrays, {key: _target(*pair) for key, pair in variables.items()})
    for _, key, array in report.matched:
        variables[key][1].assign(array)
    return report


def _target(layer: keras.Layer, variable: keras.Variable) -> Target:
    shape = tuple(variable.shape)
    if variable.name != "kernel":
        return Target("other", shape)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return Target("depthwise", shape)
    return Target("conv" if len(shape) == 4 else "dense", shape)
