"""Stored structures: found again, never mistaken for another network's, fitted to other input sizes."""

from pathlib import Path

import keras
import pytest

from tlcli.model import structure
from tlcli.model.graph import measure, weightless
from tlcli.model.groups import LayerGroups, assign
from tlcli.zoo import catalogue
from tlcli.zoo.card import GroupPattern, ModelCard

NARROW = {"alpha": 0.35}


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return catalogue.find("mobilenet_v2")


def measured(card: ModelCard, size: tuple[int, int], **arguments: float) -> LayerGroups:
    build = getattr(keras.applications, card.source.removeprefix("keras:"))
    with weightless():
        network = build(weights=None, include_top=False, input_shape=(*size, 3), **arguments)
    return assign(measure(network), card.groups, name=card.name, input_size=size)


def test_what_was_stored_is_found(card: ModelCard, tmp_path: Path) -> None:
    groups = measured(card, (96, 96), **NARROW)
    assert structure.find(card, NARROW, (96, 96), cache=tmp_path) is None
    path = structure.store(groups, card, NARROW, cache=tmp_path)
    assert path.parent == tmp_path / "structures"
    assert structure.find(card, NARROW, (96, 96), cache=tmp_path) == groups
    assert structure.find(card, {"alpha": 0.5}, (96, 96), cache=tmp_path) is None


def test_the_bundled_structure_is_for_the_cards_own_network_only(card: ModelCard, tmp_path: Path) -> None:
    found = structure.find(card, {}, (224, 224), cache=tmp_path)
    assert found is not None
    assert found.parameters == card.parameters
    other_source = card.model_copy(update={"source": "file:mine.keras"})
    other_groups = card.model_copy(update={"groups": (GroupPattern(name="all", pattern=".*"),)})
    assert structure.find(other_source, {}, (224, 224), cache=tmp_path) is None
    assert structure.find(other_groups, {}, (224, 224), cache=tmp_path) is None
    assert structure.find(card, NARROW, (224, 224), cache=tmp_path) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}', '{"name": "mobilenet_v2"}'])
def test_a_damaged_file_counts_as_none(card: ModelCard, tmp_path: Path, damage: str) -> None:
    groups = measured(card, (96, 96), **NARROW)
    path = structure.store(groups, card, NARROW, cache=tmp_path)
    path.write_text(damage)
    assert structure.find(card, NARROW, (96, 96), cache=tmp_path) is None
    structure.store(groups, card, NARROW, cache=tmp_path)
    assert structure.find(card, NARROW, (96, 96), cache=tmp_path) == groups


def test_keys_differ_in_source_arguments_and_patterns() -> None:
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
def test_other_sizes_of_padding_networks_are_exact(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    card = catalogue.find(name)
    assert structure.find(card, {}, size, cache=tmp_path) == measured(card, size)


@pytest.mark.parametrize("side", [75, 100, 160, 301, 500])
def test_other_sizes_of_networks_without_padding_are_within_a_pixel(side: int, tmp_path: Path) -> None:
    card = catalogue.find("inception_v3")
    found, exact = structure.find(card, {}, (side, side), cache=tmp_path), measured(card, (side, side))
    assert found is not None
    assert found.input_size == (side, side)
    assert found.parameters == exact.parameters
    for guess, group in zip(found, exact, strict=True):
        assert guess.output_shape[2] == group.output_shape[2]
        assert abs((guess.output_shape[0] or 0) - (group.output_shape[0] or 0)) <= 1
