"""Recipe values that depend on the number of images: the batch size and the epochs of a phase."""

import pytest

from tlcli.recipe.phase import AUTO_STEPS
from tlcli.recipe.schema import FEW_IMAGES, Recipe

UNFREEZE = {"name": "unfreeze", "policy": "all", "epochs": "auto"}


def recipe(phase: dict[str, object] = UNFREEZE, **performance: object) -> Recipe:
    return Recipe.model_validate({"name": "r", "phases": [phase], "performance": performance})


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [(1, 16, AUTO_STEPS), (66, 16, 20), (514, 16, 3), (FEW_IMAGES - 1, 16, 3), (FEW_IMAGES, 32, 3), (100_000, 32, 3)],
)
def test_few_images_give_small_batches_and_more_epochs(images, batch, epochs):
    resolved = recipe(batch="auto").for_images(images, epochs=3)
    assert (resolved.performance.batch_size, resolved.phases[0].max_epochs) == (batch, epochs)


def test_a_card_can_require_more_epochs():
    assert recipe().for_images(10_000, epochs=12).phases[0].max_epochs == 12


def test_explicit_values_stay():
    resolved = recipe({**UNFREEZE, "epochs": 1}, batch=7).for_images(10, epochs=12)
    assert (resolved.performance.batch_size, resolved.phases[0].max_epochs) == (7, 1)


def test_unresolved_auto_values_raise():
    unresolved = recipe(batch="auto")
    with pytest.raises(RuntimeError, match="batch is still auto"):
        _ = unresolved.performance.batch_size
    with pytest.raises(RuntimeError, match="epochs is still auto"):
        _ = unresolved.phases[0].max_epochs


@pytest.mark.parametrize("step", ["0%", "101%", "x%", "half"])
def test_invalid_shares_of_the_groups_are_refused(step):
    with pytest.raises(ValueError, match="step"):
        recipe({"name": "unfreeze", "policy": "gradual", "step": step})
