"""Keras: a `.keras` file."""

from dataclasses import replace
from pathlib import Path

from tlcli.export.writers.job import Job
from tlcli.model import classifier
from tlcli.model.metadata import ClassifierMetadata


def write(job: Job, file: Path) -> None:
    """Write a `.keras` file. Without --raw-input it is the classifier itself, whose resize is inside."""
    about = ClassifierMetadata.model_validate_json(job.about)
    written = replace(job.classifier, model=job.model) if job.is_raw else job.classifier
    classifier.save(written, file, origin=about.origin, training=about.training)
