"""LiteRT files (`.tflite`), run by ai-edge-litert."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.evaluate.quiet import quiet
from tlcli.evaluate.runtimes import exported
from tlcli.evaluate.runtimes.exported import ExportedRuntime

# Files associated with a model stand in a zip archive behind it, as LiteRT metadata defines.
MEMBER = f"{exported.KEY}.json"


def import_interpreter() -> Any:
    """The class `Interpreter`.

    Raises:
        ModelError: ai-edge-litert is not installed.
    """
    try:
        with quiet():
            from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise exported.missing("ai-edge-litert", "litert") from error
    return Interpreter


def open_file(path: Path) -> ExportedRuntime:
    """Open a `.tflite` file that `tlcli export` wrote.

    Raises:
        ModelError: ai-edge-litert is not installed, or the file is damaged, or tlcli did not write it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(MEMBER)
    except (OSError, zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError):
        text = None
    about = exported.read_about(path, text)
    interpreter_class = import_interpreter()
    try:
        with quiet():
            interpreter = interpreter_class(str(path), num_threads=exported.THREADS)
        (details,) = interpreter.get_input_details()
        (output,) = interpreter.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise exported.unreadable(path, "LiteRT", error) from error
    dtype = exported.input_dtype(path, np.dtype(details["dtype"]).name)
    return ExportedRuntime(
        about,
        dtype,
        bool(details["shape_signature"][1] > 0),
        1,
        _Run(interpreter, details["index"], output["index"], path),
    )


class _Run:
    """Runs one image, and prepares the tensors again when its size changes."""

    def __init__(self, interpreter: Any, source: int, target: int, path: Path) -> None:
        self.interpreter, self.source, self.target, self.path = interpreter, source, target, path
        self.shape: tuple[int, ...] | None = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        try:
            if images.shape != self.shape:
                self.interpreter.resize_tensor_input(self.source, images.shape)
                with quiet():
                    self.interpreter.allocate_tensors()
                self.shape = images.shape
            self.interpreter.set_tensor(self.source, images)
            self.interpreter.invoke()
            return np.array(self.interpreter.get_tensor(self.target))
        except (ValueError, RuntimeError) as error:
            raise exported.unreadable(self.path, "LiteRT", error) from error
