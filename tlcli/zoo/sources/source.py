"""The sources of pretrained networks, one module a kind, and what each module offers."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from tlcli.errors import ModelError
from tlcli.zoo.card import SOURCES, ModelCard
from tlcli.zoo.restored import Restored

if TYPE_CHECKING:
    import keras

# Kind of source, the part of `ModelCard.source` before the colon → its module in this package. Not listed: `keras` and
# `file`, which `model.backbone` builds because they also take weights files.
MODULES: dict[str, str] = {
    "package": "package",
    "architecture": "architecture",
    "state_dict": "state_dict",
    "tfhub": "saved_model",
    "caffe": "caffe",
    "slim": "slim",
    "kerashub": "kerashub",
}

# Kinds whose weights are in checkpoints, which may hold more or fewer variables than the network.
CHECKPOINTS = ("slim",)
# Kinds whose networks had a classifier that tlcli can build, too: files of their weights may hold it.
WITH_CLASSIFIER = ("architecture",)


class Source(Protocol):
    """What the module of a source offers."""

    def find_card(self, handle: str) -> ModelCard:
        """The card of a network: `source` is `KIND:handle`, with paths made absolute.

        Raises:
            ModelError: There is no such network, or the handle is malformed.
        """

    def network(
        self, card: ModelCard, *, size: tuple[int, int], arguments: Mapping[str, Any], weights: bool
    ) -> "keras.Model":
        """Build the network of a card without its top.

        Args:
            card: A card of this source, from `find_card` or from a card file.
            size: Input height and width, pixels.
            arguments: Architecture arguments of the user; they override those of the card.
            weights: True to load the pretrained weights; False to leave them random, for measurements.

        Returns:
            A functional model from float32 (batch, height, width, 3), preprocessed as the card says, to features:
            float32 (batch, height, width, channels), or (batch, channels) if the network pools them itself.

        Raises:
            ModelError: The network cannot be built from this card, size and arguments.
            WeightsError: The weights are missing, damaged or belong to another network.
        """


class CheckpointSource(Source, Protocol):
    """What the module of a source of checkpoints offers."""

    def restored(self, card: ModelCard, model: "keras.Model", arguments: Mapping[str, Any]) -> Restored:
        """Which variables of the checkpoint `network` restored.

        Args:
            card: The card.
            model: The network that `network` returned with its weights.
            arguments: The arguments that it got.
        """


class ClassifierSource(Source, Protocol):
    """What the module of a source in `WITH_CLASSIFIER` offers."""

    def whole(self, card: ModelCard) -> "keras.Model":
        """The network of a card with its classifier, with random weights, at the size of the card."""


def classifier_module(kind: str) -> ClassifierSource:
    """The module of a kind of source in `WITH_CLASSIFIER`."""
    return cast("ClassifierSource", module_of(kind))


def checkpoint_module(kind: str) -> CheckpointSource:
    """The module of a kind of source in `CHECKPOINTS`."""
    return cast("CheckpointSource", module_of(kind))


def module_of(kind: str) -> Source:
    """The module of a kind of source; imported here, because many load Keras.

    Raises:
        ModelError: There is no such kind.
    """
    if kind not in MODULES:
        raise ModelError(
            f"models from '{kind}:' are not supported", where="model", hint=f"Kinds of sources: {', '.join(SOURCES)}."
        )
    return cast("Source", importlib.import_module(f"{__package__}.{MODULES[kind]}"))
