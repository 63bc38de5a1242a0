"""The scores of a finished session."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from tlcli.data.pixels import Examples
from tlcli.evaluate.agreement import MAX_IMAGES, Agreement, measure_agreement
from tlcli.evaluate.scores import score
from tlcli.report.record import RunRecord
from tlcli.train import calibration
from tlcli.train.preparation import Prepared
from tlcli.train.session import Session


def session_scores(session: Session) -> Iterator[tuple[str, dict[str, Any]]]:
    """Split and scores, as in run.json: all validation and test images, and a sample of the training images.

    A split without images is left out. Each split is scored when it is asked for, so that a failure keeps those before.
    """
    for name, examples in (("val", session.val), ("test", session.test)):
        if len(examples):
            probabilities = calibration.predict(session, examples)
            yield name, score(examples.labels, probabilities, session.classifier.classes).to_json()
    yield "train", calibration.train_score(session)


def record_scores(run: RunRecord, session: Session, prepared: Prepared) -> None:
    """Record the scores of a finished session, and how far whole images lead to other answers."""
    run.scores.update(session_scores(session))
    if agreement := session_agreement(session, prepared):
        run.agreement = asdict(agreement)


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
