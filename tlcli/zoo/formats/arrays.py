"""Arrays by name from `.safetensors`, `.npz`, `.pth`, `.pt` and `.th` files of other frameworks. No code is run."""

from pathlib import Path

import numpy as np

from tlcli.errors import WeightsError
from tlcli.paths import DAMAGED_ZIP
from tlcli.text import why_unreadable
from tlcli.zoo.formats import torch_file

SUFFIXES = (".safetensors", ".npz", *torch_file.SUFFIXES)
_DAMAGED = "The file may be damaged or incomplete; fetch it again."


def read(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a weights file; the suffix tells its format.

    Returns:
        Arrays by name, in the order of the file; bfloat16 becomes float32.

    Raises:
        WeightsError: The file is missing, damaged, of another format, or holds more than arrays of numbers.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise WeightsError("there is no such file", where=str(path), hint=f"Formats: {', '.join(SUFFIXES)}.")
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix == ".npz":
        return _read_npz(path)
    if suffix in torch_file.SUFFIXES:
        return torch_file.read(path)
    raise WeightsError(f"has an unknown suffix '{path.suffix}'", where=str(path), hint=f"Known: {', '.join(SUFFIXES)}.")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    # numpy knows bfloat16 only once ml_dtypes is loaded.
    import ml_dtypes  # noqa: F401
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"cannot be read as safetensors ({error})", where=str(path), hint=_DAMAGED) from error
    return {name: array.astype(np.float32) if array.dtype.kind == "V" else array for name, array in arrays.items()}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except DAMAGED_ZIP as error:
        reason = "it holds pickled objects" if "pickle" in str(error) else why_unreadable(error)
        raise WeightsError(f"cannot be read as an .npz of arrays ({reason})", where=str(path), hint=_DAMAGED) from error
