"""Logs of a run for other programs: TensorBoard and MLflow. An observer writes them while the run is trained."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from tlcli.errors import UsageError
from tlcli.report import mlflow_log, tensorboard_log
from tlcli.report.comparison import flattened
from tlcli.report.plots import draw_confusion
from tlcli.report.record import RunRecord
from tlcli.train.events import EpochDone, Event, FolderMade, Noticed, Observer, StepDone

Name = Literal["tensorboard", "mlflow"]
NAMES: tuple[Name, ...] = get_args(Name)
_LIBRARIES: dict[Name, tuple[str, Callable[[], UsageError]]] = {
    "tensorboard": ("tensorboardX", tensorboard_log.missing),
    "mlflow": ("mlflow", mlflow_log.missing),
}
# Columns of history.csv that are no scalars of an epoch.
_NOT_SCALARS = ("phase", "epoch")


class Log(Protocol):
    """A log of one run."""

    def begin(self, folder: Path, parameters: Mapping[str, str]) -> None:
        """Begin the log of the run in a run folder, with the values of its recipe by key."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log the scalars of an epoch. Steps count all epochs of the run from 1."""

    def finish(self, folder: Path, scores: Mapping[str, float], confusion: np.ndarray | None) -> None:
        """Log the final scores, the confusion matrix as an image `uint8 (height, width, 3)`, and the run folder."""

    def close(self, *, is_complete: bool) -> None:
        """End the log."""


def require_installed(names: Sequence[str]) -> None:
    """Check that the libraries of logs are installed, without loading them.

    Raises:
        UsageError: If one is missing.
    """
    for name, (module, missing) in _LIBRARIES.items():
        if name in names and find_spec(module) is None:
            raise missing()


@contextmanager
def logging_to(names: Sequence[str], recipe: Mapping[str, Any], observe: Observer) -> Iterator["RunLogs"]:
    """An observer that also writes logs, and ends them with the context.

    Args:
        names: Names from `NAMES`, each once.
        recipe: The recipe of the run, as nested mappings.
        observe: Receives every event, and a warning if a log fails.

    Raises:
        UsageError: If a library is missing, or MLflow does not answer.
    """
    kinds: dict[str, Callable[[], Log]] = {
        "tensorboard": tensorboard_log.TensorBoardLog,
        "mlflow": mlflow_log.MlflowLog,
    }
    logs = RunLogs({name: kinds[name]() for name in dict.fromkeys(names)}, flat(recipe), observe)
    is_complete = False
    try:
        yield logs
        is_complete = True
    finally:
        logs.attempt(lambda log: log.close(is_complete=is_complete))


@dataclass
class RunLogs:
    """An observer that writes logs and passes every event on.

    A log that fails is given up with a warning: training goes on.

    Attributes:
        logs: The logs by name.
        parameters: The values of the recipe by key.
        observer: Receives every event.
    """

    logs: dict[str, Log]
    parameters: Mapping[str, str]
    observer: Observer
    _folder: Path | None = field(default=None, init=False)
    _rows: int = field(default=0, init=False)

    def __call__(self, event: Event) -> None:
        """Log the new epochs, and pass the event on."""
        if isinstance(event, FolderMade):
            folder = self._folder = Path(event.path)
            self.attempt(lambda log: log.begin(folder, self.parameters))
        if isinstance(event, (EpochDone, StepDone)):
            self._log_epochs()
        self.observer(event)

    def finish(self, run: RunRecord) -> None:
        """Log the results of a complete run: scores, the confusion matrix and the run folder."""
        if (folder := self._folder) is None:
            return
        splits = {name: scores for name, scores in run.scores.items() if isinstance(scores, dict)}
        values = {
            f"{split}/{key}": float(scores[key])
            for split, scores in splits.items()
            for key in ("accuracy", "balanced_accuracy", "loss")
            if key in scores
        }
        scores = next((splits[name] for name in ("test", "val") if "confusion" in splits.get(name, {})), None)
        image = None if scores is None else draw_confusion(scores["confusion"], scores["classes"])
        self.attempt(lambda log: log.finish(folder, values, image))

    def _log_epochs(self) -> None:
        """Log the epochs that history.csv has gained. Those of a cached or resumed step come without events."""
        assert self._folder is not None
        with (self._folder / "history.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        for step, row in enumerate(rows[self._rows :], start=self._rows + 1):
            values = {_tag(key): float(value) for key, value in row.items() if value and key not in _NOT_SCALARS}
            self.attempt(lambda log, values=values, step=step: log.scalars(values, step))
        self._rows = len(rows)

    def attempt(self, action: Any) -> None:
        """Do something with every log. A log that fails is given up with a warning."""
        for name, log in list(self.logs.items()):
            try:
                action(log)
            except Exception as error:  # servers and disks fail in many ways, and none may end a training
                del self.logs[name]
                reason = str(error).partition("\n")[0] or type(error).__name__
                self.observer(Noticed(f"--log {name} stopped: {reason}", is_warning=True))


def _tag(column: str) -> str:
    """The tag of a column of history.csv, as TensorBoard groups them: `val/loss`, `train/loss`, `lr`."""
    if column.startswith("val_"):
        return f"val/{column.removeprefix('val_')}"
    return f"train/{column}" if column in ("loss", "accuracy") else column


def flat(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The values of a recipe as text, by dotted key, without empty ones.

    >>> flat({"head": {"dropout": 0.2, "hidden": []}, "phases": [{"train": "head"}]})
    {'head.dropout': '0.2', 'phases.0.train': 'head'}
    """
    return {key: str(value) for key, value in flattened(recipe) if value not in (None, [])}
