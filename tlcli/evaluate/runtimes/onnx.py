"""ONNX files, run by ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np

from tlcli.evaluate.runtimes import exported
from tlcli.evaluate.runtimes.exported import ExportedRuntime

BATCH = 32
_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_ERRORS_ONLY = 3


def import_runtime() -> Any:
    """The module `onnxruntime`.

    Raises:
        ModelError: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise exported.missing("onnxruntime", "onnx") from error
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
    return onnxruntime


def open_file(path: Path) -> ExportedRuntime:
    """Open a `.onnx` file that `tlcli export` wrote.

    Raises:
        ModelError: ONNX Runtime is not installed, or the file is damaged, or tlcli did not write it.
    """
    onnxruntime = import_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = exported.THREADS
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class of its own for every kind of error.
        raise exported.unreadable(path, "ONNX Runtime", error) from error
    about = exported.read_about(path, session.get_modelmeta().custom_metadata_map.get(exported.KEY))
    source = session.get_inputs()[0]
    dtype = exported.input_dtype(path, _TYPES.get(source.type, source.type))

    def run(images: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(session.run(None, {source.name: images})[0])
        except Exception as error:
            raise exported.unreadable(path, "ONNX Runtime", error) from error

    return ExportedRuntime(about, dtype, isinstance(source.shape[1], int), BATCH, run)
