"""Predict: classify image files with a run or a classifier file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tlcli.evaluate.predict import Prediction, Progress, expand_patterns
from tlcli.evaluate.predict import predict as predict_paths
from tlcli.evaluate.runtimes import open_model


def predict(run: Path, patterns: Sequence[str], *, top: int, progress: Progress) -> Iterator[Prediction]:
    """One prediction per image.

    Args:
        run: A run folder or a classifier file.
        patterns: Image files, folders and globs.
        top: Number of classes per prediction, the most probable first. At most all classes are returned.
        progress: Receives (done, total).

    Raises:
        UsageError: If `run` has no classifier.
        DataError: If a pattern matches nothing.
    """
    classifier, paths = open_model(run), expand_patterns(patterns)
    return predict_paths(classifier, paths, top=min(top, len(classifier.classes)), progress=progress)
