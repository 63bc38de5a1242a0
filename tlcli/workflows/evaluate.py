"""Evaluate: score a classifier on its own test images or on another folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.data import pixels
from tlcli.evaluate.predict import labelled_images, probabilities_of
from tlcli.evaluate.runtimes import open_model
from tlcli.evaluate.scores import Scores, image_rows, score
from tlcli.report.evaluation_page import write_evaluation_page
from tlcli.report.scored_images import count_trained, own_images

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """The scores of a classifier on some images.

    Attributes:
        scores: The scores.
        title: Description of the images.
        missing: The classes of the classifier without images.
        trained: Number of the images that the classifier was trained on.
        rows: Of each image `path`, `label`, `predicted`, `probability` of the predicted class (0-1) and `correct`.
    """

    scores: Scores
    title: str
    missing: tuple[str, ...] = ()
    trained: int = 0
    rows: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON shape of `tlcli evaluate --json`."""
        return {**self.scores.to_json(), "missing": list(self.missing)}


def evaluate(run: Path, data: Path | None, *, html: Path | None = None, progress: Progress) -> Evaluation:
    """Score a classifier on the test split of its run, or on other images.

    The test images are read as in the run, so that its recorded scores come out; other images at full size, as in plain
    Keras.

    Args:
        run: A run folder, a bundle or a classifier file.
        data: A folder of class folders; None for the test split of the run.
        html: A page to write; None for none.
        progress: Receives (done, total).

    Raises:
        UsageError: If `data` is None and there are no test images.
        DataError: If images are missing or unreadable, or of a class that the classifier does not have.
    """
    classifier = open_model(run)
    if data is None:
        paths, labels = own_images(run, classifier.classes, "test")
        title, trained = f"{len(paths)} test images of {run}", 0
    else:
        paths, labels, title = labelled_images(data, classifier.classes)
        trained = count_trained(run, paths)
    read = pixels.read if data is None else pixels.read_exactly
    probabilities = probabilities_of(classifier, paths, progress=progress, read=read)
    scores = score(np.array(labels), probabilities, classifier.classes)
    missing = tuple(row.name for row in scores.per_class if not row.support)
    rows = image_rows(paths, labels, probabilities, classifier.classes)
    evaluation = Evaluation(scores, title, missing, trained, rows)
    if html is not None:
        write_evaluation_page(evaluation.to_json(), title, rows, html)
    return evaluation
