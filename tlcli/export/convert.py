"""A classifier in another format: the model to export, and the writer of the format."""

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from tlcli.data.pixels import read_exactly
from tlcli.errors import ModelError, TlcliError, UsageError
from tlcli.evaluate.quiet import quiet
from tlcli.export.image_input import exported_model
from tlcli.export.targets import ExportRequest, Format
from tlcli.export.writers import keras_file, litert, onnx, openvino, saved_model
from tlcli.export.writers.job import Job
from tlcli.model.classifier import Classifier
from tlcli.model.metadata import ClassifierMetadata
from tlcli.model.sparsity import zeroed

WRITERS: dict[Format, Callable[[Job, Path], None]] = {
    "keras": keras_file.write,
    "saved_model": saved_model.write,
    "litert": litert.write,
    "onnx": onnx.write,
    "openvino": openvino.write,
}


def convert(
    classifier: Classifier, about: ClassifierMetadata, request: ExportRequest, calibration: Sequence[Path], file: Path
) -> float | None:
    """Write a classifier in another format.

    Args:
        classifier: The classifier, as loaded from its file.
        about: What it states about itself, for a place in the file.
        request: The export.
        calibration: Images from which int8 takes its ranges.
        file: The file, or the folder of a SavedModel.

    Returns:
        Share (0-1) of the weights of kernels that are zero in a sparse export; None for others.

    Raises:
        UsageError: Keras runs on another backend than TensorFlow.
        ModelError: The network has operations that the format lacks.
    """
    if keras.backend.backend() != "tensorflow":
        hint = "Set KERAS_BACKEND=tensorflow; the classifier file is the same for all backends."
        raise UsageError(f"export needs TensorFlow (the backend is {keras.backend.backend()})", hint=hint)
    if request.sparse is None:
        _write(classifier, about, request, calibration, file)
        return None
    with zeroed(classifier.model, request.sparse) as share:
        _write(classifier, about, request, calibration, file)
        return share


def _write(
    classifier: Classifier, about: ClassifierMetadata, request: ExportRequest, calibration: Sequence[Path], file: Path
) -> None:
    images = None
    if request.quantize == "int8":
        images = np.stack([read_exactly(path, classifier.size, classifier.resize) for path in calibration])
    model = exported_model(classifier, is_raw=request.is_raw)
    try:
        with quiet():
            WRITERS[request.to](Job(classifier, model, about.to_json(), request.quantize, request.is_raw, images), file)
    except (TlcliError, OSError):
        raise
    except Exception as error:  # Every converter has errors of its own for operations that it does not know.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"cannot be converted to {request.to} ({first[:300]})",
            where=str(request.model),
            hint="Try another format; saved_model takes every network.",
        ) from error
