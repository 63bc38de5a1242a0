"""Predict: classify image files with a run, a bundle or a classifier file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlcli.evaluate.predict import Prediction, Progress, expand_patterns
from tlcli.evaluate.predict import predict as predict_paths
from tlcli.evaluate.runtimes import open_model
from tlcli.evaluate.sorting import require_sortable, sort_into
from tlcli.evaluate.views import views_for


@dataclass(frozen=True)
class PredictRequest:
    """What the user asks of `tlcli predict`.

    Attributes:
        model: A run folder, a bundle or a classifier file.
        patterns: Image files, folders and globs.
        top: Number of classes per prediction, the most probable first. At most all classes are returned.
        min_confidence: Below this probability, 0-1, an image is unsure.
        tta: Number of views of each image whose probabilities are averaged.
        sort_into: Folder for copies of the images by class; None for no copies.
    """

    model: Path
    patterns: Sequence[str]
    top: int = 1
    min_confidence: float = 0.0
    tta: int = 1
    sort_into: Path | None = None


def predict(request: PredictRequest, *, progress: Progress) -> Iterator[Prediction]:
    """One prediction per image, as soon as its batch is done.

    Args:
        request: The images, and what to do with them.
        progress: Receives (done, total).

    Raises:
        UsageError: If there is no classifier.
        DataError: If a pattern matches nothing.
        OutputError: If the images cannot be sorted into the folder.
    """
    classifier, paths = open_model(request.model), expand_patterns(request.patterns)
    if request.sort_into is not None:
        require_sortable(request.sort_into, classifier.classes, min_confidence=request.min_confidence)
    top = min(request.top, len(classifier.classes))
    predictions = predict_paths(
        classifier,
        paths,
        top=top,
        min_confidence=request.min_confidence,
        views=views_for(request.model, request.tta),
        progress=progress,
    )
    return predictions if request.sort_into is None else sort_into(request.sort_into, predictions)
