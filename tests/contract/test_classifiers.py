"""For every card: freezing the classifier leaves exactly the planned parameters trainable."""

import inspect

import keras
import numpy as np
import pytest

from tlcli.model import classifier, graph
from tlcli.model.backbone import Backbone
from tlcli.model.graph import weightless
from tlcli.model.selection import select
from tlcli.recipe.schema import HeadSpec
from tlcli.train import freeze, plan
from tlcli.zoo import catalogue

CARDS = {name: card for name, card in catalogue.load().items() if card.kind in ("keras", "package")}
CLASSES = ("a", "b", "c")
# Larger networks of families whose smallest member is always tested. They are slow tests.
LARGER = {
    *("convnext_small", "convnext_base", "convnext_large", "convnext_xlarge", "densenet169", "densenet201"),
    *(f"efficientnet_b{number}" for number in range(1, 8)),
    *("efficientnet_v2_b1", "efficientnet_v2_b2", "efficientnet_v2_b3", "efficientnet_v2_m", "efficientnet_v2_l"),
    *("nasnet_large", "resnet101", "resnet152", "resnet101_v2", "resnet152_v2", "vgg19"),
}


def test_there_is_a_card_for_every_network_of_keras_applications():
    networks = {name for name in dir(keras.applications) if inspect.isfunction(getattr(keras.applications, name))}
    assert len(networks) == 40
    assert {card.source.removeprefix("keras:") for card in CARDS.values() if card.kind == "keras"} == networks
    assert len(CARDS) == 44
    assert set(CARDS) >= LARGER


def _parameters(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGER else ()) for name in sorted(CARDS)]
)
def test_exactly_the_planned_layers_are_trainable(name):
    card = CARDS[name]
    size = (card.size, card.size)
    groups = graph.measure_groups(card, {}, size)
    with weightless():
        network = graph.build_unweighted(card, {}, size)
        backbone = Backbone(card, network, size, "none", "")
        assembled = classifier.assemble(backbone, HeadSpec(), classes=CLASSES, resize="crop")
    head = plan.head_parameters_of(HeadSpec(), groups, len(CLASSES))
    assert _parameters(freeze.set_trainable(assembled, frozenset(), batch_norm="frozen")) == head
    for selection in ("top:1", "top:30%", "all"):
        layers = select(selection, groups).layers
        trained = freeze.set_trainable(assembled, layers, batch_norm="affine")
        planned = sum(layer.trainable_parameters for layer in groups.layers if layer.name in layers)
        assert _parameters(trained) == planned + head, selection
    with_norms = _parameters(trained)
    without_norms = _parameters(freeze.set_trainable(assembled, layers, batch_norm="frozen"))
    planned_without = plan.trained_parameters(groups, layers, batch_norm="frozen") + head
    assert without_norms == planned_without
    has_norms = any(group.batch_norms for group in groups.groups)
    assert (without_norms < with_norms) == has_norms
