"""Checkpoints: the state of an unfinished run on disk, for `--resume`."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlcli.errors import RunError
from tlcli.paths import DAMAGED_ZIP, replacing, write_json
from tlcli.text import why_unreadable

FOLDER = "checkpoint"
# Share of the time of a step that writing its checkpoints should take.
SHARE = 0.05
Arrays = list[np.ndarray]


@dataclass
class Progress:
    """The progress of one step. The fields are keys of state.json.

    Attributes:
        epoch: Number of finished epochs.
        best_epoch: The best of them, counted from 1; 0 if none improved the metric.
        stale: Number of epochs since the best one.
        plateaus: How often `optimizer.PLATEAU_EPOCHS` epochs in a row brought no better one.
        best_loss: Validation loss of the best weights; likewise `best_accuracy`, 0-1.
        start_loss: Validation loss before the step; likewise `start_accuracy`, 0-1.
        seconds: Duration so far.
        best_scores: One number per validation image for the best weights, see `decision.decide_by_gain`.
        best_hits: 1 for each validation image that the best weights classify correctly, 0 for the others.
        start_scores: As `best_scores`, before the step.
        start_hits: As `best_hits`, before the step.
        snapshot_ranks: Validation score of each kept snapshot, less is better, best first.
        learnable: Confidence (0-1) that errors before the step are learnable, see `decision.learnable`; None if
            nothing asks for it.
    """

    epoch: int = 0
    best_epoch: int = 0
    stale: int = 0
    plateaus: int = 0
    best_loss: float | None = None
    best_accuracy: float | None = None
    start_loss: float | None = None
    start_accuracy: float | None = None
    seconds: float = 0.0
    best_scores: list[float] | None = None
    best_hits: list[float] | None = None
    start_scores: list[float] | None = None
    start_hits: list[float] | None = None
    snapshot_ranks: list[float] = field(default_factory=list)
    learnable: float | None = None


@dataclass
class Saved:
    """A checkpoint that was read: JSON state, and groups of arrays by name, in the order of writing."""

    state: dict[str, Any]
    arrays: dict[str, Arrays] = field(default_factory=dict)


def copy_values(variables: Sequence[Any]) -> Arrays:
    """Copies of the current values of variables."""
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]


def assign_values(variables: Sequence[Any], arrays: Arrays) -> None:
    """Assign arrays to variables of the same order.

    Raises:
        RuntimeError: If the numbers differ; an internal error.
    """
    if len(variables) != len(arrays):
        raise RuntimeError(f"{len(arrays)} saved arrays for {len(variables)} variables")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


class Checkpoint:
    """The `checkpoint/` folder of a run.

    A checkpoint is written completely or not at all: array files have a serial number in their names and are complete
    before `state.json`, which names them, is replaced by rename. After a crash in between, the previous state is valid.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER
        self._written, self._seconds = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """True if the last checkpoint is old enough for another, so that they take about `SHARE` of the time."""
        return (time.monotonic() - self._written) * SHARE >= self._seconds

    def write(self, state: dict[str, Any], arrays: dict[str, Arrays], *, keep: Sequence[str] = ()) -> None:
        """Write a checkpoint.

        Args:
            state: Ready for JSON.
            arrays: Groups of arrays by name.
            keep: Names of groups of the previous checkpoint that belong to this one unchanged.
        """
        began = time.monotonic()
        self.folder.mkdir(exist_ok=True)
        previous = self._read_state() or {"serial": 0, "files": {}}
        serial = int(previous["serial"]) + 1
        files = {name: previous["files"][name] for name in keep if name in previous["files"]}
        for name, group in arrays.items():
            files[name] = f"{name}-{serial}.npz"
            with replacing(self.folder / files[name]) as temporary, temporary.open("wb") as stream:
                np.savez(stream, *group)
        write_json(self.folder / "state.json", {"serial": serial, "files": files, "state": state})
        for path in self.folder.glob("*.npz"):
            if path.name not in files.values():
                path.unlink()
        self._written = time.monotonic()
        self._seconds = self._written - began

    def read(self) -> Saved | None:
        """The last complete checkpoint, or None if there is none yet.

        Raises:
            RunError: If it is damaged.
        """
        content = self._read_state()
        if content is None:
            return None
        try:
            return Saved(content["state"], {name: self._read_arrays(file) for name, file in content["files"].items()})
        except DAMAGED_ZIP as error:
            raise self._damaged(error) from error

    def remove(self) -> None:
        """Delete the folder. Does nothing if it does not exist."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()

    def _read_state(self) -> dict[str, Any] | None:
        path = self.folder / "state.json"
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return {"serial": int(content["serial"]), "files": dict(content["files"]), "state": dict(content["state"])}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> RunError:
        return RunError(
            f"the checkpoint is damaged ({why_unreadable(error)})",
            where=str(self.folder),
            hint="Start the run again without --resume.",
        )

    def _read_arrays(self, file: str) -> Arrays:
        # NumPy does not close a damaged file that it opened itself.
        with (self.folder / Path(file).name).open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return [archive[f"arr_{index}"] for index in range(len(archive.files))]
