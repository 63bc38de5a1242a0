"""TensorFlow Hub modules and other SavedModels: `tfhub:URL`, `tfhub:FOLDER` or `tfhub:FILE.tar.gz`.

A SavedModel is a program, so it is loaded only if it is trusted (`zoo.trust`). It becomes one opaque layer, which is
one layer group. It is trained where the module allows.

By the convention of TensorFlow Hub, images are RGB from 0 to 1:
https://www.tensorflow.org/hub/common_signatures/images. A Keras export states no preprocessing.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tlcli.errors import ModelError
from tlcli.zoo import hub, trust
from tlcli.zoo.card import GroupPattern, ModelCard, Preprocessing
from tlcli.zoo.formats import saved_model
from tlcli.zoo.formats.saved_model import SavedModel

if TYPE_CHECKING:
    import keras

DEFAULT_SIZE = 224


def find_card(handle: str) -> ModelCard:
    """The card of a trusted SavedModel; a URL is fetched if it is not in the cache of TensorFlow Hub.

    Raises:
        ModelError: There is no such module, it takes no images, or it is not trusted.
    """
    source, folder = hub.locate(handle)
    module = saved_model.read(folder)
    _require_trust(module, source)
    name = hub.short_name(source)
    height, width = (module.endpoint.image.shape or (None, None, None))[1:3]
    size = max([side for side in (height, width) if side], default=DEFAULT_SIZE)
    note = "" if height or width else f"; it states no input size, so {DEFAULT_SIZE} is the default"
    kind = "TensorFlow 1 module, not trainable" if not module.has_objects else "SavedModel"
    return ModelCard(
        name=name,
        source=f"tfhub:{source}",
        title=f"{kind} for {height or 'any'}x{width or 'any'} pixels{note}",
        size=size,
        min_size=1,
        preprocessing=_preprocessing(module),
        licence="that of the module",
        groups=(GroupPattern(name=name, pattern=re.escape(name)),),
        data="not stated by the module",
    )


def network(card: ModelCard, *, size: tuple[int, int], arguments: Mapping[str, Any], weights: bool) -> "keras.Model":
    """The SavedModel of a card as a network of one layer; see `source.Source`. It always has its own weights.

    Raises:
        ModelError: It is not trusted, cannot be loaded, or does not work at this size.
    """
    import keras

    from tlcli.zoo.sources.saved_model_layer import SavedModelLayer

    if given := {**card.arguments, **arguments}:
        hint = "Remove the key."
        raise ModelError(f"a SavedModel takes no arguments (got {given})", where="model.arguments", hint=hint)
    source, folder = hub.locate(card.source.partition(":")[2])
    module = saved_model.read(folder)
    _require_trust(module, source)
    fixed = (module.endpoint.image.shape or (None, None, None))[1:3]
    if any(side not in (None, asked) for side, asked in zip(fixed, size, strict=True)):
        raise ModelError(
            f"{card.name} takes images of {fixed[0]}x{fixed[1]} pixels only (got {size[0]}x{size[1]})",
            where="data.size",
            hint="Set data.size to auto.",
        )
    layer = SavedModelLayer.from_folder(module, sha256=trust.folder_sha256(folder), size=size, name=card.name)
    inputs = keras.Input((*size, 3), name="images")
    return keras.Model(inputs, layer(inputs), name=card.name)


def _require_trust(module: SavedModel, source: str) -> None:
    found = (
        f"It contains operations that reach files or Python: {', '.join(module.reaching)}." if module.reaching else ""
    )
    trust.require(trust.folder_sha256(module.folder), where=f"tfhub:{source}", facts=found)


def _preprocessing(module: SavedModel) -> Preprocessing | None:
    if module.endpoint.name == "serve":
        return None
    return "unit" if "float" in module.endpoint.image.dtype else "none"
