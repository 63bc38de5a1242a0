"""Every bundled card against the network that Keras builds: groups, parameters, bundled structures."""

import inspect
import re
from functools import cache

import keras
import pytest

from tlcli.model import structure
from tlcli.model.cut_points import LayerGraph
from tlcli.model.graph import build_unweighted, measure, weightless
from tlcli.model.grouping import assign
from tlcli.model.layer_groups import LayerGroups
from tlcli.paths import bundled
from tlcli.zoo import catalogue
from tlcli.zoo.card import ModelCard

# Presets of KerasHub are measured when they are first used.
CARDS = {name: card for name, card in catalogue.load().items() if card.kind in ("keras", "package", "architecture")}
# Networks of keras.applications. Those with the weights of Keras; the others have bundled weights.
OF_KERAS = {name: card for name, card in CARDS.items() if card.kind == "keras"}
PUBLISHED = {name: card for name, card in OF_KERAS.items() if card.weights is None}
# The smallest network of each paper.
SMALLEST = sorted(
    min((card for card in PUBLISHED.values() if card.paper == paper), key=lambda card: card.parameters or 0).name
    for paper in {card.paper for card in PUBLISHED.values()}
)
# Their cells pass on two tensors, so a cut point has two outputs.
CUT_AT_TWO = {"nasnet_mobile", "nasnet_large"}
WIDTHS = [
    *(("mobilenet", {"alpha": alpha}) for alpha in (0.25, 0.5, 0.75)),
    *(("mobilenet_v2", {"alpha": alpha}) for alpha in (0.35, 0.5, 0.75, 1.3, 1.4)),
    *((f"mobilenet_v3_{size}", {"minimalistic": True}) for size in ("small", "large")),
    *((f"mobilenet_v3_{size}", {"alpha": 0.75}) for size in ("small", "large")),
]


def build(card: ModelCard, side: int, **arguments: float) -> keras.Model:
    if card.kind != "keras":
        return build_unweighted(card, arguments, (side, side))
    function = getattr(keras.applications, card.source.removeprefix("keras:"))
    with weightless():
        return function(weights=None, include_top=False, input_shape=(side, side, 3), **card.arguments, **arguments)


@cache
def measured(name: str) -> tuple[LayerGraph, LayerGroups, int]:
    """Layer graph, layer groups and the parameter count of Keras, at the size of the card."""
    card = CARDS[name]
    model = build(card, card.size)
    graph = measure(model)
    groups = assign(graph, card.groups, name=card.name, input_size=(card.size, card.size))
    return graph, groups, model.count_params()


def members(graph: LayerGraph, groups: LayerGroups) -> dict[str, int]:
    """Index of the group of every layer, weighted or not: the first group whose boundary depends on the layer."""
    index: dict[str, int] = {}
    for number, group in reversed(list(enumerate(groups))):
        index |= dict.fromkeys(upstream(graph, group.boundary), number)
    return index


def upstream(graph: LayerGraph, name: str) -> set[str]:
    """The layer and all layers that it depends on."""
    names = {name}
    for layer in reversed(graph.layers):
        if layer.name in names:
            names.update(layer.inputs)
    return names


def path_is_left(graph: LayerGraph, *removed: str) -> bool:
    """True if a path from an input to the output avoids the removed layers."""
    reached = {layer.name for layer in graph.layers if not layer.inputs}.difference(removed)
    for layer in graph.layers:
        if layer.name not in removed and reached.intersection(layer.inputs):
            reached.add(layer.name)
    return graph.output in reached


def test_there_is_a_card_for_every_network_of_keras() -> None:
    published = {name for name, value in vars(keras.applications).items() if inspect.isfunction(value)}
    assert {card.source.removeprefix("keras:") for card in PUBLISHED.values()} == published
    assert (len(PUBLISHED), len(published)) == (40, 40)
    assert OF_KERAS.keys() - PUBLISHED.keys() == {"mobilenet_synthetic"}
    assert {path.stem for path in (bundled("models") / "structures").glob("*.json")} == set(CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_groups_are_total_disjoint_and_ordered(name: str) -> None:
    graph, groups, parameters = measured(name)
    weighted = [layer.name for layer in graph.layers if layer.is_weighted]
    assert sorted(layer.name for layer in groups.layers) == sorted(weighted)
    index = {layer.name: number for number, group in enumerate(groups) for layer in group.layers}
    for layer in weighted:
        assert all(index[below] <= index[layer] for below in upstream(graph, layer) if below in index)
    assert len(groups) >= 4
    assert all(group.layers for group in groups)
    assert groups.parameters == parameters == CARDS[name].parameters
    assert sum(group.flops for group in groups) == sum(layer.flops for layer in graph.layers) > 0


@pytest.mark.parametrize("name", sorted(CARDS.keys() - CUT_AT_TWO))
def test_every_path_passes_the_end_of_a_group(name: str) -> None:
    graph, groups, _ = measured(name)
    for group in groups:
        assert group.is_cut_point
        assert group.second_output is None
        assert not path_is_left(graph, group.boundary)
    index = members(graph, groups)
    boundaries = {group.boundary for group in groups}
    for layer in graph.layers:
        for below in layer.inputs:
            assert index[below] == index[layer.name] or below in boundaries


@pytest.mark.parametrize("name", sorted(CUT_AT_TWO))
def test_nasnet_has_one_group_per_cell(name: str) -> None:
    """A cell is that of Keras, by layer names. It is cut at the two tensors that it passes on."""
    graph, groups, _ = measured(name)
    cells: dict[str, set[str]] = {}
    for layer in groups.layers:
        # Names of weighted layers in a cell end in its id. Those of the layers below all cells do not.
        if match := re.search(r"_(stem_\d|reduce_\d+|\d+)$", layer.name):
            cells.setdefault(match[1], set()).add(groups.group_of(layer.name).name)
    assert len(cells) == {"nasnet_mobile": 16, "nasnet_large": 22}[name]
    assert all(len(names) == 1 for names in cells.values())
    group_of = {cell: names.pop() for cell, names in cells.items()}
    assert group_of.pop("stem_1") == group_of.pop("stem_2") == "stem"
    assert set(group_of.values()) == {f"cell{cell}" if cell.isdigit() else cell.replace("_", "") for cell in group_of}
    assert set(group_of.values()) | {"stem"} == set(groups.names)
    for group in groups:
        assert group.is_cut_point
        assert not path_is_left(graph, *group.cut_point.split("/"))
        assert (group.second_output is None) == (group.boundary == graph.output)


@pytest.mark.parametrize("name", CARDS)
def test_the_bundled_structure_is_that_of_keras(name: str) -> None:
    card, groups = CARDS[name], measured(name)[1]
    stored = structure.find(card, {}, (card.size, card.size), cache=bundled("models") / "no-cache")
    assert stored == groups, "run scripts/measure_structures.py"


@pytest.mark.parametrize("name", OF_KERAS)
def test_the_minimum_size_is_that_of_keras(name: str) -> None:
    with pytest.raises(ValueError, match="at least"):
        build(CARDS[name], CARDS[name].min_size - 1)


@pytest.mark.parametrize("name", [*SMALLEST, "efficientnet_lite0"])
def test_the_minimum_size_has_the_same_groups(name: str) -> None:
    card, groups = CARDS[name], measured(name)[1]
    smallest = assign(measure(build(card, card.min_size)), card.groups, name=name, input_size=groups.input_size)
    assert [[layer.name for layer in group.layers] for group in smallest] == [
        [layer.name for layer in group.layers] for group in groups
    ]
    assert smallest.parameters == groups.parameters


@pytest.mark.parametrize(("name", "arguments"), WIDTHS)
def test_other_widths_have_the_same_groups(name: str, arguments: dict[str, float]) -> None:
    card = CARDS[name]
    groups = assign(measure(build(card, 96, **arguments)), card.groups, name=name, input_size=(96, 96))
    assert groups.names == measured(name)[1].names
    assert all(group.is_cut_point for group in groups)


@pytest.mark.parametrize("name", CARDS)
def test_cards_are_complete(name: str) -> None:
    card = CARDS[name]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", card.name)
    assert card.title
    # A network without weights of its own has no licence of its own either.
    without_weights = {"that of the weights"} if card.kind == "architecture" else set()
    assert card.licence in {"Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0"} | without_weights
    assert card.min_size <= card.size
    if card.kind == "keras" and card.weights is not None:
        assert card.data
        assert card.imagenet_top1 is None
        return
    assert re.fullmatch(r"\d{4}\.\d{5}|\d{4}\.\d{4}", card.paper)
    assert card.imagenet_top1 is not None
    assert 0.55 < card.imagenet_top1 < 0.9


def test_names_of_groups() -> None:
    assert measured("mobilenet_v2")[1].names == ("stem", *(f"block{n}" for n in range(1, 17)), "top")
    assert [layer.name for layer in measured("mobilenet_v2")[1]["top"].layers] == ["Conv_1", "Conv_1_bn"]
    assert measured("inception_v3")[1].names == ("stem", *(f"mixed{n}" for n in range(11)))
    assert measured("vgg16")[1].names == ("block1", "block2", "block3", "block4", "block5")
    assert measured("efficientnet_b0")[1].names[:4] == ("stem", "block1a", "block2a", "block2b")
    assert measured("efficientnet_lite0")[1].names == (
        *("stem", "block1a", "block2a", "block2b", "block3a", "block3b", "block4a", "block4b", "block4c"),
        *("block5a", "block5b", "block5c", "block6a", "block6b", "block6c", "block6d", "block7a", "top"),
    )
    assert measured("resnet50")[1].names[-2:] == ("stage5_block2", "stage5_block3")
