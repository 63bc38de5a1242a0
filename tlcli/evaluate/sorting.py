"""Copies of images in one folder per predicted class."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tlcli.errors import ModelError, OutputError, UsageError
from tlcli.evaluate.predict import UNSURE, Prediction
from tlcli.paths import replacing, require_empty_folder
from tlcli.storage.location import StoredPath, locate


def require_sortable(folder: Path, classes: Sequence[str], *, min_confidence: float) -> None:
    """Check that images can be sorted into a folder.

    Args:
        folder: The folder; new or empty.
        classes: The classes, which become names of folders.
        min_confidence: Below it, images go to `unsure`.

    Raises:
        OutputError: The folder is not empty, or is a file.
        ModelError: A class name is no name of a folder.
        UsageError: A class is called `unsure`.
    """
    require_empty_folder(folder, "--sort-into")
    for name in classes:
        if name in ("", ".", "..") or any(char in name for char in "/\\\0"):
            hint = "Leave out --sort-into."
            raise ModelError(f"the class '{name}' cannot be a folder", where="--sort-into", hint=hint)
    if min_confidence > 0 and UNSURE in classes:
        hint = "Leave out --min-confidence or --sort-into."
        raise UsageError(f"a class of the classifier is called '{UNSURE}' itself", where="--min-confidence", hint=hint)


def sort_into(folder: Path, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Copy every predicted image into the folder of its label, and pass the predictions on.

    Images of the same name get a number. Files that cannot be read are left out.

    Raises:
        OutputError: A file cannot be written.
    """
    for prediction in predictions:
        if prediction.error is None:
            _copy(locate(prediction.path), folder / prediction.label)
        yield prediction


def _copy(image: Path, folder: Path) -> None:
    try:
        with replacing(_free(folder / image.name)) as temporary:
            if isinstance(image, StoredPath):
                temporary.write_bytes(image.read_bytes())
            else:
                shutil.copyfile(image, temporary)
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror})", where=str(folder), hint="Free disk space."
        ) from error


def _free(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
