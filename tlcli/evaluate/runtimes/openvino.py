"""OpenVINO IR (`.xml` with `.bin`), run by OpenVINO."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.evaluate.runtimes import exported
from tlcli.evaluate.runtimes.exported import ExportedRuntime

BATCH = 32
_TELEMETRY = "openvino_telemetry"


def import_openvino() -> Any:
    """The module `openvino`, without its telemetry, which would send usage data at import.

    Raises:
        ModelError: It is not installed.
    """
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # as if it were not installed; OpenVINO does without
    try:
        import openvino
    except ImportError as error:
        raise exported.missing("openvino", "openvino") from error
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]
    return openvino


def open_file(path: Path) -> ExportedRuntime:
    """Open an `.xml` file that `tlcli export` wrote, with the `.bin` file beside it.

    Raises:
        ModelError: OpenVINO is not installed, or the file is damaged, or tlcli did not write it.
    """
    openvino = import_openvino()
    # The precision is that of the file, on every processor. By default some compute in bfloat16.
    settings = {"INFERENCE_NUM_THREADS": exported.THREADS, "INFERENCE_PRECISION_HINT": "f32"}
    try:
        core = openvino.Core()
        network = core.read_model(str(path))
        text = str(network.get_rt_info(exported.KEY).value) if network.has_rt_info(exported.KEY) else None
        compiled = core.compile_model(network, "CPU", settings)
    except RuntimeError as error:
        raise exported.unreadable(path, "OpenVINO", error) from error
    about = exported.read_about(path, text)
    dtype = exported.input_dtype(path, np.dtype(compiled.input(0).get_element_type().to_dtype()).name)

    def run(images: np.ndarray) -> np.ndarray:
        try:
            return np.array(compiled(images)[0])
        except RuntimeError as error:
            raise exported.unreadable(path, "OpenVINO", error) from error

    return ExportedRuntime(about, dtype, compiled.input(0).get_partial_shape()[1].is_static, BATCH, run)
