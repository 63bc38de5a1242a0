"""The list of the weights that Keras publishes is that of the installed Keras, and the right file is chosen."""

import importlib.util

import keras
import pytest

from tlcli.errors import WeightsError
from tlcli.paths import bundled
from tlcli.zoo import catalogue, published

CHECKOUT = bundled("models").parent
ASKED = [
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "ConvNeXtTiny",
    "ResNet50",
]


def asked(handle: str, size: int, arguments: dict) -> dict | None:
    spec = importlib.util.spec_from_file_location("listing", CHECKOUT / "scripts" / "list_published_weights.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.asked(getattr(keras.applications, handle), size, arguments)


@pytest.mark.parametrize("handle", ASKED)
def test_file_address_and_hash_are_those_that_keras_asks_for(handle: str) -> None:
    card = catalogue.find(f"keras:{handle}")
    narrow = {"alpha": 0.75} if "MobileNet" in handle else {}
    for size, arguments in ((96, narrow), (card.size, {}), (100, narrow)):
        file = published.remote_file(card, arguments=arguments, size=(size, size))
        expected = asked(handle, size, arguments)
        assert expected is not None
        assert (file.name, file.url, file.hash) == (expected["name"], expected["url"], expected["hash"] or "")


def test_every_network_of_keras_has_files() -> None:
    cards = [card for card in catalogue.load().values() if card.kind == "keras" and card.weights is None]
    assert len(cards) == 40
    for card in cards:
        file = published.remote_file(card)
        assert file is not None
        assert file.url.startswith("https://storage.googleapis.com/")
        assert file.hash or card.name in ("mobilenet", "mobilenet_v2"), "Keras states no hash for these two"
        assert file in [other for _, _, other in published.all_files(card)]


def test_a_network_with_its_own_weights_has_none() -> None:
    card = catalogue.find("mobilenet_synthetic")
    assert published.remote_file(card) is None
    assert published.all_files(card) == []


@pytest.mark.parametrize(
    ("size", "expected"), [((96, 96), "_96_"), ((100, 100), "_224_"), ((96, 128), "_224_"), (None, "_224_")]
)
def test_the_size_chooses_the_file(size: tuple[int, int] | None, expected: str) -> None:
    file = published.remote_file(catalogue.find("mobilenet_v2"), arguments={"alpha": 0.35}, size=size)
    assert expected in file.name
    assert "_0.35_" in file.name


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("mobilenet_v2", {"alpha": 0.42}), ("mobilenet", {"depth_multiplier": 2}), ("mobilenet_v2", {"alpha": "wide"})],
)
def test_arguments_without_weights_list_those_with(name: str, arguments: dict) -> None:
    with pytest.raises(WeightsError, match=r"publishes no ImageNet weights .*\{alpha: 1.0\}.*--weights random"):
        published.remote_file(catalogue.find(name), arguments=arguments)
