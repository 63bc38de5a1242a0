"""The state of a pretraining that is not done, beside the card it is for: the same command goes on from it."""

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
    """A folder `OUT.unfinished` that holds the last complete epoch.

    Attributes:
        folder: Where.
        key: What the training follows from. A state of another key is not gone on from.
        may_discard: Drop a state of another key instead of refusing it.
    """

    folder: Path
    key: str
    may_discard: bool = False

    def points(self) -> list[Point]:
        """The measurements up to the last state; none where there is no state to go on from.

        Raises:
            OutputError: The state belongs to other pictures or settings.
            RunError: It is damaged.
        """
        saved = self._read()
        if saved is None:
            return []
        if saved.state["key"] == self.key:
            return [Point(**point) for point in saved.state["points"]]
        if not self.may_discard:
            raise OutputError(
                "holds an unfinished pretraining on other pictures or with other settings",
                where=str(self.folder),
                hint="Give the command it was begun with, choose another --out, or begin anew with --overwrite.",
            )
        self.remove()
        return []

    def restore(self, model: keras.Model) -> list[Point]:
        """Put the last state, where there is one, into a compiled model whose optimiser is built; its points."""
        points = self.points()
        if points and (saved := self._read()):
            assign_values(model.weights, saved.arrays["model"])
            assign_values(model.optimizer.variables, saved.arrays["optimizer"])
        return points

    def write(self, model: keras.Model, points: list[Point]) -> None:
        """Save the state after an epoch; by rename, so that a crash leaves the one before."""
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
            raise RunError(error.message, where=str(self.folder), hint="Delete that folder to begin anew.") from error
