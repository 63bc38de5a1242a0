"""TensorFlow: the folder of a SavedModel."""

from pathlib import Path

from tlcli.evaluate.runtimes.saved_model import MEMBER
from tlcli.export.writers.job import Job


def write(job: Job, folder: Path) -> None:
    """Write a SavedModel with the endpoint `serve`."""
    job.model.export(str(folder), format="tf_saved_model", verbose=False)
    (folder / MEMBER).parent.mkdir()
    (folder / MEMBER).write_text(job.about, encoding="utf-8")
