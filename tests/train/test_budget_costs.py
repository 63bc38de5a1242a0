"""What training takes, reckoned: against what was measured, and in order."""

from pathlib import Path

import keras
import pytest
from keras import layers

from tlcli.model import structure
from tlcli.model.graph import measure
from tlcli.model.grouping import assign
from tlcli.model.groups import LayerGroups
from tlcli.model.selection import select
from tlcli.train import budget, freeze, plan
from tlcli.zoo import catalogue

# Peak of the whole process, GB: `tlcli finetune` for an epoch at 224 on 2 CPU cores, TensorFlow 2.21.
MEASURED = [
    ("mobilenet_v2", "head", 32, True, "frozen", 2.00),
    ("mobilenet_v2", "top:5", 32, True, "frozen", 1.85),
    ("mobilenet_v2", "top:5", 32, False, "frozen", 1.40),
    ("mobilenet_v2", "all", 16, True, "frozen", 1.61),
    ("mobilenet_v2", "all", 32, True, "frozen", 2.17),
    ("mobilenet_v2", "all", 32, True, "train", 3.34),
    ("resnet50", "top:3", 32, True, "frozen", 2.60),
    ("resnet50", "all", 32, True, "frozen", 3.58),
    ("vgg16", "top:1", 32, True, "frozen", 3.62),
    ("efficientnet_b0", "all", 32, True, "frozen", 3.33),
    ("densenet121", "all", 16, True, "frozen", 2.55),
    ("convnext_tiny", "top:5", 32, False, "frozen", 2.87),
]


def groups_of(name: str) -> LayerGroups:
    card = catalogue.find(name)
    found = structure.find(card, {}, (card.size, card.size), cache=Path("nowhere"))
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "selection", "batch", "stored", "norms", "peak"), MEASURED)
def test_memory_is_about_what_was_measured(
    name: str, selection: str, batch: int, stored: bool, norms: str, peak: float
) -> None:
    groups = groups_of(name)
    trained = select(selection, groups).layers
    found = budget.memory_bytes(groups, trained, batch=batch, stored=stored, batch_norm=norms)
    assert found / 1e9 == pytest.approx(peak, rel=0.2)


def test_deeper_and_larger_batches_take_more() -> None:
    groups = groups_of("resnet50")

    def found(count: int, batch: int) -> int:
        trained = select(f"top:{count}", groups).layers
        return budget.memory_bytes(groups, trained, batch=batch, stored=False, batch_norm="frozen")

    assert found(17, 32) > found(12, 32) > found(4, 32) > found(1, 32)
    assert found(17, 64) > found(17, 32) > found(17, 1)


def test_storing_spares_the_frozen_part_and_scoring_goes_forwards_only() -> None:
    assert budget.epoch_flops(70, 30, train=10, val=5, stored=True) == 30 * (3 * 10 + 5)
    assert budget.epoch_flops(70, 30, train=10, val=5, stored=False) == 30 * (3 * 10 + 5) + 70 * 15


@pytest.mark.parametrize("norms", ["frozen", "affine", "train"])
def test_reckoned_parameters_are_those_that_keras_trains(norms: str, lab) -> None:
    """Also of BatchNorm inside a nested layer, which stays frozen while the convolution beside it learns."""
    recipe = lab.recipe({"train": "all"})
    made = lab.classifier(recipe)
    chosen = select("block1..block2", lab.groups).layers
    variables = freeze.apply(made, chosen, batch_norm=norms)
    head = sum(int(keras.ops.size(weight)) for layer in made.head_layers for weight in layer.trainable_variables)
    trained = sum(int(keras.ops.size(variable)) for variable in variables) - head
    assert plan.trained_parameters(lab.groups, chosen, batch_norm=norms) == trained > 0


def test_layers_inside_others_count_for_memory() -> None:
    picture = keras.Input((16, 16, 3))
    inner = keras.Sequential([layers.Conv2D(8, 3, padding="same"), layers.Conv2D(8, 3, padding="same")])
    open_model = keras.Model(picture, layers.Conv2D(4, 1, name="end")(inner(picture)))
    groups = assign(measure(open_model), (), name="n", input_size=(16, 16))
    names = {layer.name for layer in groups.layers}
    one, two = (
        budget.memory_bytes(groups, names, batch=batch, stored=False, batch_norm="frozen") for batch in (1000, 2000)
    )
    assert two - one == pytest.approx(1000 * 4 / 3 * 4 * 16 * 16 * (8 + 8 + 4), rel=1e-6)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "mobilenet_synthetic"])
def test_a_round_takes_everything_where_that_is_cheap_and_else_a_third(name: str) -> None:
    groups = groups_of(name)
    least, flops = round(budget.ROUND_SHARE * len(groups)), sum(group.flops for group in groups)
    most = int(budget.CHEAP_FLOPS / (3 * flops))
    assert budget.groups_per_round(groups, most) == len(groups)
    assert budget.groups_per_round(groups, most + 1) == least
    assert (budget.is_cheap(groups, most), budget.is_cheap(groups, most + 1)) == (True, False)
