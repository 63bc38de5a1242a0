"""Metadata of a classifier file: class names, input size, resize mode and origin."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from tlcli.errors import ModelError
from tlcli.paths import DAMAGED_ZIP
from tlcli.recipe.fields import Resize
from tlcli.recipe.schema import Recipe
from tlcli.zoo.card import ModelCard
from tlcli.zoo.formats import content

# The member of the .keras archive with the metadata; Keras ignores it.
MEMBER = "tlcli.json"
RESTORE = "Restore the file, or train the classifier again."
_NAME_A_RUN = "Name the run folder that `tlcli finetune` printed, or model.keras in it."


class NetworkOrigin(BaseModel):
    """The pretrained network from which a classifier was trained.

    Attributes:
        card: The card of the network, without weights.
        arguments: Architecture arguments of the recipe.
        drop_top: Number of layer groups left out at the top.
    """

    model_config = ConfigDict(frozen=True)

    card: ModelCard
    arguments: dict[str, Any] = Field(default_factory=dict)
    drop_top: int = 0


class TrainingFacts(BaseModel):
    """How a classifier was trained: the facts that travel with its file, without paths.

    Attributes:
        model: Name of the network.
        licence: Licence of its weights; None if it is not stated.
        data: Name of the image folder; None without one.
        images: Number of images by split.
        recipe: Name of the recipe.
        seed: Seed of the run.
        started: Time in UTC, ISO 8601.
        scores: Accuracy, loss and number of images by split.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    licence: str | None = None
    data: str | None = None
    images: dict[str, int] = Field(default_factory=dict)
    recipe: str = ""
    seed: int = 0
    started: str = ""
    scores: dict[str, dict[str, int | float]] = Field(default_factory=dict)


def origin_of(recipe: Recipe, card: Mapping[str, Any]) -> NetworkOrigin | None:
    """The origin of a classifier; None if the network came from a model file, which may not exist later.

    Args:
        recipe: The recipe of the run.
        card: The card of the network, as JSON.
    """
    if str(card["source"]).startswith("file:"):
        return None
    # The classifier file holds the weights, so the card names none.
    own = ModelCard.model_validate({**card, "weights": None, "sha256": None})
    return NetworkOrigin(card=own, arguments=recipe.model.arguments, drop_top=recipe.model.drop_top)


class ClassifierMetadata(BaseModel):
    """What a classifier file states besides its network.

    Attributes:
        classes: Class names in the order of the probabilities.
        size: Input height and width, pixels.
        resize: How images are resized to `size`.
        origin: The pretrained network; None if it came from a model file.
        training: How the classifier was trained; None if it is not known.
    """

    model_config = ConfigDict(frozen=True)

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    size: tuple[PositiveInt, PositiveInt]
    resize: Resize
    origin: NetworkOrigin | None = None
    training: TrainingFacts | None = None

    def to_json(self) -> str:
        """The metadata as JSON text; without the keys `origin` and `training` where there are none."""
        return self.model_dump_json(exclude={name for name in ("origin", "training") if getattr(self, name) is None})


def read_metadata(path: Path) -> ClassifierMetadata:
    """Read the metadata of a `.keras` file, without Keras.

    Raises:
        ModelError: The file is damaged, or tlcli did not write it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return ClassifierMetadata.model_validate_json(archive.read(MEMBER))
    except KeyError as error:
        raise ModelError(
            "the file holds no class names", where=str(path), hint="Give a classifier that tlcli wrote."
        ) from error
    except DAMAGED_ZIP as error:
        is_invalid = isinstance(error, ValidationError)
        why = "what tlcli wrote about it is damaged" if is_invalid else content.reason(path, error, "a zip archive")
        hint = RESTORE if content.kind_of(path) == "a zip archive" else _NAME_A_RUN
        raise ModelError(f"is not a classifier: {why}", where=str(path), hint=hint) from error
