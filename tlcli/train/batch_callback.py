"""What happens after each batch of training: times, progress, the end of a time budget."""

import time
from typing import Any

import keras

from tlcli.train import events
from tlcli.train.compile import StepState
from tlcli.train.session import Session

# JAX computes while Python prepares the next batches. Seconds after which to wait for the results, to report them.
REPORT_S = 0.1


class UnfetchedLogs(keras.callbacks.CallbackList):
    """Callbacks that get the logs of a batch as the backend has them: to fetch them is to wait for the batch."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Call the callbacks."""
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)


class BatchCallback(keras.callbacks.Callback):
    """Times and reports each batch, and stops training when the time budget is used up.

    On JAX it reports ten times a second, and the last batch. TensorFlow has computed a batch before it returns.
    """

    def __init__(self, session: Session, state: StepState, batches: int) -> None:
        super().__init__()
        self.session, self.state, self.batches = session, state, batches
        self.began_s = time.perf_counter()
        self.batch_ends_s: list[float] = []
        self._pause_s = REPORT_S if keras.backend.backend() == "jax" else 0.0
        self._reported_s = 0.0

    @property
    def setup_s(self) -> float:
        """Seconds by which the first batch took longer than the others: in the first epoch it is traced."""
        ends_s = self.batch_ends_s
        if len(ends_s) < 2:
            return 0.0
        first_s, mean_s = ends_s[0] - self.began_s, (ends_s[-1] - ends_s[0]) / (len(ends_s) - 1)
        return max(first_s - mean_s, 0.0)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Report the running means; stop training if the time budget is used up."""
        is_due = time.perf_counter() - self._reported_s >= self._pause_s
        if is_due or batch + 1 == self.batches:
            self._report(batch, logs or {})
        self.batch_ends_s.append(time.perf_counter())
        if self.session.budget.is_over:
            self.session.stage.trainee.stop_training = True
            self.state.is_cut_short = batch + 1 < self.batches

    def _report(self, batch: int, logs: dict[str, Any]) -> None:
        loss, accuracy = float(logs.get("loss", 0.0)), float(logs.get("accuracy", 0.0))
        self._reported_s = time.perf_counter()
        images = (batch + 1) * self.session.recipe.performance.batch_size
        images_per_second = images / max(self._reported_s - self.began_s, 1e-6)
        epoch = self.state.progress.epoch + 1
        self.session.observe(events.BatchDone(self.state.step, epoch, batch + 1, loss, accuracy, images_per_second))
