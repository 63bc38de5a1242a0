"""Estimated memory and multiply-adds, compared with measurements."""

from pathlib import Path

import keras
import pytest
from keras import layers

from tlcli.model import structure
from tlcli.model.graph import measure
from tlcli.model.grouping import assign
from tlcli.model.layer_groups import LayerGroups
from tlcli.model.selection import select
from tlcli.train import budget, freeze, plan
from tlcli.zoo import catalogue

# Peak memory of the whole process in GB: one epoch of `tlcli finetune` at 224 pixels on 2 CPU cores, TensorFlow 2.21.
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
    groups = structure.find(card, {}, (card.size, card.size), cache=Path("nowhere"))
    assert groups is not None
    return groups


@pytest.mark.parametrize(("name", "selection", "batch", "stored", "norms", "peak"), MEASURED)
def test_estimated_memory_is_close_to_the_measured_peak(
    name: str, selection: str, batch: int, stored: bool, norms: str, peak: float
) -> None:
    groups = groups_of(name)
    trained = select(selection, groups).layers
    estimate = budget.memory_bytes(groups, trained, batch=batch, stored=stored, batch_norm=norms)
    assert estimate / 1e9 == pytest.approx(peak, rel=0.2)


def test_memory_grows_with_depth_and_batch() -> None:
    groups = groups_of("resnet50")

    def memory(count: int, batch: int) -> int:
        trained = select(f"top:{count}", groups).layers
        return budget.memory_bytes(groups, trained, batch=batch, stored=False, batch_norm="frozen")

    assert memory(17, 32) > memory(12, 32) > memory(4, 32) > memory(1, 32)
    assert memory(17, 64) > memory(17, 32) > memory(17, 1)


def test_stored_features_cost_nothing_and_validation_has_no_backward_pass() -> None:
    assert budget.epoch_flops(70, 30, train=10, val=5, stored=True) == 30 * (3 * 10 + 5)
    assert budget.epoch_flops(70, 30, train=10, val=5, stored=False) == 30 * (3 * 10 + 5) + 70 * 15


@pytest.mark.parametrize("norms", ["frozen", "affine", "train"])
def test_trained_parameters_are_those_that_keras_trains(norms: str, lab) -> None:
    """Includes BatchNorm inside a nested layer, which stays frozen while the convolution beside it is trained."""
    recipe = lab.recipe({"train": "all"})
    classifier = lab.classifier(recipe)
    chosen = select("block1..block2", lab.groups).layers
    variables = freeze.set_trainable(classifier, chosen, batch_norm=norms)
    head = sum(int(keras.ops.size(weight)) for layer in classifier.head_layers for weight in layer.trainable_variables)
    trained = sum(int(keras.ops.size(variable)) for variable in variables) - head
    assert plan.trained_parameters(lab.groups, chosen, batch_norm=norms) == trained > 0


def test_nested_layers_count_towards_memory() -> None:
    image = keras.Input((16, 16, 3))
    inner = keras.Sequential([layers.Conv2D(8, 3, padding="same"), layers.Conv2D(8, 3, padding="same")])
    model = keras.Model(image, layers.Conv2D(4, 1, name="end")(inner(image)))
    groups = assign(measure(model), (), name="n", input_size=(16, 16))
    names = {layer.name for layer in groups.layers}
    one, two = (
        budget.memory_bytes(groups, names, batch=batch, stored=False, batch_norm="frozen") for batch in (1000, 2000)
    )
    assert two - one == pytest.approx(1000 * 4 / 3 * 4 * 16 * 16 * (8 + 8 + 4), rel=1e-6)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "mobilenet_synthetic"])
def test_training_is_cheap_up_to_a_number_of_images(name: str) -> None:
    groups = groups_of(name)
    cheap = int(budget.CHEAP_FLOPS / (3 * sum(group.flops for group in groups)))
    assert (budget.is_cheap(groups, cheap), budget.is_cheap(groups, cheap + 1)) == (True, False)
