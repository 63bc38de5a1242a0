"""Predict: the classes of image files, by a run or a classifier file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tlcli.evaluate.predict import Prediction, Progress, expand_patterns
from tlcli.evaluate.predict import predict as predict_paths
from tlcli.workflows.evaluate import load_classifier


def predict(run: Path, patterns: Sequence[str], *, top: int, progress: Progress) -> Iterator[Prediction]:
    """One prediction for each image among paths, folders and globs, with the `top` most probable classes.

    Raises:
        UsageError: If `run` has no classifier.
        DataError: If a pattern matches nothing.
    """
    made, paths = load_classifier(run), expand_patterns(patterns)
    return predict_paths(made, paths, top=min(top, len(made.classes)), progress=progress)
