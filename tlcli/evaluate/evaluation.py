"""An evaluation: the scores of a classifier on some images, and the outcome for each of them."""

from dataclasses import dataclass
from typing import Any

from tlcli.evaluate.scores import Scores
from tlcli.evaluate.views import PLAIN, Views


@dataclass(frozen=True)
class Evaluation:
    """The scores of a classifier on some images.

    Attributes:
        scores: The scores.
        title: Description of the images.
        missing: The classes of the classifier without images.
        trained: Number of the images that the classifier was trained on.
        views: The views of each image whose probabilities are averaged.
        plain: The scores of the plain images alone, if there are several views.
        unreadable: Files of the images that cannot be read and are not scored, with reasons.
        rows: Of each image `path`, `label`, `predicted`, `probability` of the predicted class (0-1) and `correct`.
    """

    scores: Scores
    title: str
    missing: tuple[str, ...] = ()
    trained: int = 0
    views: Views = PLAIN
    plain: Scores | None = None
    rows: tuple[dict[str, Any], ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON shape of `tlcli evaluate --json`."""
        found = {**self.scores.to_json(), "missing": list(self.missing)}
        found["unreadable"] = [{"path": path, "error": reason} for path, reason in self.unreadable]
        if self.plain is not None:
            plain = {name: getattr(self.plain, name) for name in ("accuracy", "balanced_accuracy", "loss")}
            found["tta"] = {"views": self.views.count, "mirrored": self.views.is_mirrored, "without": plain}
        return found
