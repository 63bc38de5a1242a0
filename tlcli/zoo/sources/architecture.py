"""Networks that tlcli builds itself, without weights to fetch: `architecture:NAME`, with `--weights FILE`."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tlcli.errors import ModelError, WeightsError, did_you_mean
from tlcli.paths import bundled
from tlcli.zoo.card import ModelCard, read_card, verified_weights

if TYPE_CHECKING:
    import keras

# Each is a module of `zoo.architectures` whose `build` also takes `include_top` and `classes`.
NAMES = ("squeezenet",)


def find_card(handle: str) -> ModelCard:
    """The bundled card of an architecture.

    Raises:
        ModelError: There is none.
    """
    if handle in NAMES:
        return read_card(bundled("models") / f"{handle}.yaml")
    raise _unknown(handle)


def network(card: ModelCard, *, size: tuple[int, int], arguments: Mapping[str, Any], weights: bool) -> "keras.Model":
    """Build the network of a card, see `Source.network`. Only a card file has weights of its own."""
    if arguments:
        raise ModelError(f"{card.name} takes no arguments (got {dict(arguments)})", where="model.arguments")
    built = _build(card, size)
    if weights:
        from tlcli.zoo.sources import weights_file

        require_weights(card)
        weights_file.load(built, verified_weights(card), with_top=lambda: whole(card))
    return built


def whole(card: ModelCard) -> "keras.Model":
    """The network with its classifier, with random weights, for weights files that have one."""
    return _build(card, (card.size, card.size), include_top=True)


def require_weights(card: ModelCard) -> None:
    """Check that a card has weights of its own.

    Raises:
        WeightsError: It has none.
    """
    if card.weights is None:
        raise WeightsError(
            f"no weights of {card.name} are published where tlcli could fetch them",
            where="model.weights",
            hint=f"Give your file: --model {card.name} --weights FILE (.h5, .weights.h5, .keras). Or --weights random.",
        )


def _build(card: ModelCard, size: tuple[int, int], *, include_top: bool = False) -> "keras.Model":
    name = card.source.partition(":")[2]
    if name not in NAMES:
        raise _unknown(name)
    if min(size) < card.min_size:
        hint = f"The smallest size is {card.min_size} {card.min_size}, the default size {card.size} {card.size}."
        raise ModelError(
            f"{card.name} does not accept images of {size[0]}x{size[1]} pixels", where="data.size", hint=hint
        )
    module = importlib.import_module(f"tlcli.zoo.architectures.{name}")
    built: keras.Model = module.build(size, include_top=include_top)
    return built


def _unknown(name: str) -> ModelError:
    hint = f"{did_you_mean(name, NAMES)} Architectures: {', '.join(NAMES)}.".strip()
    return ModelError(f"there is no architecture '{name}'", where="model", hint=hint)
