"""Classifiers in all formats behind one protocol: `Runtime`, and `open_model`, which opens any of them."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from tlcli.errors import UsageError
from tlcli.evaluate import run_folder
from tlcli.evaluate.runtimes import bundle, keras_model, litert, onnx, openvino, saved_model
from tlcli.evaluate.runtimes.runtime import Runtime
from tlcli.zoo import trust as trusting
from tlcli.zoo.formats import content

__all__ = ["Runtime", "class_names", "fingerprint", "import_keras_for", "is_run", "open_model", "require_model"]

_BY_SUFFIX: dict[str, Callable[[Path], Runtime]] = {
    ".keras": keras_model.open_file,
    ".tflite": litert.open_file,
    ".onnx": onnx.open_file,
    ".xml": openvino.open_file,
}


def open_model(path: Path, *, trust: bool = False) -> Runtime:
    """Open a classifier.

    Args:
        path: A run folder, a bundle folder, or a file: `.keras`, `.tflite`, `.onnx`, `.xml` of OpenVINO, or the folder
            of a SavedModel.
        trust: True to trust a SavedModel, which is a program, and to remember it.

    Raises:
        UsageError: If there is no such run or file, or the run is not complete.
        ModelError: If the classifier is missing, damaged, changed or not trusted, or its runtime is not installed.
    """
    with trusting.allowing() if trust else nullcontext():
        file = _classifier(path)
        return saved_model.open_folder(file) if file.is_dir() else _BY_SUFFIX[file.suffix.lower()](file)


def require_model(path: Path) -> None:
    """Check that there is a classifier, before Keras or another runtime is loaded.

    Raises:
        UsageError: If there is no such run or file, or the run is not complete.
        ModelError: If the classifier of a run or bundle is missing or changed.
    """
    _classifier(path)


def import_keras_for(path: Path) -> None:
    """Import Keras if the classifier needs it: what it writes to stderr at its start can then be held back.

    Raises:
        UsageError: If there is no such run or file, or the run is not complete.
        ModelError: If the classifier of a run or bundle is missing or changed.
    """
    file = _classifier(path)
    if file.is_dir() or _BY_SUFFIX[file.suffix.lower()] is keras_model.open_file:
        import tlcli.model.classifier  # noqa: F401


def class_names(path: Path) -> tuple[str, ...]:
    """The classes of a classifier, of a run or a bundle without loading it.

    Raises:
        UsageError: If there is no such run or file, or the run is not complete.
        ModelError: If the classifier is missing, damaged, changed or not trusted.
    """
    require_model(path)
    if is_run(path):
        return tuple(map(str, run_folder.read_json(path)["data"]["classes"]))
    return tuple(map(str, bundle.read_card(path)["classes"])) if bundle.is_bundle(path) else open_model(path).classes


def fingerprint(path: Path) -> str:
    """The SHA-256 of a classifier.

    Raises:
        UsageError: If there is no such run or file, or the run is not complete.
        ModelError: If the classifier of a run or bundle is missing or changed.
    """
    return bundle.sha256_of(_classifier(path))


def is_run(path: Path) -> bool:
    """True if `path` names a run folder, and neither a file, a bundle nor a SavedModel."""
    return not (path.is_file() or bundle.is_bundle(path) or (path / saved_model.GRAPH).is_file())


def _classifier(path: Path) -> Path:
    """The file or SavedModel to open."""
    if not path.exists():
        hint = "Name the run folder that `tlcli finetune` printed, a bundle of `tlcli export`, or a file of either."
        raise UsageError("there is no such run, bundle or file", where=str(path), hint=hint)
    if is_run(path):
        return run_folder.classifier_file(path)
    file = bundle.classifier_of(path) if bundle.is_bundle(path) else path
    if file.is_file() and file.suffix.lower() not in _BY_SUFFIX:
        hint = f"Name a run folder, a bundle, a SavedModel or a file: {', '.join(_BY_SUFFIX)}."
        kind = content.kind_of(file)
        message = f"is not a classifier: it is {kind}" if kind else "is not a classifier"
        raise UsageError(message, where=str(path), hint=hint)
    return file
