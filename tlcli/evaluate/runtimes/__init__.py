"""Classifiers in all formats behind one protocol: `Runtime`, and `open_model`, which opens any of them."""

from pathlib import Path

from tlcli.errors import UsageError
from tlcli.evaluate import run_folder
from tlcli.evaluate.runtimes import keras_model
from tlcli.evaluate.runtimes.runtime import Runtime

__all__ = ["Runtime", "open_model", "require_model"]


def open_model(path: Path, *, trust: bool = False) -> Runtime:
    """Open a classifier.

    Args:
        path: A run folder, a `.keras` file, a bundle folder or an exported file.
        trust: True to trust a SavedModel, which is a program, and to remember it.

    Raises:
        UsageError: If there is no such run or file, or the run is not complete.
        ModelError: If the classifier is missing, damaged, changed or not trusted.
    """
    if path.is_file():
        if path.suffix == ".keras":
            return keras_model.open_file(path)
        raise UsageError("is not a classifier", where=str(path), hint="Name a run folder or a .keras file.")
    return keras_model.open_file(run_folder.classifier_file(path))


def require_model(path: Path) -> None:
    """Check that there is a classifier, before Keras or another runtime is loaded.

    Raises:
        UsageError: If there is no such run or file, or the run is not complete.
        ModelError: If the classifier of a run is missing or changed.
    """
    if not path.is_file():
        run_folder.classifier_file(path)
