"""The checkpoint of an unfinished pretraining, saved beside its card; the same command resumes from it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tlcli.errors import OutputError, RunError
from tlcli.pretrain.card import Point
from tlcli.train.checkpoint import Checkpoint, Saved, assign_values, copy_values

CHECKPOINT_SUFFIX = ".unfinished"


@dataclass(frozen=True)
class PretrainCheckpoint:
    """A folder `OUT.unfinished` with the state after the last complete epoch.

    Attributes:
        folder: The folder.
        key: Digest of everything that determines the training. Only a state with the same key is resumed.
        may_discard: Delete a state with another key instead of raising an error.
    """

    folder: Path
    key: str
    may_discard: bool = False

    def points(self) -> list[Point]:
        """The training curves up to the saved state; empty if there is no state to resume.

        Raises:
            OutputError: The state belongs to other images or settings, and `may_discard` is false.
            RunError: The state is damaged.
        """
        saved = self._read()
        if saved is None:
            return []
        if saved.state["key"] == self.key:
            return [Point(**point) for point in saved.state["points"]]
        if not self.may_discard:
            raise OutputError(
                "holds an unfinished pretraining on other images or with other settings",
                where=str(self.folder),
                hint="Repeat the original command, choose another --out, or start over with --overwrite.",
            )
        self.remove()
        return []

    def restore(self, model: keras.Model) -> list[Point]:
        """Load the saved state, if any, into a compiled model with a built optimiser; return its points."""
        points = self.points()
        if points and (saved := self._read()):
            assign_values(model.weights, saved.arrays["model"])
            assign_values(model.optimizer.variables, saved.arrays["optimizer"])
        return points

    def write(self, model: keras.Model, points: list[Point]) -> None:
        """Save the state after an epoch, by rename: a crash leaves the previous state intact."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any] = {"key": self.key, "points": [dataclasses.asdict(point) for point in points]}
        arrays = {"model": copy_values(model.weights), "optimizer": copy_values(model.optimizer.variables)}
        Checkpoint(self.folder).write(state, arrays)

    def remove(self) -> None:
        """Delete the folder."""
        Checkpoint(self.folder).remove()
        if self.folder.is_dir():
            self.folder.rmdir()

    def _read(self) -> Saved | None:
        try:
            return Checkpoint(self.folder).read()
        except RunError as error:
            raise RunError(error.message, where=str(self.folder), hint="Delete that folder to start over.") from error
