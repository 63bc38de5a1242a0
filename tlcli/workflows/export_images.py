"""The images of an export: those to compare on, and others from which 8-bit numbers take their ranges."""

from dataclasses import dataclass, field
from pathlib import Path

from tlcli.errors import DataError
from tlcli.evaluate.predict import labelled_images
from tlcli.evaluate.runtimes import is_run
from tlcli.export.targets import CALIBRATION, ExportRequest
from tlcli.report.folder import read_splits
from tlcli.report.scored_images import count_trained, own_images

INSTEAD = "name others with --data"
INSTEAD_OF_TRAINING = "export model.keras of the run with --data FOLDER"


@dataclass(frozen=True)
class ExportImages:
    """Image files of an export.

    Attributes:
        paths: Images to compare on.
        labels: Their classes, as indices.
        calibration: Images for the ranges of 8-bit numbers; empty for other numbers.
        trained: Number of the images to compare on that the classifier was trained on.
    """

    paths: list[Path]
    labels: list[int]
    calibration: list[Path] = field(default_factory=list)
    trained: int = 0


def export_images(request: ExportRequest, classes: tuple[str, ...]) -> ExportImages:
    """Images to compare on: the validation images of the run, or else its test images; or those of --data.

    8-bit numbers take their ranges from training images of the run. A file without its run takes them from a part of
    the images of --data, which is then not compared on.

    Raises:
        DataError: If images are missing, changed or too few.
    """
    has_run, is_calibrated = is_run(request.model), request.quantize == "int8"
    if request.data is not None:
        given = labelled_images(request.data, classes)
        paths, labels = given.paths, given.labels
        if is_calibrated and not has_run:
            return _split(request.data, paths, labels)
        trained = count_trained(request.model, paths)
    else:
        split, trained = "val" if read_splits(request.model, "val") else "test", 0
        paths, labels = own_images(request.model, classes, split, instead=INSTEAD)
    training: list[Path] = []
    if is_calibrated:
        training, _ = own_images(request.model, classes, "train", instead=INSTEAD_OF_TRAINING)
    return ExportImages(paths, labels, _spread(training, CALIBRATION), trained)


def _split(data: Path, paths: list[Path], labels: list[int]) -> ExportImages:
    """At most half of the images for the ranges, the others to compare on."""
    if len(paths) < 2:
        hint = "Name a folder with more images."
        raise DataError("int8 needs images for its ranges and others to compare on", where=str(data), hint=hint)
    calibration = _spread(paths, min(CALIBRATION, len(paths) // 2))
    taken = set(calibration)
    others = [(path, label) for path, label in zip(paths, labels, strict=True) if path not in taken]
    return ExportImages([path for path, _ in others], [label for _, label in others], calibration)


def _spread(paths: list[Path], count: int) -> list[Path]:
    """At most `count` of the images, evenly spread over their order, in which classes may stand together."""
    count = min(count, len(paths))
    return [paths[(2 * number + 1) * len(paths) // (2 * count)] for number in range(count)]
