"""Recipe values that are `auto`, and steps that are refused."""

import pytest

from tlcli.recipe.schema import FEW_IMAGES, Recipe

UNFREEZE = {"name": "unfreeze", "policy": "all", "epochs": "auto"}


def recipe(phase: dict[str, object] = UNFREEZE, **performance: object) -> Recipe:
    return Recipe.model_validate({"name": "r", "phases": [phase], "performance": performance})


@pytest.mark.parametrize(("images", "batch"), [(1, 16), (FEW_IMAGES - 1, 16), (FEW_IMAGES, 32), (100_000, 32)])
def test_few_images_give_small_batches(images, batch):
    assert recipe(batch="auto").for_images(images).performance.batch_size == batch


def test_an_explicit_batch_stays():
    assert recipe(batch=7).for_images(10).performance.batch_size == 7


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


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"policy": "all", "epochs": [3, 8]}, "epochs: a list needs a policy with rounds"),
        ({"policy": "gradual", "epochs": [3, 0]}, "every round must train"),
        ({"policy": "gradual", "epochs": []}, "epochs"),
        ({"policy": "gradual", "step": []}, "step"),
        ({"policy": "gradual", "step": ["30%", "double"]}, "step"),
        ({"policy": "gradual", "step": ["30%", 0]}, "neither first nor last"),
        ({"policy": "gradual", "step": [0, "30%"]}, "neither first nor last"),
        ({"policy": "gradual", "until": {"min_relative_gain": [0.5, 1.5]}}, "min_relative_gain"),
    ],
)
def test_lists_that_do_not_fit_are_refused(phase, message):
    with pytest.raises(ValueError, match=message):
        recipe({"name": "unfreeze", **phase})
