"""The scores of a finished session."""

from dataclasses import asdict

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
    """
    if len(session.val):
        run.model["temperature"] = calibration.calibrate(session)
    classes, probabilities = session.classifier.classes, {}
    for name, examples in (("val", session.val), ("test", session.test)):
        if len(examples):
            probabilities[name] = calibration.predict(session, examples)
            run.scores[name] = score(examples.labels, probabilities[name], classes).to_json()
    run.scores["train"] = calibration.train_score(session)
    if agreement := session_agreement(session, prepared):
        run.agreement = asdict(agreement)
    temperature = run.model.get("temperature", 1.0)
    scored = scored_images(prepared.plan.splits, classes, probabilities, temperature)
    folder.write_predictions(predictions_csv(scored))


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
