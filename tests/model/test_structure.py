"""Stored structures: keys, damage, and estimates for other input sizes."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import pytest

from tlcli.errors import ModelError
from tlcli.model import structure
from tlcli.model.graph import measure, weightless
from tlcli.model.grouping import assign
from tlcli.model.layer_groups import Layer, LayerGroups
from tlcli.zoo import catalogue
from tlcli.zoo.card import GroupPattern, ModelCard

NARROW = {"alpha": 0.35}


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return catalogue.find("mobilenet_v2")


def measure_card(card: ModelCard, size: tuple[int, int], **arguments: float) -> LayerGroups:
    build = getattr(keras.applications, card.source.removeprefix("keras:"))
    with weightless():
        network = build(weights=None, include_top=False, input_shape=(*size, 3), **arguments)
    return assign(measure(network), card.groups, name=card.name, input_size=size)


def members(groups: LayerGroups) -> list[Layer]:
    return [layer for group in groups for layer in group.members]


def test_groups_survive_json(card: ModelCard) -> None:
    for name in ("mobilenet_v2", "convnext_tiny", "nasnet_mobile", "mobilenet_v3_small"):
        stored = structure.find(catalogue.find(name), {}, (224, 224), cache=Path("nowhere"))
        assert stored is not None
        assert structure.from_dict(json.loads(json.dumps(structure.to_dict(stored)))) == stored
    with pytest.raises(ModelError, match="not a stored structure"):
        structure.from_dict({"name": "x", "input_size": [1], "groups": []})


def test_layers_inside_layers_are_stored() -> None:
    stored = structure.find(catalogue.find("convnext_tiny"), {}, (224, 224), cache=Path("nowhere"))
    assert stored is not None
    stem = next(layer for layer in stored.groups[0].members if layer.kind == "Sequential")
    assert [part.kind for part in stem.parts] == ["Conv2D", "LayerNormalization"]
    assert sum(part.parameters for part in stem.parts) == stem.parameters
    assert sum(part.flops for part in stem.parts) == stem.flops
    assert [part.output_shape for part in stem.parts] == [(56, 56, 96)] * 2


def test_stored_groups_are_found(card: ModelCard, tmp_path: Path) -> None:
    groups = measure_card(card, (96, 96), **NARROW)
    assert structure.find(card, NARROW, (96, 96), cache=tmp_path) is None
    path = structure.store(groups, card, NARROW, cache=tmp_path)
    assert path.parent == tmp_path / "structures"
    assert structure.find(card, NARROW, (96, 96), cache=tmp_path) == groups
    assert structure.find(card, {"alpha": 0.5}, (96, 96), cache=tmp_path) is None


def test_the_bundled_structure_is_only_for_the_network_of_the_card(card: ModelCard, tmp_path: Path) -> None:
    stored = structure.find(card, {}, (224, 224), cache=tmp_path)
    assert stored is not None
    assert stored.parameters == card.parameters
    other_source = card.model_copy(update={"source": "file:mine.keras"})
    other_groups = card.model_copy(update={"groups": (GroupPattern(name="all", pattern=".*"),)})
    assert structure.find(other_source, {}, (224, 224), cache=tmp_path) is None
    assert structure.find(other_groups, {}, (224, 224), cache=tmp_path) is None
    assert structure.find(card, NARROW, (224, 224), cache=tmp_path) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}', '{"name": "mobilenet_v2"}'])
def test_a_damaged_file_is_ignored(card: ModelCard, tmp_path: Path, damage: str) -> None:
    groups = measure_card(card, (96, 96), **NARROW)
    path = structure.store(groups, card, NARROW, cache=tmp_path)
    path.write_text(damage)
    assert structure.find(card, NARROW, (96, 96), cache=tmp_path) is None
    structure.store(groups, card, NARROW, cache=tmp_path)
    assert structure.find(card, NARROW, (96, 96), cache=tmp_path) == groups


def test_keys_depend_on_source_arguments_and_patterns() -> None:
    pattern = GroupPattern(name="a", pattern="b")
    keys = {
        structure.key("keras:A", {}),
        structure.key("keras:B", {}),
        structure.key("keras:A", NARROW),
        structure.key("keras:A", {}, [pattern]),
    }
    assert len(keys) == 4
    assert structure.key("keras:A", {"a": 1, "b": 2}) == structure.key("keras:A", {"b": 2, "a": 1})


@pytest.mark.parametrize("size", [(96, 96), (160, 224), (32, 320), (97, 97)])
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b1", "mobilenet_v3_small", "resnet50"])
def test_other_sizes_of_networks_with_padding_are_exact(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    card = catalogue.find(name)
    stored, exact = structure.find(card, {}, size, cache=tmp_path), measure_card(card, size)
    assert stored is not None
    assert [replace(group, members=()) for group in stored] == [replace(group, members=()) for group in exact]
    for estimate, member in zip(members(stored), members(exact), strict=True):
        if member.kind == "ZeroPadding2D":
            # Keras pads to fit, by a pixel more or less; the next convolution evens this out.
            assert abs((estimate.output_shape[0] or 0) - (member.output_shape[0] or 0)) <= 1
        else:
            assert estimate == member


@pytest.mark.parametrize("side", [75, 100, 160, 301, 500])
def test_other_sizes_of_networks_without_padding_are_within_a_pixel(side: int, tmp_path: Path) -> None:
    card = catalogue.find("inception_v3")
    stored, exact = structure.find(card, {}, (side, side), cache=tmp_path), measure_card(card, (side, side))
    assert stored is not None
    assert stored.input_size == (side, side)
    assert stored.parameters == exact.parameters
    for estimate, group in zip(stored, exact, strict=True):
        assert estimate.output_shape[2] == group.output_shape[2]
        assert abs((estimate.output_shape[0] or 0) - (group.output_shape[0] or 0)) <= 1
