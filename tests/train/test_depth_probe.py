"""Numbers of probes: which depth is best, how sure, and the picture of it."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tlcli.report.plots import plot_probes
from tlcli.train.depth_probe import Depth, NetworkProbe, lead


def depth(group: str, val_loss: float, accuracy: float = 0.5, test: float | None = 0.5) -> Depth:
    return Depth(group, 8, 0.5, 0, 0.1, val_loss, accuracy, test)


def probed(name: str, *depths: Depth) -> NetworkProbe:
    return NetworkProbe(name, "random", (32, 32), depths, lead([0.1], [0.2]), {"features": 1.0, "probes": 1.0})


def test_the_best_depth_is_that_of_the_lowest_validation_loss() -> None:
    """Neither accuracy nor test images have a say; of equals it is the lower one."""
    found = probed("net", depth("a", 0.5, 0.9, 0.9), depth("b", 0.4, 0.1, 0.1), depth("c", 0.4), depth("d", 0.6))
    assert found.best.group == "b"
    assert found.to_json()["best"]["group"] == "b"


def test_a_lead_is_paired_by_image() -> None:
    random = np.random.default_rng(0)
    hard = random.normal(5, 3, 200)
    own, other = hard + random.normal(0, 0.1, 200), hard + random.normal(0.05, 0.1, 200)
    found = lead(list(own), list(other))
    assert found.gain == pytest.approx((other - own).mean())
    assert found.standard_error == pytest.approx(stats.sem(other - own))
    assert found.confidence == pytest.approx(stats.norm.cdf(found.gain / found.standard_error))
    assert found.is_clear, "though it is small beside how much the images differ"
    assert not lead(list(other), list(own)).is_clear


def test_a_depth_leads_itself_by_nothing() -> None:
    found = lead([0.3, 0.4], [0.3, 0.4])
    assert (found.gain, found.standard_error, found.confidence, found.is_clear) == (0.0, 0.0, 0.5, False)
    assert math.isfinite(lead([0.3], [0.4]).standard_error)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_picture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"depths{suffix}"
    found = [probed(name, depth("a", 0.5, 0.2), depth("b", 0.4, 0.8)) for name in ("one", "$two", "_three")]
    plot_probes(found, path, title="probes of $ and _")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    content = path.read_bytes()
    if suffix == ".png":
        with Image.open(path) as picture:
            assert min(picture.size) > 300
    elif suffix == ".svg":
        assert b"<svg" in content
    else:
        assert content.startswith(b"%PDF")
