"""Inspect: the layer report of a network, or the weight changes between two. Only the latter loads Keras."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from tlcli.model import structure
from tlcli.model.layer_groups import LayerGroups
from tlcli.paths import cache_dir
from tlcli.recipe.fields import BatchNormPolicy
from tlcli.report.layer_report import layer_report, selection_effect
from tlcli.report.target import InspectOptions, find_pair, find_target
from tlcli.zoo.card import ModelCard


def inspect(
    text: str,
    options: InspectOptions,
    *,
    selection: str | None = None,
    batch_norm: BatchNormPolicy | None = None,
    by_layer: bool = False,
) -> dict[str, Any]:
    """The layer report of a card, a model file or a run, as JSON values.

    Args:
        text: Name of a card, or path of a card file, model file or run folder.
        options: Input size and recipe settings.
        selection: Layers to train. The report then includes what they would train and cost.
        batch_norm: BatchNorm policy of trained layers; None for the policy of the card.
        by_layer: True to report every layer, not only every group.

    Raises:
        TlcliError: If there is no such network, or the selection matches nothing.
    """
    target = find_target(text, options)
    effect = None if selection is None else selection_effect(target, selection, batch_norm)
    return layer_report(target, effect, by_layer=by_layer)


def compare_weights(
    names: tuple[str, str],
    options: InspectOptions,
    *,
    by_layer: bool,
    loading: Callable[[], AbstractContextManager[None]],
) -> dict[str, Any]:
    """The weight changes from one network to another, as JSON values.

    Args:
        names: The two networks: each the name of a card, or the path of a card file, model file or run folder.
        options: Input size and recipe settings.
        by_layer: True to report every layer, not only every group.
        loading: Makes the context in which Keras is imported.

    Raises:
        TlcliError: If there is no such network, or the two cannot be compared.
    """

    def measure(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int]) -> LayerGroups:
        known = structure.find(card, dict(arguments), size, cache=cache_dir())
        if known is not None:
            return known
        with loading():
            from tlcli.model import graph
        return graph.measure_groups(card, arguments, size)

    pair = find_pair(names, InspectOptions(options.size, options.settings, measure))
    with loading():
        from tlcli.report.weight_changes import compare_networks
    return compare_networks(*pair, by_layer=by_layer)
