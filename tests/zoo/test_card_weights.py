"""The weights of a card: their hash, and the arguments that they fit."""

import hashlib
from pathlib import Path

import pytest

from tlcli.errors import WeightsError
from tlcli.zoo.card import ModelCard, require_arguments, verified_weights


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    path = tmp_path / "mine.weights.h5"
    path.write_bytes(bytes(range(256)) * 1000)
    return ModelCard(
        name="mine",
        source="keras:MobileNet",
        title="Mine",
        size=32,
        min_size=32,
        preprocessing="tf",
        licence="MIT",
        arguments={"alpha": 0.25},
        weights=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def test_a_file_with_the_right_hash_is_accepted(card: ModelCard) -> None:
    assert verified_weights(card) == Path(str(card.weights))


@pytest.mark.parametrize("position", [0, 128_000, -1])
def test_one_flipped_bit_is_detected(card: ModelCard, position: int) -> None:
    path = verified_weights(card)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        verified_weights(card)
    text = str(caught.value)
    assert caught.value.where == str(path)
    assert f"expected sha256 {card.sha256} (got {hashlib.sha256(data).hexdigest()})" in text
    assert "Fetch it again" in text
    assert "--weights FILE" in text


def test_a_missing_file_gives_the_next_step(card: ModelCard) -> None:
    Path(str(card.weights)).unlink()
    with pytest.raises(WeightsError, match=r"mine\.weights\.h5: the weights of mine are missing.*beside the card"):
        verified_weights(card)


def accepts(card: ModelCard, arguments: dict, **defaults: float) -> bool:
    try:
        require_arguments(card, arguments, **({"defaults": defaults} if defaults else {}))
    except WeightsError:
        return False
    return True


@pytest.mark.parametrize("arguments", [{}, {"alpha": 0.25}, {"depth_multiplier": 1}])
def test_arguments_equal_to_the_cards_are_accepted(card: ModelCard, arguments: dict) -> None:
    assert accepts(card, arguments)
    assert accepts(card, arguments, alpha=1.0, depth_multiplier=1)
    assert not accepts(card, arguments | {"alpha": 0.5})


def test_arguments_that_differ_from_the_card_are_refused(card: ModelCard) -> None:
    with pytest.raises(WeightsError) as caught:
        require_arguments(card, {"alpha": 1.0})
    assert caught.value.where == "model.arguments.alpha"
    assert "fit only {alpha: 0.25} (got {alpha: 1.0})" in caught.value.message
    assert "--model" in caught.value.hint


def test_arguments_that_differ_from_the_defaults_are_refused(card: ModelCard) -> None:
    with pytest.raises(WeightsError, match=r"fit only \{depth_multiplier: 1\} \(got \{depth_multiplier: 2\}\)"):
        require_arguments(card, {"depth_multiplier": 2}, defaults={"depth_multiplier": 1})
