"""Probe results: the best depth, its lead over the top, and the plot."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tlcli.report.plots import plot_probes
from tlcli.train.depth_probe import Depth, NetworkProbe, compare_losses


def depth(group: str, val_loss: float, accuracy: float = 0.5, test: float | None = 0.5) -> Depth:
    return Depth(group, 8, 0.5, 0, 0.1, val_loss, accuracy, test)


def network(name: str, *depths: Depth) -> NetworkProbe:
    lead = compare_losses([0.1], [0.2])
    return NetworkProbe(name, "random", (32, 32), depths, lead, {"features": 1.0, "probes": 1.0})


def test_the_best_depth_has_the_lowest_validation_loss() -> None:
    """Accuracy and test images have no influence. Of equal losses, the lower depth is the best."""
    probes = network("net", depth("a", 0.5, 0.9, 0.9), depth("b", 0.4, 0.1, 0.1), depth("c", 0.4), depth("d", 0.6))
    assert probes.best.group == "b"
    assert probes.to_json()["best"]["group"] == "b"


def test_a_lead_is_paired_by_image() -> None:
    random = np.random.default_rng(0)
    difficulty = random.normal(5, 3, 200)
    losses, reference = difficulty + random.normal(0, 0.1, 200), difficulty + random.normal(0.05, 0.1, 200)
    lead = compare_losses(list(losses), list(reference))
    assert lead.gain == pytest.approx((reference - losses).mean())
    assert lead.standard_error == pytest.approx(stats.sem(reference - losses))
    assert lead.confidence == pytest.approx(stats.norm.cdf(lead.gain / lead.standard_error))
    assert lead.is_clear, "although it is small compared with the differences between images"
    assert not compare_losses(list(reference), list(losses)).is_clear


def test_equal_losses_give_no_lead() -> None:
    lead = compare_losses([0.3, 0.4], [0.3, 0.4])
    assert (lead.gain, lead.standard_error, lead.confidence, lead.is_clear) == (0.0, 0.0, 0.5, False)
    assert math.isfinite(compare_losses([0.3], [0.4]).standard_error)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_plot_is_written_in_the_format_of_its_suffix(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"depths{suffix}"
    networks = [network(name, depth("a", 0.5, 0.2), depth("b", 0.4, 0.8)) for name in ("one", "$two", "_three")]
    plot_probes(networks, path, title="probes of $ and _")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    content = path.read_bytes()
    if suffix == ".png":
        with Image.open(path) as image:
            assert min(image.size) > 300
    elif suffix == ".svg":
        assert b"<svg" in content
    else:
        assert content.startswith(b"%PDF")
