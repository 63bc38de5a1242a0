"""Plots."""

from collections.abc import Sequence
from pathlib import Path

from tlcli.paths import replacing
from tlcli.train.depth_probe import NetworkProbe


def plot_probes(found: Sequence[NetworkProbe], path: Path, *, title: str) -> None:
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
