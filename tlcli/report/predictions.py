"""The predictions of a run for its validation and test images: predictions.csv in the run folder."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlcli.data.layout import SPLIT_NAMES
from tlcli.data.source import ImageFile
from tlcli.errors import UsageError
from tlcli.report.folder import csv_text, read_splits
from tlcli.text import why_unreadable

FILE = "predictions.csv"
COLUMNS = ("path", "label", "split", "predicted", "probability", "uncalibrated")


@dataclass(frozen=True)
class ScoredImage:
    """An image and the prediction for it.

    Attributes:
        path: As in splits.csv, relative to DATA.
        label: Its class.
        split: `val` or `test`.
        predicted: The most probable class.
        probability: The probability of that class, 0-1.
        uncalibrated: The same before the temperature was applied.
        sha256: The content of the file.
    """

    path: str
    label: str
    split: str
    predicted: str
    probability: float
    uncalibrated: float
    sha256: str

    @property
    def is_hit(self) -> bool:
        """True if the prediction is right."""
        return self.label == self.predicted


def scored_images(
    images: Mapping[str, Sequence[ImageFile]],
    classes: Sequence[str],
    probabilities: Mapping[str, np.ndarray],
    temperature: float,
) -> list[ScoredImage]:
    """The predictions for the images of a run.

    Args:
        images: The images of each split.
        classes: Class names in the order of the probabilities.
        probabilities: For each split with images: float (images, classes), 0-1, in the order of the images.
        temperature: The temperature that has been applied to them.
    """
    # Imported here because it loads Keras. Reading predictions must not.
    from tlcli.train.calibration import apply_temperature

    scored = []
    for split, rows in probabilities.items():
        before, predicted = apply_temperature(rows, 1 / temperature), rows.argmax(axis=1)
        for position, image in enumerate(images[split]):
            best = predicted[position]
            values = (float(rows[position, best]), float(before[position, best]))
            scored.append(ScoredImage(image.path, classes[image.label], split, classes[best], *values, image.sha256))
    return scored


def predictions_csv(images: Iterable[ScoredImage]) -> str:
    """The text of predictions.csv: one line per validation and test image."""
    rows = (
        (image.path, image.label, image.split, image.predicted, f"{image.probability:.6f}", f"{image.uncalibrated:.6f}")
        for image in images
    )
    return csv_text(COLUMNS, rows)


def read_predictions(run: Path) -> list[ScoredImage]:
    """The predictions of a run; empty if the run folder has no predictions.csv, or none that belongs to its splits.

    Raises:
        UsageError: If the file is damaged.
    """
    file = run / FILE
    if not file.is_file():
        return []
    contents = {row["path"]: row["sha256"] for split in SPLIT_NAMES for row in read_splits(run, split)}
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            return [
                ScoredImage(
                    row["path"],
                    row["label"],
                    row["split"],
                    row["predicted"],
                    float(row["probability"]),
                    float(row["uncalibrated"]),
                    contents[row["path"]],
                )
                for row in csv.DictReader(stream)
            ]
    except (KeyError, ValueError, TypeError, UnicodeDecodeError) as error:
        hint = "Remove the file: tlcli report then makes the predictions again."
        raise UsageError(f"is damaged ({why_unreadable(error)})", where=str(file), hint=hint) from error
