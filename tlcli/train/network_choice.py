"""The choice between networks, by a linear probe of each at its own input size."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tlcli.model.backbone import Backbone
from tlcli.train import linear_probe
from tlcli.train.calibration import score_probabilities
from tlcli.train.depth_probe import Lead, by_split, compare_losses, features_at, labels_by_split, require_validation
from tlcli.train.events import Observer
from tlcli.train.preparation import Prepared


@dataclass(frozen=True)
class ProbedNetwork:
    """The linear probe on the features of a whole network.

    Attributes:
        model: Name of the network.
        size: Input height and width, pixels.
        val_loss: Mean cross-entropy on the validation images, at the temperature that fits them.
        val_accuracy: 0-1.
        seconds: Time of building the network, reading the images at its size, the features and the probe.
        losses: Cross-entropy of each validation image, likewise.
    """

    model: str
    size: tuple[int, int]
    val_loss: float
    val_accuracy: float
    seconds: float
    losses: tuple[float, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """An element of `model.chosen_from` in run.json."""
        return {key: value for key, value in asdict(self).items() if key != "losses"}


def probe_network(prepared: Prepared, backbone: Backbone, observe: Observer, *, began: float) -> ProbedNetwork:
    """Probe a network at its top on the training and validation images.

    Args:
        prepared: The plan and its images.
        backbone: The network of the plan.
        observe: Receives progress.
        began: Start of the work for this network, seconds on `time.perf_counter`.

    Raises:
        DataError: If there are no validation images, or the disk has too little space for the features.
    """
    require_validation(prepared)
    plan = prepared.plan
    (x,) = features_at(prepared, backbone, [plan.groups.groups[-1].boundary], observe)
    parts = by_split(x, labels_by_split(prepared))
    balanced = plan.recipe.data.is_balanced
    solution = linear_probe.solve(parts["train"], parts["val"], classes=len(plan.classes), balanced=balanced)
    # As the steps of a run are scored, with which a ladder compares it.
    scored = score_probabilities(linear_probe.probabilities(solution, parts["val"]), parts["val"].y)
    return ProbedNetwork(
        plan.card.name,
        plan.size,
        float(scored.losses.mean()),
        float(scored.hits.mean()),
        round(time.perf_counter() - began, 2),
        tuple(scored.losses.tolist()),
    )


def best_of(networks: Sequence[ProbedNetwork]) -> tuple[int, Lead]:
    """The position of the network with the lowest validation loss, and its lead over the second best."""
    ranked = sorted(range(len(networks)), key=lambda index: networks[index].val_loss)
    return ranked[0], compare_losses(networks[ranked[0]].losses, networks[ranked[1]].losses)
