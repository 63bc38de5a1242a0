"""What was measured along a pretraining: in lines, in words, and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from tlcli.paths import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Share of the whole fall that the last fifth of a curve must bring to count as still falling.
_STILL = 0.05


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        images: Images seen so far, repetitions counted.
        seconds: Time so far.
        loss: Of the network's own task, mean since the point before.
        accuracy: On the network's own task, 0-1; None where the task has none.
        spread: Standard deviation of the l2-normalised outputs, mean over their dimensions; None where not watched.
    """

    images: int
    seconds: float
    loss: float
    accuracy: float | None = None
    spread: float | None = None


def line(point: Point, number: int, of: int) -> str:
    """One measurement as a line of progress.

    >>> line(Point(2560, 12.34, -0.5, spread=0.04), 3, 20)
    '   3/20  loss -0.5000  spread 0.0400  2560 images  12 s'
    """
    accuracy = "" if point.accuracy is None else f"  acc {point.accuracy:.3f}"
    spread = "" if point.spread is None else f"  spread {point.spread:.4f}"
    seen = f"{point.images} images  {point.seconds:.0f} s"
    return f"{f'{number}/{of}':>7}  loss {point.loss:.4f}{accuracy}{spread}  {seen}"


def words(points: Sequence[Point]) -> str:
    """The course of a training in a sentence.

    >>> words([Point(10, 1, 2.0), Point(20, 2, 1.0), Point(30, 3, 1.0)])
    'loss 2.000 → 1.000, level at the end'
    >>> words([Point(10, 1, 2.0, 0.1), Point(20, 2, 1.0, 0.5)])
    'loss 2.000 → 1.000, still falling; accuracy 10.0 % → 50.0 %'
    """
    first, last = points[0], points[-1]
    said = f"loss {first.loss:.3f} → {last.loss:.3f}, {_trend([point.loss for point in points])}"
    if first.accuracy is not None and last.accuracy is not None:
        said += f"; accuracy {first.accuracy:.1%} → {last.accuracy:.1%}".replace("%", " %")
    return said


def plot(points: Sequence[Point], path: Path, *, title: str, healthy: float | None = None) -> None:
    """Draw loss, and accuracy or spread where there is one, over the images seen; PNG, by rename.

    Args:
        points: At least one.
        path: Where to.
        title: Above the picture.
        healthy: The spread of outputs that differ in every direction, drawn as a line.
    """
    # Matplotlib takes a second to load; this object needs no screen and leaves no state behind.
    from matplotlib.figure import Figure

    curves = {"loss": [point.loss for point in points]}
    for name in ("accuracy", "spread"):
        values = [getattr(point, name) for point in points]
        if None not in values:
            curves[name] = values
    figure = Figure(figsize=(4.5 * len(curves), 3.4), dpi=110, layout="constrained")
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    images = [point.images for point in points]
    for place, (name, values) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), place)
        _draw(axes, images, values, name)
        if name == "spread" and healthy is not None:
            axes.axhline(healthy, color="tab:green", linestyle="--", linewidth=1, label="healthy")
            axes.set_ylim(0, 1.3 * max(healthy, *values))
            axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes: "Axes", images: Sequence[int], values: Sequence[float], name: str) -> None:
    axes.plot(images, values, marker="." if len(values) < 60 else None)
    axes.set_xlabel("images seen")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)


def _trend(losses: Sequence[float]) -> str:
    part = max(1, len(losses) // 5)
    before, end = losses[-2 * part : -part] or losses[:1], losses[-part:]
    fall = losses[0] - fmean(end)
    if fall <= 0:
        return "never below its start"
    return "still falling" if fmean(before) - fmean(end) > _STILL * fall else "level at the end"
