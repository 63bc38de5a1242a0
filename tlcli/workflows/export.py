"""Export: convert a classifier, compare the file with it image by image, and bundle the two answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tlcli.errors import UsageError
from tlcli.evaluate.predict import labelled_images
from tlcli.evaluate.run_folder import classifier_file
from tlcli.evaluate.runtimes import is_run, keras_model, open_model
from tlcli.export import bundle
from tlcli.export.bundle import Bundle
from tlcli.export.comparison import compare, objections
from tlcli.export.convert import convert
from tlcli.export.targets import ExportRequest
from tlcli.model import classifier as classifiers
from tlcli.model.metadata import read_metadata
from tlcli.report.folder import read_splits
from tlcli.report.scored_images import own_images

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Images:
    """Image files to compare on, their classes as indices, and training images for int8."""

    paths: list[Path]
    labels: list[int]
    training: list[Path]


def export(request: ExportRequest, *, progress: Progress) -> Bundle:
    """Export a classifier. A file whose answers differ too much is set aside.

    Args:
        request: What to export, and how; `check_request` has accepted it.
        progress: Receives (done, total) images of the comparison.

    Raises:
        UsageError: If there is no such run, or there are no images to compare on.
        ModelError: If the classifier is missing, damaged or changed, or the format lacks an operation of it.
        DataError: If images are missing or unreadable.
        OutputError: If the bundle cannot be written.
    """
    bundle.require_folder(request.folder)
    file = classifier_file(request.model) if is_run(request.model) else request.model
    about, classifier = read_metadata(file), classifiers.load(file)
    images = _images(request, about.classes)
    with bundle.unfinished(request.folder) as folder:
        target = folder / request.target.file
        zeros = convert(classifier, about, request, images.training, target)
        bundle.trust_own(target)
        comparison = compare(
            keras_model.of(classifier),
            open_model(target),
            images.paths,
            images.labels,
            is_raw=request.is_raw,
            progress=progress,
        )
        reasons = objections(comparison, request)
        card = bundle.complete(folder, request, about, comparison, reasons, zeros=zeros)
    return Bundle(request.folder, card, tuple(reasons))


def _images(request: ExportRequest, classes: tuple[str, ...]) -> _Images:
    """The validation images of the run, or else its test images; or those of --data."""
    if request.data is not None:
        paths, labels, _ = labelled_images(request.data, classes)
        return _Images(paths, labels, paths)
    if not is_run(request.model):
        hint = "Name a folder of class folders with --data."
        raise UsageError("a model without its run has no validation images", where=str(request.model), hint=hint)
    split = "val" if read_splits(request.model, "val") else "test"
    training = own_images(request.model, classes, "train")[0] if request.quantize == "int8" else []
    return _Images(*own_images(request.model, classes, split), training)
