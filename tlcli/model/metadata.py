"""What a classifier file states besides its network: class names, input size, origin."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from tlcli.errors import ModelError
from tlcli.recipe.fields import Resize
from tlcli.recipe.schema import Recipe
from tlcli.zoo.card import ModelCard

# A member of the .keras archive that Keras itself passes over.
MEMBER = "tlcli.json"
RESTORE = "Train it again, or restore the file."


class NetworkOrigin(BaseModel):
    """The network that a classifier was made from: its card, what was asked of it, and groups left out at the top.

    `data` is the name of the folder of its images; `scores` are by split the classifier's own, as in run.json.
    """

    model_config = ConfigDict(frozen=True)

    card: ModelCard
    arguments: dict[str, Any] = Field(default_factory=dict)
    drop_top: int = 0
    data: str | None = None
    scores: dict[str, dict[str, float]] = Field(default_factory=dict)


def origin_of(recipe: Recipe, card: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]]) -> NetworkOrigin | None:
    """The origin of a classifier, or None if its network came from a model file, which may be gone later.

    Args:
        recipe: The recipe of the run.
        card: The card of its network, as JSON.
        scores: The scores by split, as in run.json.
    """
    if not str(card["source"]).startswith("keras:"):
        return None
    data = None if recipe.data.path is None else recipe.data.path.name
    kept = {name: {key: each[key] for key in ("accuracy", "loss", "count")} for name, each in scores.items()}
    # The weights are inside the file, so the card does not name any.
    own = ModelCard.model_validate({**card, "weights": None, "sha256": None})
    model = recipe.model
    return NetworkOrigin(card=own, arguments=model.arguments, drop_top=model.drop_top, data=data, scores=kept)


class ClassifierMetadata(BaseModel):
    """Classes in the order of the probabilities, input height and width in pixels, and how pictures get there.

    `origin` is known of networks that a card stands for, and of none that came as a file.
    """

    model_config = ConfigDict(frozen=True)

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    size: tuple[PositiveInt, PositiveInt]
    resize: Resize
    origin: NetworkOrigin | None = None

    def written(self) -> str:
        """As JSON; without an origin where none is known."""
        return self.model_dump_json(exclude={"origin"} if self.origin is None else None)


def read_metadata(path: Path) -> ClassifierMetadata:
    """The contract in a `.keras` file, read without Keras.

    Raises:
        ModelError: If the file is damaged or was not written by this program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return ClassifierMetadata.model_validate_json(archive.read(MEMBER))
    except KeyError as error:
        raise ModelError(
            "holds no class names", where=str(path), hint="Only classifiers written by tlcli say what they predict."
        ) from error
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"is not a classifier ({type(error).__name__})", where=str(path), hint=RESTORE) from error
