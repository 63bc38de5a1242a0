"""The scores of a finished session."""

from collections.abc import Iterator
from typing import Any

from tlcli.evaluate.scores import score
from tlcli.train import calibration
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
