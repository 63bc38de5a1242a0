"""The scores of a finished session."""

from typing import Any

from tlcli.evaluate.scores import score
from tlcli.train import calibration
from tlcli.train.session import Session


def session_scores(session: Session) -> dict[str, Any]:
    """Scores by split, as in run.json: all validation and test images, and a sample of the training images.

    A split without images has no entry.
    """
    scores: dict[str, Any] = {}
    for name, examples in (("val", session.val), ("test", session.test)):
        if len(examples):
            probabilities = calibration.predict(session, examples)
            scores[name] = score(examples.labels, probabilities, session.classifier.classes).to_json()
    return scores | {"train": calibration.train_score(session)}
