"""Plots: validation accuracy over depth, and the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlcli.paths import replacing
from tlcli.text import printable

if TYPE_CHECKING:
    # This module loads Keras.
    from tlcli.train.depth_probe import NetworkProbe


def plot_probes(probes: Sequence["NetworkProbe"], path: Path, *, title: str) -> None:
    """Plot validation accuracy over depth: one curve per network, with a ring at its best depth.

    Args:
        probes: At least one probe.
        path: The file, which appears by rename. Its suffix sets the format.
        title: The title of the plot.
    """
    # Imported here because Matplotlib takes a second to load. Unlike pyplot, Figure needs no screen and keeps no state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for probe in probes:
        percent = [100 * depth.flops_share for depth in probe.depths]
        (line,) = axes.plot(
            percent, [depth.val_accuracy for depth in probe.depths], marker=".", label=_plain(probe.model)
        )
        best = (100 * probe.best.flops_share, probe.best.val_accuracy)
        axes.plot(*best, marker="o", markersize=11, fillstyle="none", color=line.get_color())
    axes.set_title(_plain(title), fontsize=10)
    axes.set_xlabel("depth, % of the network's FLOPs (ring: lowest validation loss)")
    axes.set_ylabel("validation accuracy of the linear probe")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _plain(text: str) -> str:
    """The text with escaped dollar signs, between which Matplotlib reads mathematics."""
    return text.replace("$", r"\$")


# Above this number of classes, their names and counts would be too small to read.
MAX_NAMED_CLASSES = 30


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> np.ndarray:
    """A confusion matrix as an image, `uint8 (height, width, 3)`.

    Args:
        confusion: Number of images of class i (row) that are predicted as class j (column).
        classes: Class names.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.array(confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    is_named = len(classes) <= MAX_NAMED_CLASSES
    side = 2.5 + 0.45 * len(classes) if is_named else 8.0
    figure = Figure(figsize=(side + 1.0, side), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, label="share of the class")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class")
    if is_named:
        names = [_plain(printable(name[:24])) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", fontsize=8, color=colour)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
