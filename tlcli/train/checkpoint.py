"""The state of an unfinished run on disk: written whole or not at all, read back for `--resume`."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlcli.errors import RunError
from tlcli.paths import replacing, write_json

FOLDER = "checkpoint"
Arrays = list[np.ndarray]


@dataclass
class Progress:
    """How far a step has come.

    Attributes:
        epoch: Epochs finished.
        best_epoch: The best of them, counted from 1; 0 is the state before the step.
        stale: Epochs since the best one.
        best_scores: Per-image validation numbers of the best epoch, by the metric that judges.
        best_hits: 1 for each of these images whose answer is right, 0 for the others.
        start_scores, start_hits: The same before the step.
        seconds: Time spent in the step so far.
    """

    epoch: int = 0
    best_epoch: int = 0
    stale: int = 0
    best_loss: float | None = None
    best_accuracy: float | None = None
    start_loss: float | None = None
    start_accuracy: float | None = None
    seconds: float = 0.0
    best_scores: list[float] | None = None
    best_hits: list[float] | None = None
    start_scores: list[float] | None = None
    start_hits: list[float] | None = None


@dataclass
class Saved:
    """A checkpoint read back: plain state, and arrays by name in the order they were given."""

    state: dict[str, Any]
    arrays: dict[str, Arrays] = field(default_factory=dict)


def copy_values(variables: Sequence[Any]) -> Arrays:
    """Copies of the current values."""
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]


def assign_values(variables: Sequence[Any], arrays: Arrays) -> None:
    """Put values back.

    Raises:
        RuntimeError: If the two do not belong together; an internal error.
    """
    if len(variables) != len(arrays):
        raise RuntimeError(f"{len(arrays)} saved arrays for {len(variables)} variables")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


class Checkpoint:
    """The `checkpoint/` folder of a run.

    Array files carry a running number and are complete before `state.json`, which names them, takes its place by
    rename; a crash between the two leaves the former state in force.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER

    def write(self, state: dict[str, Any], arrays: dict[str, Arrays], *, keep: Sequence[str] = ()) -> None:
        """Save plain state and groups of arrays; `keep` names groups whose last written file still holds."""
        self.folder.mkdir(exist_ok=True)
        before = self._state() or {"serial": 0, "files": {}}
        serial = int(before["serial"]) + 1
        files = {name: before["files"][name] for name in keep if name in before["files"]}
        for name, group in arrays.items():
            files[name] = f"{name}-{serial}.npz"
            with replacing(self.folder / files[name]) as temporary, temporary.open("wb") as stream:
                np.savez(stream, *group)
        write_json(self.folder / "state.json", {"serial": serial, "files": files, "state": state})
        for path in self.folder.glob("*.npz"):
            if path.name not in files.values():
                path.unlink()

    def read(self) -> Saved | None:
        """The last complete checkpoint, or None when the run had not got that far.

        Raises:
            RunError: If it is damaged.
        """
        found = self._state()
        if found is None:
            return None
        try:
            return Saved(found["state"], {name: self._arrays(file) for name, file in found["files"].items()})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise self._damaged(error) from error

    def remove(self) -> None:
        """Delete the folder, once the run needs it no more."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()

    def _state(self) -> dict[str, Any] | None:
        path = self.folder / "state.json"
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {"serial": int(found["serial"]), "files": dict(found["files"]), "state": dict(found["state"])}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> RunError:
        return RunError(
            f"the checkpoint is damaged ({error!r})",
            where=str(self.folder),
            hint="Start the run anew without --resume.",
        )

    def _arrays(self, file: str) -> Arrays:
        # NumPy leaves a file it opened itself open when it is damaged.
        with (self.folder / Path(file).name).open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return [archive[f"arr_{index}"] for index in range(len(archive.files))]
