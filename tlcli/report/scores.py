"""The scores of a finished session."""

from dataclasses import asdict

import numpy as np

from tlcli.data.pixels import Examples
from tlcli.evaluate.agreement import MAX_IMAGES, Agreement, measure_agreement
from tlcli.evaluate.scores import score
from tlcli.report.record import RunRecord
from tlcli.train import calibration
from tlcli.train.preparation import Prepared
from tlcli.train.session import Session


def record_scores(run: RunRecord, session: Session, prepared: Prepared) -> dict[str, np.ndarray]:
    """Record the scores of a finished session, and how far whole images lead to other answers.

    All validation and test images are scored, and a sample of the training images. A split without images is left out.

    Returns:
        The probabilities of each split that has images: float32 (images, classes), 0-1.
    """
    probabilities = {}
    for name, examples in (("val", session.val), ("test", session.test)):
        if len(examples):
            probabilities[name] = calibration.predict(session, examples)
            run.scores[name] = score(examples.labels, probabilities[name], session.classifier.classes).to_json()
    run.scores["train"] = calibration.train_score(session)
    if agreement := session_agreement(session, prepared):
        run.agreement = asdict(agreement)
    return probabilities


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
