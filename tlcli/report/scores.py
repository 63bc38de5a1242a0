"""The scores of a finished session."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tlcli.data.pixels import Examples
from tlcli.evaluate.agreement import MAX_IMAGES, Agreement, measure_agreement
from tlcli.evaluate.scores import score
from tlcli.report.folder import RunFolder
from tlcli.report.predictions import predictions_csv, scored_images
from tlcli.report.record import RunRecord
from tlcli.train import calibration
from tlcli.train.preparation import Prepared
from tlcli.train.session import Session


def record_scores(run: RunRecord, session: Session, prepared: Prepared, folder: RunFolder) -> None:
    """Calibrate the classifier, score it, record how far whole images lead to other answers, and write predictions.csv.

    All validation and test images are scored, and a sample of the training images. A split without images is left out.
    With folds, the scores of the validation images are those of all out-of-fold predictions.
    """
    if len(session.val) or session.out_of_fold is not None:
        run.model["temperature"] = calibration.calibrate(session)
    temperature = run.model.get("temperature", 1.0)
    classes, probabilities, splits = session.classifier.classes, {}, prepared.plan.splits
    images = {"val": splits.train if splits.folds else splits.val, "test": splits.test}
    for name, examples in (("val", session.pool if splits.folds else session.val), ("test", session.test)):
        if not len(examples):
            continue
        if name == "val" and session.out_of_fold is not None:
            rows = calibration.apply_temperature(session.out_of_fold, temperature).astype(np.float32)
        else:
            rows = calibration.predict(session, examples)
        probabilities[name] = rows
        run.scores[name] = score(examples.labels, rows, classes).to_json()
        if name == "val" and splits.folds:
            run.scores[name]["folds"] = _score_folds(examples.labels, rows, splits.folds)
    run.scores["train"] = calibration.train_score(session)
    if agreement := session_agreement(session, prepared):
        run.agreement = asdict(agreement)
    folder.write_predictions(predictions_csv(scored_images(images, classes, probabilities, temperature)))


def _score_folds(labels: np.ndarray, probabilities: np.ndarray, folds: Sequence[int]) -> dict[str, Any]:
    """Accuracy (0-1) of every fold, their mean, and their standard deviation (with n - 1)."""
    hits = probabilities.argmax(axis=1) == labels
    accuracies = [float(hits[np.array(folds) == fold].mean()) for fold in sorted(set(folds))]
    spread = {"mean": statistics.fmean(accuracies), "deviation": statistics.stdev(accuracies)}
    return {"count": len(accuracies), "accuracy": accuracies, **spread}


def session_agreement(session: Session, prepared: Prepared) -> Agreement | None:
    """The agreement on test images, or else on validation images; None without any."""
    examples, images = session.test, prepared.plan.splits.test
    if not images:
        examples, images = session.val, prepared.plan.splits.val
    if not images:
        return None
    # Spread over all classes.
    chosen = np.unique(np.linspace(0, len(images) - 1, MAX_IMAGES).round().astype(int))
    probabilities = calibration.predict(
        session, Examples(examples.pixels, examples.rows[chosen], examples.labels[chosen])
    )
    files = [prepared.index.file(images[position]) for position in chosen]
    return measure_agreement(session.classifier, files, probabilities)
