"""Training curves: the sentence that describes them, and the PNG file."""

from pathlib import Path

import pytest
from PIL import Image

from tlcli.pretrain.card import Point, describe_curve, plot_curve


def points(*losses: float, accuracy: float | None = None, spread: float | None = None) -> list[Point]:
    return [Point(100 * n, float(n), loss, accuracy, spread) for n, loss in enumerate(losses, start=1)]


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        ([5, 4, 3, 2, 1], "loss 5.000 → 1.000, still falling"),
        ([5, 2, 1, 1, 1, 1, 1, 1, 1, 1], "loss 5.000 → 1.000, level at the end"),
        ([1, 2, 3], "loss 1.000 → 3.000, never below its start"),
        ([-0.1, -0.5, -0.9], "loss -0.100 → -0.900, still falling"),
        ([2], "loss 2.000 → 2.000, never below its start"),
    ],
)
def test_the_sentence_describes_the_trend(losses: list[float], sentence: str) -> None:
    assert describe_curve(points(*losses)) == sentence


@pytest.mark.parametrize(("accuracy", "spread", "panels"), [(None, None, 1), (0.5, None, 2), (None, 0.04, 2)])
def test_the_plot_has_one_panel_per_curve(
    accuracy: float | None, spread: float | None, panels: int, tmp_path: Path
) -> None:
    path = tmp_path / "curve.png"
    plot_curve(points(3, 2, 1, accuracy=accuracy, spread=spread), path, title="a $\\frac$ title", healthy=0.04)
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width == int(4.5 * panels * 110)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10
    assert list(tmp_path.iterdir()) == [path]
