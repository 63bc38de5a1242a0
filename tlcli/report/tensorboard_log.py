"""The log of a run for TensorBoard, in its run folder. The only module that imports tensorboardX."""

import shutil
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.errors import UsageError

FOLDER = "tensorboard"


def missing() -> UsageError:
    """The error without tensorboardX."""
    hint = "Install it with: pip install 'tlcli[tensorboard]'"
    return UsageError("TensorBoard is not installed", where="--log tensorboard", hint=hint)


class TensorBoardLog:
    """Scalars, the recipe as text and the confusion matrix as an image.

    Raises:
        UsageError: If tensorboardX is not installed.
    """

    def __init__(self) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise missing() from error
        self._open = SummaryWriter
        self._writer: Any = None
        self._step = 0

    def begin(self, folder: Path, parameters: Mapping[str, str]) -> None:
        """Begin the log. That of an interrupted run is replaced, because all its epochs are logged again."""
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        self._writer = self._open(str(folder / FOLDER))
        # The text is Markdown, in which values could become links and markup.
        table = "\n".join(f"    {key}: {escape(value)}" for key, value in parameters.items())
        self._writer.add_text("recipe", table)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log the scalars of an epoch."""
        self._step = step
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def finish(self, folder: Path, scores: Mapping[str, float], confusion: np.ndarray | None) -> None:
        """Log the final scores and the confusion matrix."""
        for tag, value in scores.items():
            self._writer.add_scalar(f"final/{tag}", value, self._step)
        if confusion is not None:
            self._writer.add_image("confusion", confusion, self._step, dataformats="HWC")

    def close(self, *, is_complete: bool) -> None:
        """End the log."""
        if self._writer is not None:
            self._writer.close()
