"""The log of a run for MLflow. The only module that imports mlflow.

`MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` say where, as in all programs that log to MLflow. Without them,
MLflow writes into the current folder, and the experiment is `tlcli`.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.errors import UsageError

EXPERIMENT = "tlcli"
# MLflow refuses longer values, and longer lists of parameters at once.
MAX_VALUE = 6000
MAX_BATCH = 100


def missing() -> UsageError:
    """The error without MLflow."""
    hint = "Install it with: pip install 'tlcli[mlflow]'"
    return UsageError("MLflow is not installed", where="--log mlflow", hint=hint)


class MlflowLog:
    """Scalars, the recipe as parameters, the confusion matrix as an image, and the run folder as artefacts.

    Raises:
        UsageError: If MLflow is not installed or does not answer.
    """

    def __init__(self) -> None:
        # Without a limit, a server that is away holds the command for minutes. See MLflow's environment variables.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        try:
            import mlflow
        except ImportError as error:
            raise missing() from error
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._mlflow: Any = mlflow
        try:
            self._client = mlflow.MlflowClient()
            self._experiment = self._find_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            hint = "Start the server, or set MLFLOW_TRACKING_URI."
            raise UsageError(f"MLflow does not answer ({reason})", where="--log mlflow", hint=hint) from error
        self._run = ""

    def _find_experiment(self, name: str) -> str:
        """The id of an experiment, which is created if there is none of that name."""
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def begin(self, folder: Path, parameters: Mapping[str, str]) -> None:
        """Begin a run of MLflow with the name of the run folder."""
        self._run = self._client.create_run(self._experiment, run_name=folder.resolve().name).info.run_id
        values = [self._mlflow.entities.Param(key, value[:MAX_VALUE]) for key, value in parameters.items()]
        for start in range(0, len(values), MAX_BATCH):
            self._client.log_batch(self._run, params=values[start : start + MAX_BATCH])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log the scalars of an epoch."""
        self._log(values.items(), step)

    def _log(self, values: Iterable[tuple[str, float]], step: int) -> None:
        now = self._mlflow.utils.time.get_current_time_millis()
        metrics = [self._mlflow.entities.Metric(key, value, now, step) for key, value in values]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self, folder: Path, scores: Mapping[str, float], confusion: np.ndarray | None) -> None:
        """Log the final scores, the confusion matrix and the files of the run folder."""
        self._log(((f"final/{key}", value) for key, value in scores.items()), 0)
        if confusion is not None:
            self._client.log_image(self._run, confusion, "confusion.png")
        for file in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
            self._client.log_artifact(self._run, str(file), "run")

    def close(self, *, is_complete: bool) -> None:
        """End the run of MLflow."""
        if self._run:
            self._client.set_terminated(self._run, "FINISHED" if is_complete else "FAILED")
