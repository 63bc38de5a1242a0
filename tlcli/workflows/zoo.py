"""Zoo: add a network of one's own, from a run, a model file or a card file."""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tlcli.errors import ModelError
from tlcli.evaluate.run_folder import classifier_file
from tlcli.report import record
from tlcli.zoo import catalogue, own
from tlcli.zoo.card import ModelCard, Preprocessing

Loading = Callable[[], AbstractContextManager[None]]
MODEL_FILE = "model.keras"


def add(
    source: Path, name: str, *, loading: Loading, licence: str | None = None, preprocessing: Preprocessing | None = None
) -> ModelCard:
    """Add a network to one's own zoo.

    Of a run, the network is taken without resizing, preprocessing and head; its card keeps preprocessing, size and
    layer groups. A model file is copied as it is. A card file is copied with its weights.

    Args:
        source: Run folder, model file or card file.
        name: Name of the network.
        loading: Makes the context in which Keras is imported; needed for a run only.
        licence: Licence of the weights; None for that of the source.
        preprocessing: How images become the input; None for that of the source.

    Returns:
        The card.

    Raises:
        TlcliError: If the source is none of these, the name is taken, or the files cannot be written.
    """
    own.check_name(name)
    if not source.exists():
        hint = "Name a run folder, a .keras or .h5 file, or a card file."
        raise ModelError("there is no such file", where=str(source), hint=hint)
    changes = {"name": name, "licence": licence, "preprocessing": preprocessing}
    given = {key: value for key, value in changes.items() if value is not None}
    if (source / "run.json").is_file():
        if preprocessing is not None:
            hint = "Leave it out: the run states it."
            raise ModelError("cannot be set for a run", where="--preprocessing", hint=hint)
        return _add_run(source, given, loading)
    card = catalogue.find(str(source)).model_copy(update=given)
    kind, _, handle = card.source.partition(":")
    if kind == "file":
        file = Path(handle)
        own.add_card(card.model_copy(update={"source": f"file:{file.name}"}), {file.name: file})
    else:
        files = {} if card.weights is None else {Path(card.weights).name: Path(card.weights)}
        own.add_card(card, files)
    return own.find(name)


def _add_run(run: Path, given: dict[str, str], loading: Loading) -> ModelCard:
    """Add the network of a run."""
    file, model = classifier_file(run), record.read(run).model
    base, size = ModelCard.model_validate(model["card"]), (model["size"][0], model["size"][1])
    with loading():
        from tlcli.model import reuse
    network = reuse.network_of(file, size)
    images = Path(str(record.read(run).data.get("path") or "images")).name
    card = base.model_copy(
        update={
            "source": f"file:{MODEL_FILE}",
            "title": f"{base.title}, fine-tuned on {images}",
            "size": max(size),
            "parameters": network.count_params(),
            "imagenet_top1": None,
            "groups": reuse.fitting(base.groups, network),
            "arguments": {},
            "weights": None,
            "sha256": None,
            "data": f"{base.data or 'ImageNet'}, then {images}",
        }
        | given
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        network.save(path)
        own.add_card(card, {MODEL_FILE: path})
    return own.find(card.name)
