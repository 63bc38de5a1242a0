"""What linear probes found at every depth of a network: as numbers, as JSON, and as a picture."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tlcli.paths import replacing
from tlcli.train import judgement


@dataclass(frozen=True)
class Depth:
    """The linear probe on the features at the end of a layer group.

    Attributes:
        group: The group.
        channels: Features of an image there.
        flops_share: Share (0-1) of the network's operations up to there.
        drop_top: The `model.drop_top` that ends the network there.
        inverse_l2: One by the penalty, on standardised features; the one with the lowest validation loss.
        val_loss: Mean cross-entropy.
        val_accuracy: 0-1.
        test_accuracy: 0-1; None without test images.
    """

    group: str
    channels: int
    flops_share: float
    drop_top: int
    inverse_l2: float
    val_loss: float
    val_accuracy: float
    test_accuracy: float | None


@dataclass(frozen=True)
class Lead:
    """By how much one mean loss is below another, paired by image.

    Attributes:
        gain: The difference; above 0 where the first is lower.
        standard_error: Of the difference; 0 where there is but one image.
        confidence: Probability (0-1) that the gain is above 0.
    """

    gain: float
    standard_error: float
    confidence: float

    @property
    def is_clear(self) -> bool:
        """Whether the gain is more than its standard error."""
        return self.gain > self.standard_error


@dataclass(frozen=True)
class Probed:
    """The probes of one network.

    Attributes:
        model: Name of the network.
        weights: Where its weights come from.
        size: Input height and width, pixels.
        depths: From bottom to top.
        over_top: The lead of the best depth over the top.
        seconds: Spent on the pass over the images (`features`) and on solving (`probes`).
        notices: What the user should know of the choice of the network.
    """

    model: str
    weights: str
    size: tuple[int, int]
    depths: tuple[Depth, ...]
    over_top: Lead
    seconds: dict[str, float]
    notices: tuple[str, ...] = ()

    @cached_property
    def best(self) -> Depth:
        """The depth with the lowest validation loss; test images have no say."""
        return min(self.depths, key=lambda depth: depth.val_loss)

    def to_json(self) -> dict[str, Any]:
        """One of `models` in `tlcli probe --json`."""
        lead = {"gain_over_top": self.over_top.gain, "is_clear": self.over_top.is_clear}
        lead |= {"standard_error": self.over_top.standard_error, "confidence": self.over_top.confidence}
        return {
            "model": self.model,
            "weights": self.weights,
            "size": list(self.size),
            "depths": [asdict(depth) for depth in self.depths],
            "best": asdict(self.best) | lead,
            "seconds": self.seconds,
            "notices": list(self.notices),
        }


@dataclass(frozen=True)
class Comparison:
    """The lead of the best network over another one, each at its best depth."""

    model: str
    over: str
    lead: Lead

    def to_json(self) -> dict[str, Any]:
        """One of `comparisons` in `tlcli probe --json`."""
        return {"model": self.model, "over": self.over, **asdict(self.lead), "is_clear": self.lead.is_clear}


def lead(losses: Sequence[float], over: Sequence[float]) -> Lead:
    """The lead of one probe over another, from their losses on the same images in the same order.

    >>> lead([0.0, 1.0, 2.0], [1.0, 2.0, 6.0])
    Lead(gain=2.0, standard_error=1.0, confidence=0.908248290463863)
    """
    gains = [other - own for own, other in zip(losses, over, strict=True)]
    spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
    return Lead(statistics.fmean(gains), spread / math.sqrt(len(gains)), judgement.confidence(gains))


def plot(found: Sequence[Probed], path: Path, *, title: str) -> None:
    """Draw validation accuracy over depth, a curve a network, its best depth ringed; by rename.

    Args:
        found: At least one.
        path: Where to; its suffix says in which format.
        title: Above the picture.
    """
    # Matplotlib takes a second to load; this object needs no screen and leaves no state behind.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for probed in found:
        places = [100 * depth.flops_share for depth in probed.depths]
        (line,) = axes.plot(
            places, [depth.val_accuracy for depth in probed.depths], marker=".", label=_plain(probed.model)
        )
        best = (100 * probed.best.flops_share, probed.best.val_accuracy)
        axes.plot(*best, marker="o", markersize=11, fillstyle="none", color=line.get_color())
    axes.set_title(_plain(title), fontsize=10)
    axes.set_xlabel("depth, % of the network's FLOPs (ring: lowest validation loss)")
    axes.set_ylabel("validation accuracy of the linear probe")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _plain(text: str) -> str:
    """Matplotlib reads mathematics between dollars."""
    return text.replace("$", r"\$")
