"""Evaluate: score a classifier on its own test images or on another folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tlcli.data.source import content_hash
from tlcli.errors import DataError, UsageError
from tlcli.evaluate.predict import labelled_images, probabilities_of
from tlcli.evaluate.scores import Scores, score
from tlcli.model import classifier
from tlcli.model.classifier import Classifier
from tlcli.report import record
from tlcli.report.folder import read_splits

Progress = Callable[[int, int], None]


def evaluate(run: Path, data: Path | None, *, progress: Progress) -> tuple[Scores, str, str]:
    """Scores of a run or a `.keras` file on its own test split, or on `data`.

    Returns:
        The scores, what they were measured on, and a warning, or the empty string.

    Raises:
        UsageError: If the run has no test split of its own.
        DataError: If images are missing, unreadable, or of other classes.
    """
    made = load_classifier(run)
    warning = ""
    if data is None:
        paths, labels = _own_test_images(run, made)
        what = f"{len(paths)} test images of {run}"
    else:
        paths, labels, what = labelled_images(data, made.classes)
        if seen := _count_trained(run, paths):
            warning = f"the run was trained on {seen} of these {len(paths)} images: its scores on them are too high"
    return score(np.array(labels), probabilities_of(made, paths, progress=progress), made.classes), what, warning


def load_classifier(run: Path) -> Classifier:
    """The classifier of a run folder, or of a `.keras` file that a run wrote.

    Raises:
        UsageError: If there is none, or the run is not complete.
        ModelError: If it is damaged, or not the one that the run wrote.
    """
    return classifier.load(run if run.is_file() else record.classifier_file(run))


def _own_test_images(run: Path, made: Classifier) -> tuple[list[Path], list[int]]:
    """Paths and labels of a run's test split, every file unchanged since the run."""
    hint = "Also name a folder of class folders."
    if run.is_file():
        raise UsageError("a model file has no test images", where=str(run), hint=hint)
    rows = read_splits(run, "test")
    if not rows:
        raise UsageError("the run has no test images", where=str(run), hint=hint)
    root = Path(record.read(run).data["path"])
    for row in rows:
        path = root / row["path"]
        hint = "Restore the file, or name a folder to score on."
        if not path.is_file():
            raise DataError("a test image of the run is missing", where=str(path), hint=hint)
        if content_hash(path) != row["sha256"]:
            raise DataError("a test image has changed since the run", where=str(path), hint=hint)
    return [root / row["path"] for row in rows], [made.classes.index(row["label"]) for row in rows]


def _count_trained(run: Path, paths: Sequence[Path]) -> int:
    """How many of these images the run was trained on; 0 for a model file, which does not say."""
    trained = set() if run.is_file() else {row["sha256"] for row in read_splits(run, "train")}
    return sum(content_hash(path) in trained for path in paths) if trained else 0
