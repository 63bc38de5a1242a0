"""`tlcli zoo`."""

from collections.abc import Callable

import pytest

from tlcli.paths import bundled
from tlcli.zoo import catalogue


def test_list_shows_every_network_with_its_numbers(tlcli: Callable) -> None:
    result = tlcli("zoo", "list")
    assert (result.code, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == list(catalogue.load())
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("mobilenet_v2 ")]
    assert line.split() == ["mobilenet_v2", "MobileNetV2", "2.26", "M", "224", "71.3%", "download"]
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("mobilenet_synthetic ")]
    assert line.split()[-2:] == ["–", "bundled"]


@pytest.mark.parametrize(("pattern", "count"), [("efficientnet*", 18), ("EfficientNet_V2*", 7), ("resnet50", 1)])
def test_list_accepts_wildcards(pattern: str, count: int, tlcli: Callable) -> None:
    rows = tlcli("zoo", "list", pattern, "--json").document
    assert len(rows) == count
    assert {row["source"].partition(":")[0] for row in rows} <= {"keras", "package"}
    assert len(tlcli("zoo", "list", pattern).stdout.splitlines()) == count + 1


@pytest.mark.parametrize("name", ["mobilenet_v2", "keras:MobileNetV2", "MobileNet-V2"])
def test_show_prints_every_field_of_a_card(name: str, tlcli: Callable) -> None:
    card = tlcli("zoo", "show", name, "--json").document
    assert card == catalogue.load()["mobilenet_v2"].model_dump(mode="json")
    text = tlcli("zoo", "show", name).stdout
    assert [line.split()[0] for line in text.splitlines()] == list(card)
    assert "licence        Apache-2.0" in text
    assert "data           ImageNet" in text
    assert "weights        –" in text


def test_show_names_bundled_weights(tlcli: Callable) -> None:
    card, shown = catalogue.find("mobilenet_synthetic"), tlcli("zoo", "show", "mobilenet_synthetic", "--json").document
    assert (shown["weights"], shown["sha256"], shown["data"]) == (card.weights, card.sha256, card.data)
    text = tlcli("zoo", "show", "mobilenet_synthetic").stdout
    assert f"weights        {bundled('models') / 'mobilenet_synthetic.weights.h5'}" in text
    assert f"sha256         {card.sha256}" in text
    assert f"data           {card.data}" in text
