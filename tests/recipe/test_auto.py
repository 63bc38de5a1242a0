"""What a recipe leaves open until the images are counted: the batch, and how long a phase lasts."""

import pytest

from tlcli.recipe.phase import AUTO_STEPS
from tlcli.recipe.schema import FEW_IMAGES, Recipe

THAW = {"name": "thaw", "policy": "all", "epochs": "auto"}


def recipe(phase: dict[str, object] = THAW, **performance: object) -> Recipe:
    return Recipe.model_validate({"name": "r", "phases": [phase], "performance": performance})


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [(1, 16, AUTO_STEPS), (66, 16, 20), (514, 16, 3), (FEW_IMAGES - 1, 16, 3), (FEW_IMAGES, 32, 3), (100_000, 32, 3)],
)
def test_few_images_make_small_batches_and_more_epochs(images, batch, epochs):
    found = recipe(batch="auto").for_images(images, epochs=3)
    assert (found.performance.batch_size, found.phases[0].max_epochs) == (batch, epochs)


def test_a_network_may_ask_for_more_epochs():
    assert recipe().for_images(10_000, epochs=12).phases[0].max_epochs == 12


def test_what_is_written_stands():
    found = recipe({**THAW, "epochs": 1}, batch=7).for_images(10, epochs=12)
    assert (found.performance.batch_size, found.phases[0].max_epochs) == (7, 1)


def test_nothing_is_guessed_before_the_images_are_counted():
    made = recipe(batch="auto")
    with pytest.raises(RuntimeError, match="batch is still auto"):
        _ = made.performance.batch_size
    with pytest.raises(RuntimeError, match="epochs is still auto"):
        _ = made.phases[0].max_epochs


@pytest.mark.parametrize("step", ["0%", "101%", "x%", "half"])
def test_a_share_of_the_groups_is_a_percentage(step):
    with pytest.raises(ValueError, match="step"):
        recipe({"name": "thaw", "policy": "gradual", "step": step})
