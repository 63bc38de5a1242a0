"""Bundle folders: an exported classifier with its labels, card and hashes."""

import json
from pathlib import Path
from typing import Any

from tlcli.errors import ModelError
from tlcli.zoo.trust import folder_sha256

CARD = "card.json"
REFUSED = ".refused"


def is_bundle(path: Path) -> bool:
    """True for a folder with a card."""
    return (path / CARD).is_file()


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a bundle.

    Raises:
        ModelError: It is damaged.
    """
    file = folder / CARD
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(file) from error
    if not isinstance(card, dict) or not isinstance(card.get("sha256"), str) or not isinstance(card.get("file"), str):
        raise _damaged(file)
    return card


def classifier_of(folder: Path) -> Path:
    """The file, or the folder of a SavedModel, with the classifier of a bundle, checked against its recorded hash.

    Raises:
        ModelError: The card is damaged, the export was refused, or the classifier is missing or changed.
    """
    card = read_card(folder)
    name = Path(card["file"]).name
    path = folder / name
    if not card.get("accepted") and (folder / (name + REFUSED)).exists():
        hint = f"Look at {folder / CARD}. To run it all the same, remove '{REFUSED}' from its name and name the file."
        raise ModelError("the export was refused: it answers unlike the classifier", where=str(folder), hint=hint)
    if not path.exists():
        raise ModelError("the classifier of the bundle is missing", where=str(path), hint="Restore the file.")
    if sha256_of(path) != card["sha256"]:
        raise ModelError(
            "has changed since it was exported: its sha256 differs from the one in card.json",
            where=str(path),
            hint="Restore it, or export it again.",
        )
    return path


def sha256_of(path: Path) -> str:
    """The hash of a classifier: of all its files, if there are several."""
    from tlcli.data.hashes import content_hash
    from tlcli.zoo.trust import files_sha256

    if path.is_dir():
        return folder_sha256(path)
    if path.suffix == ".xml":
        files = [path, path.with_suffix(".bin")]
        return files_sha256((file.name, lambda file=file: file.open("rb")) for file in files)  # type: ignore[misc]
    return content_hash(path)


def _damaged(file: Path) -> ModelError:
    return ModelError("is damaged", where=str(file), hint="Restore it, or export the classifier again.")
