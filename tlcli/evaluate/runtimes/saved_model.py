"""SavedModels, run by TensorFlow. They are programs, so they are loaded only if trusted."""

from pathlib import Path

import numpy as np

from tlcli.evaluate.runtimes import exported
from tlcli.evaluate.runtimes.exported import ExportedRuntime
from tlcli.zoo import trust

BATCH = 32
GRAPH = "saved_model.pb"
# SavedModels keep files that TensorFlow does not read itself in this folder.
MEMBER = Path("assets.extra") / f"{exported.KEY}.json"
ENDPOINT = "serve"


def open_folder(path: Path) -> ExportedRuntime:
    """Open a SavedModel that `tlcli export` wrote.

    Raises:
        ModelError: It is not trusted, or damaged, or tlcli did not write it.
    """
    member = path / MEMBER
    about = exported.read_about(path, member.read_bytes() if member.is_file() else None)
    trust.require(trust.folder_sha256(path), where=str(path.resolve()))
    import keras

    try:
        layer = keras.layers.TFSMLayer(str(path), call_endpoint=ENDPOINT)
        ((_, source),) = layer._reloaded_obj.signatures[ENDPOINT].structured_input_signature[1].items()
    except Exception as error:  # TensorFlow raises errors of many kinds for damaged files.
        raise exported.unreadable(path, "TensorFlow", error) from error
    dtype = exported.input_dtype(path, source.dtype.name)

    def run(images: np.ndarray) -> np.ndarray:
        answers = layer(keras.ops.convert_to_tensor(images, dtype))
        return np.asarray(next(iter(answers.values())) if isinstance(answers, dict) else answers)

    return ExportedRuntime(about, dtype, source.shape[1] is not None, BATCH, run)
