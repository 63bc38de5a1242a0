"""Load two networks and compare them weight by weight."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras

from tlcli.errors import WeightsError
from tlcli.inspecting import changes
from tlcli.inspecting.changes import Weight
from tlcli.inspecting.target import Target
from tlcli.model import backbone
from tlcli.model.groups import Layer
from tlcli.model.head import PREFIX
from tlcli.recipe.schema import RANDOM
from tlcli.zoo.sources import keras_file


def between(a: Target, b: Target, *, by_layer: bool) -> dict[str, Any]:
    """What changed from `a` to `b`; see `changes.compare`.

    Raises:
        ModelError: They cannot be compared.
        WeightsError: A card's weights are not to be had.
    """
    ours, theirs = _weights(_loaded(a)), _weights(_loaded(b))
    homes = _homes(b) | _homes(a)
    homes |= {weight.layer: changes.HEAD for weight in (*ours, *theirs) if weight.layer.startswith(PREFIX)}
    found = changes.compare(ours, theirs, homes, names=(a.text, b.text), by_layer=by_layer)
    return {"a": _named(a), "b": _named(b), **found}


def _named(target: Target) -> dict[str, Any]:
    return {"name": target.text, "kind": target.kind, "model": target.card.name}


def _loaded(target: Target) -> keras.Model:
    if target.file is not None:
        return keras_file.load(target.file)
    weights = target.recipe.model.weights
    # Of a network that a run began at random there is nothing left; what is known by its name are the card's weights.
    weights = None if weights == RANDOM else weights
    try:
        built = backbone.build(target.card, size=target.size, arguments=target.arguments, weights=weights)
    except WeightsError as error:
        hint = "A file with its weights can be named: --set model.weights=FILE"
        raise WeightsError(error.message, where=f"--diff {target.text}", hint=hint) from error
    return built.network


def _weights(model: keras.Model) -> list[Weight]:
    layers = {id(layer): layer for layer in model._flatten_layers(include_self=True, recursive=True)}
    owners = [layer for layer in layers.values() if layer._trainable_variables or layer._non_trainable_variables]
    names = Counter(layer.name for layer in owners)
    found = []
    for layer in owners:
        # In nested models two layers may share a name; then the way to them tells them apart.
        name = layer.name if names[layer.name] == 1 else layer.path
        for variables, is_statistic in ((layer._trainable_variables, False), (layer._non_trainable_variables, True)):
            for variable in variables:
                value = keras.ops.convert_to_numpy(variable)
                found.append(Weight(name, variable.name, value, is_statistic))
    return found


def _homes(target: Target) -> dict[str, str]:
    """The group of each layer, those inside others too."""
    return {
        layer.name: group.name
        for group in target.groups
        for member in group.members or group.layers
        for layer in _with_parts(member)
    }


def _with_parts(layer: Layer) -> Iterator[Layer]:
    yield layer
    for part in layer.parts:
        yield from _with_parts(part)
