"""Evaluate: score a classifier on its own test images or on another folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tlcli.data.source import content_hash
from tlcli.errors import DataError, UsageError
from tlcli.evaluate.predict import labelled_images, probabilities_of
from tlcli.evaluate.scores import Scores, score
from tlcli.model.classifier import Classifier, load
from tlcli.report import record
from tlcli.report.folder import read_splits

Progress = Callable[[int, int], None]


def evaluate(run: Path, data: Path | None, *, progress: Progress) -> tuple[Scores, str, str]:
    """Score a classifier on the test split of its run, or on other images.

    Args:
        run: A run folder or a `.keras` file.
        data: A folder of class folders; None for the test split of the run.
        progress: Receives (done, total).

    Returns:
        The scores, a description of the images, and a warning, which may be empty.

    Raises:
        UsageError: If `data` is None and there are no test images.
        DataError: If images are missing, unreadable, or of other classes.
    """
    classifier, warning = load_classifier(run), ""
    if data is None:
        paths, labels = _own_test_images(run, classifier)
        title = f"{len(paths)} test images of {run}"
    else:
        paths, labels, title = labelled_images(data, classifier.classes)
        if trained := _count_trained(run, paths):
            warning = f"the run was trained on {trained} of these {len(paths)} images: the scores are too high"
    probabilities = probabilities_of(classifier, paths, progress=progress)
    return score(np.array(labels), probabilities, classifier.classes), title, warning


def load_classifier(run: Path) -> Classifier:
    """Load the classifier of a run folder, or a `.keras` file that a run wrote.

    Raises:
        UsageError: If there is no such run, or it is not complete.
        ModelError: If the classifier is missing, damaged or changed.
    """
    return load(run if run.is_file() else record.classifier_file(run))


def _own_test_images(run: Path, classifier: Classifier) -> tuple[list[Path], list[int]]:
    """Paths and labels of the test split of a run. Every file must be unchanged since the run."""
    hint = "Name a folder of class folders as well."
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
    return [root / row["path"] for row in rows], [classifier.classes.index(row["label"]) for row in rows]


def _count_trained(run: Path, paths: Sequence[Path]) -> int:
    """The number of these images that the run was trained on; 0 for a model file, which has no record of them."""
    trained = set() if run.is_file() else {row["sha256"] for row in read_splits(run, "train")}
    return sum(content_hash(path) in trained for path in paths) if trained else 0
