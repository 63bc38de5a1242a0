"""What `auto` means for unfreezing rounds: by quality, card, images and cost."""

import pytest

from tlcli.model.layer_groups import Layer, LayerGroup, LayerGroups
from tlcli.recipe.schema import FEW_IMAGES, Recipe
from tlcli.train import budget
from tlcli.train.policy import rounds
from tlcli.train.rounds import LONG_ROUND, MIN_STEPS, resolve_rounds

AUTO = {"min_relative_gain": "auto", "patience": "auto", "after_rollback": "auto"}
UNFREEZE = {"name": "unfreeze", "policy": "gradual", "step": "auto", "epochs": "auto", "until": AUTO}
CHEAP, DEAR = 10, 10**9


def groups(flops: int) -> LayerGroups:
    """Ten groups of one layer."""
    layers = [Layer(f"layer{number}", "Conv2D", parameters=4, trainable_parameters=4) for number in range(10)]
    return LayerGroups(
        "synthetic",
        (8, 8),
        tuple(
            LayerGroup(layer.name, (layer,), layer.name, is_cut_point=True, output_shape=(1, 1, 4), flops=flops)
            for layer in layers
        ),
    )


def resolve(phase=UNFREEZE, *, images=2000, epochs=3, flops=DEAR, **recipe):
    loaded = Recipe.model_validate({"name": "r", "phases": [phase], "performance": {"batch": "auto"}, **recipe})
    return resolve_rounds(loaded.for_images(images), groups(flops), images=images, epochs=epochs).phases[0]


@pytest.mark.parametrize(
    ("images", "epochs"),
    [(1, MIN_STEPS), (66, 20), (514, 3), (FEW_IMAGES - 1, 3), (FEW_IMAGES, 3), (100_000, 3)],
)
def test_few_images_give_more_epochs(images, epochs):
    assert resolve(images=images, quality="fast").max_epochs == epochs


def test_a_card_can_require_more_epochs():
    assert resolve(quality="fast", epochs=12).max_epochs == 12
    assert resolve(epochs=12).max_epochs == 12


@pytest.mark.parametrize("quality", ["fast", "balanced"])
def test_explicit_values_stay(quality):
    until = {"min_relative_gain": 0.1, "patience": 7}
    phase = {**UNFREEZE, "step": 2, "epochs": 1, "until": until}
    resolved = resolve(phase, quality=quality)
    assert (resolved.step, resolved.epochs, resolved.until.model_dump()) == (2, 1, resolved.until.model_dump() | until)


def test_fast_unfreezes_everything_where_that_is_cheap_and_else_the_top():
    cheap, dear = resolve(flops=CHEAP, quality="fast"), resolve(quality="fast")
    assert (cheap.step, cheap.until.min_relative_gain) == ("all", 0.0)
    assert (dear.step, dear.until.min_relative_gain) == ("30%", 0.5)
    assert cheap.until.patience == dear.until.patience == 1


def test_the_border_of_cheap_training():
    phase, images = {**UNFREEZE, "epochs": 1}, 1000
    flops = int(budget.CHEAP_FLOPS / (3 * images * 10))
    assert resolve(phase, images=images, flops=flops, quality="fast").step == "all"
    assert resolve(phase, images=images, flops=flops + 1, quality="fast").step == "30%"


def test_balanced_begins_as_fast_trains_deeper_layers_for_longer_then_more():
    balanced = resolve()
    assert rounds(balanced, groups(DEAR)) == [3, 6, 8, 10]
    assert [balanced.epochs_of(number) for number in range(3)] == [3, LONG_ROUND, LONG_ROUND]
    assert [balanced.until.relative_gain_after(number) for number in range(3)] == [0.0, 0.5, 0.5]
    assert [balanced.until.max_rollbacks_after(number) for number in range(3)] == [2, 1, 1]
    assert balanced.until.after_rollback == "if_learnable"


def test_balanced_unfreezes_everything_where_that_is_cheap():
    cheap = resolve(flops=CHEAP, images=200)
    assert (cheap.step, cheap.until.min_relative_gain) == ("all", 0.0)
    assert cheap.max_epochs == max(LONG_ROUND, cheap.epochs_of(0))


def test_the_quality_does_not_change_the_step_of_a_card_nor_other_policies():
    assert resolve({**UNFREEZE, "step": "all"}).step == "all"
    fixed = {"name": "fine-tune", "train": "top:3", "epochs": "auto"}
    assert resolve(fixed) == resolve(fixed, quality="fast")
