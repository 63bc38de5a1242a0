"""Plots: validation accuracy over depth."""

from collections.abc import Sequence
from pathlib import Path

from tlcli.paths import replacing
from tlcli.train.depth_probe import NetworkProbe


def plot_probes(probes: Sequence[NetworkProbe], path: Path, *, title: str) -> None:
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
