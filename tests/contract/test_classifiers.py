"""For every card: the classifier that is trained has the layers that the plan spoke of, and freezing reaches them."""

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
from tlcli.zoo.sources import applications

CARDS = catalogue.load()
CLASSES = ("a", "b", "c")
# One network of each family is looked at every time, its larger sisters with the slow tests.
LARGER = {
    *("convnext_small", "convnext_base", "convnext_large", "convnext_xlarge", "densenet169", "densenet201"),
    *(f"efficientnet_b{number}" for number in range(1, 8)),
    *("efficientnet_v2_b1", "efficientnet_v2_b2", "efficientnet_v2_b3", "efficientnet_v2_m", "efficientnet_v2_l"),
    *("nasnet_large", "resnet101", "resnet152", "resnet101_v2", "resnet152_v2", "vgg19"),
}


def test_there_is_a_card_for_every_network_of_keras_applications():
    networks = {name for name in dir(keras.applications) if inspect.isfunction(getattr(keras.applications, name))}
    assert len(networks) == 40
    assert {card.source.removeprefix("keras:") for card in CARDS.values()} == networks
    assert len(CARDS) == 41
    assert set(CARDS) >= LARGER


def _parameters(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGER else ()) for name in sorted(CARDS)]
)
def test_freezing_reaches_exactly_the_planned_layers(name):
    card = CARDS[name]
    size = (card.size, card.size)
    groups = graph.measure_groups(card, {}, size)
    with weightless():
        network = applications.architecture(card, size=size, arguments={})
        built = Backbone(card, network, size, "none", "")
        made = classifier.assemble(built, HeadSpec(), classes=CLASSES, resize="crop")
    head = plan.head_parameters_of(HeadSpec(), groups, len(CLASSES))
    assert _parameters(freeze.apply(made, frozenset(), batch_norm="frozen")) == head
    for selection in ("top:1", "top:30%", "all"):
        chosen = select(selection, groups).layers
        trained = freeze.apply(made, chosen, batch_norm="affine")
        planned = sum(layer.trainable_parameters for layer in groups.layers if layer.name in chosen)
        assert _parameters(trained) == planned + head, selection
    with_norms = _parameters(trained)
    without_norms = _parameters(freeze.apply(made, chosen, batch_norm="frozen"))
    planned_without = plan.trained_parameters(groups, chosen, batch_norm="frozen") + head
    assert without_norms == planned_without
    has_norms = any(group.batch_norms for group in groups.groups)
    assert (without_norms < with_norms) == has_norms
