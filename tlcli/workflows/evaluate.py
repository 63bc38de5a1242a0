"""Evaluate: score a classifier on its own test images or on another folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tlcli.data import pixels
from tlcli.evaluate.evaluation import Evaluation
from tlcli.evaluate.predict import LabelledImages, labelled_images, probabilities_of_readable
from tlcli.evaluate.runtimes import open_model
from tlcli.evaluate.scores import image_rows, score
from tlcli.evaluate.views import views_for
from tlcli.report.evaluation_page import write_evaluation_page
from tlcli.report.scored_images import count_trained, own_images

Progress = Callable[[int, int], None]


def evaluate(run: Path, data: Path | None, *, html: Path | None = None, tta: int = 1, progress: Progress) -> Evaluation:
    """Score a classifier on the test split of its run, or on other images.

    The test images are read as in the run, so that its recorded scores come out; other images at full size, as in plain
    Keras. Files that cannot be read are left out.

    Args:
        run: A run folder, a bundle or a classifier file.
        data: A folder of class folders; None for the test split of the run.
        html: A page to write; None for none.
        tta: Number of views of each image whose probabilities are averaged.
        progress: Receives (done, total).

    Raises:
        UsageError: If `data` is None and there are no test images.
        DataError: If images of the run are missing, no image can be read, or one is of a class that the classifier does
            not have.
    """
    classifier = open_model(run)
    if data is None:
        paths, labels = own_images(run, classifier.classes, "test")
        given = LabelledImages(paths, labels, f"{len(paths)} test images of {run}")
    else:
        given = labelled_images(data, classifier.classes)
    read = pixels.read if data is None else pixels.read_exactly
    views = views_for(run, tta)
    read_at, by_view, failed = probabilities_of_readable(classifier, given.paths, views, progress=progress, read=read)
    paths, labels = [given.paths[at] for at in read_at], [given.labels[at] for at in read_at]
    trained = 0 if data is None else count_trained(run, paths)
    probabilities = by_view.mean(axis=1)
    scores = score(np.array(labels), probabilities, classifier.classes)
    plain = score(np.array(labels), by_view[:, 0], classifier.classes) if tta > 1 else None
    missing = tuple(row.name for row in scores.per_class if not row.support)
    rows = image_rows(paths, labels, probabilities, classifier.classes)
    title, unreadable = given.description, (*given.unreadable, *failed)
    evaluation = Evaluation(scores, title, missing, trained, views, plain, rows, unreadable)
    if html is not None:
        on = f"{title}, mean of {tta} views" if tta > 1 else title
        write_evaluation_page(evaluation, on, html)
    return evaluation
