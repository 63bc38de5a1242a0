"""Export: convert a classifier, compare the file with it image by image, and bundle the two answers."""

from collections.abc import Callable
from dataclasses import replace

from tlcli.evaluate.run_folder import classifier_file
from tlcli.evaluate.runtimes import is_run, keras_model, open_model
from tlcli.export import bundle
from tlcli.export.bundle import Bundle
from tlcli.export.comparison import compare, objections
from tlcli.export.convert import convert
from tlcli.export.targets import ExportRequest
from tlcli.model import classifier as classifiers
from tlcli.model.metadata import read_metadata
from tlcli.workflows.export_images import export_images

Progress = Callable[[int, int], None]


def export(request: ExportRequest, *, progress: Progress) -> Bundle:
    """Export a classifier. A file whose answers differ too much is set aside.

    Args:
        request: What to export, and how; `check_request` has accepted it.
        progress: Receives (done, total) images of the comparison.

    Raises:
        UsageError: If there is no such run, or the run has no images to compare on.
        ModelError: If the classifier is missing, damaged or changed, or the format lacks an operation of it.
        DataError: If images are missing or unreadable.
        OutputError: If the bundle cannot be written.
    """
    file = classifier_file(request.model) if is_run(request.model) else request.model
    about, classifier = read_metadata(file), classifiers.load(file)
    images = export_images(request, about.classes)
    with bundle.unfinished(request.folder) as folder:
        target = folder / request.target.file
        zeros = convert(classifier, about, request, images.calibration, target)
        bundle.trust_own(target)
        comparison = compare(
            keras_model.of(classifier),
            open_model(target),
            images.paths,
            images.labels,
            is_raw=request.is_raw,
            progress=progress,
        )
        comparison = replace(comparison, trained=images.trained, calibration=len(images.calibration))
        reasons = objections(comparison, request)
        card = bundle.complete(folder, request, about, comparison, reasons, zeros=zeros)
    return Bundle(request.folder, card, tuple(reasons))
