"""The run folder of an ensemble: the files of its best member, with the classifier and the scores of the mean."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tlcli.data import pixels
from tlcli.data.source import ImageFile
from tlcli.evaluate.agreement import MAX_IMAGES, measure_agreement
from tlcli.evaluate.predict import probabilities_of
from tlcli.evaluate.run_folder import classifier_file
from tlcli.evaluate.runtimes import keras_model
from tlcli.evaluate.runtimes.runtime import Runtime
from tlcli.evaluate.scores import score
from tlcli.model import classifier
from tlcli.model.classifier import Classifier
from tlcli.model.ensemble import ensemble
from tlcli.report import record
from tlcli.report.folder import RunFolder, link_files, read_splits
from tlcli.report.predictions import predictions_csv, scored_images
from tlcli.report.record import RunRecord
from tlcli.report.scored_images import own_images


@dataclass(frozen=True)
class SplitPredictions:
    """What a classifier says of the images of a split.

    Attributes:
        paths: Their files.
        labels: int (images,).
        probabilities: float32 (images, classes), 0-1.
    """

    paths: Sequence[Path]
    labels: np.ndarray
    probabilities: np.ndarray


def predict_split(run: Path, split: str, model: Runtime) -> SplitPredictions | None:
    """Predictions for the images of a split of a run, read as in the run; None if it has none.

    Args:
        run: A run folder.
        split: val or test.
        model: A classifier for the classes of the run.
    """
    if not read_splits(run, split):
        return None
    paths, labels = own_images(run, model.classes, split)
    rows = probabilities_of(model, paths, progress=lambda done, total: None, read=pixels.read)
    return SplitPredictions(paths, np.array(labels), rows)


def write_ensemble(out: Path, members: Sequence[Path], *, temperature: float) -> RunRecord:
    """Write the files of an ensemble, other than its record, into a run folder that this process has locked.

    Args:
        out: The run folder.
        members: Complete runs on the same split, the best first.
        temperature: Divides the logarithms of the mean probabilities, above 0.

    Returns:
        Its record: that of the first member, with the scores of the mean.
    """
    run, folder = record.read(members[0]), RunFolder(out)
    model = ensemble([classifier.load(classifier_file(member)) for member in members], temperature=temperature)
    link_files(members[0], out)
    runtime = keras_model.of(model)
    found = {name: predict_split(members[0], name, runtime) for name in ("val", "test")}
    predicted = {name: predictions for name, predictions in found.items() if predictions is not None}
    scores = {name: score(part.labels, part.probabilities, model.classes) for name, part in predicted.items()}
    run.scores |= {name: part.to_json() for name, part in scores.items()}
    run.model |= {
        "temperature": temperature,
        "members": [{"run": member.name, "sha256": record.read(member).model["sha256"]} for member in members],
    }
    last = list(predicted.values())[-1]
    chosen = np.unique(np.linspace(0, len(last.paths) - 1, MAX_IMAGES).round().astype(int))
    agreement = measure_agreement(model, [last.paths[at] for at in chosen], last.probabilities[chosen])
    run.agreement = None if agreement is None else asdict(agreement)
    folder.write_predictions(_predictions(members[0], model, predicted, temperature))
    facts = record.training_facts(run)
    run.model["sha256"] = folder.write_classifier(lambda path: classifier.save(model, path, training=facts))
    return run


def _predictions(run: Path, model: Classifier, predicted: dict[str, SplitPredictions], temperature: float) -> str:
    """The text of predictions.csv."""
    images = {
        name: [
            ImageFile(row["path"], model.classes.index(row["label"]), row["sha256"], 0, None)
            for row in read_splits(run, name)
        ]
        for name in predicted
    }
    probabilities = {name: part.probabilities for name, part in predicted.items()}
    return predictions_csv(scored_images(images, model.classes, probabilities, temperature))
