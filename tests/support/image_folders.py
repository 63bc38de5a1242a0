import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.quality.check import CheckResult, check_images
from tlcli.quality.finding import Finding

Picture = Callable[..., Image.Image]


@pytest.fixture(scope="session")
def picture() -> Picture:
    """Make a picture like no other seed's: soft random spots, `(width, height)`."""

    def make(seed: int = 901, size: tuple[int, int] = (64, 48)) -> Image.Image:
        spots = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
        return Image.fromarray(spots).resize(size, Image.Resampling.BICUBIC)

    return make


@pytest.fixture
def good(tmp_path: Path, picture: Picture) -> Path:
    """DATA without a fault: two classes of 20 PNG files."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            picture(100 * label + number).save(tmp_path / "data" / name / f"{number:02}.png")
    return tmp_path / "data"


@pytest.fixture
def given(good: Path, picture: Picture) -> Path:
    """The same three times over, with other pictures, as train/, val/ and test/."""
    home = good.parent / "given"
    for place, split in enumerate(("train", "val", "test")):
        for label, name in enumerate(("cat", "dog")):
            (home / split / name).mkdir(parents=True)
            for number in range(20):
                picture(1000 * place + 100 * label + number).save(home / split / name / f"{number:02}.png")
    shutil.rmtree(good)
    return home


@pytest.fixture(scope="session")
def looked() -> Callable[..., CheckResult]:
    """Examine a folder."""

    def look(data: Path, size: tuple[int, int] = (32, 32), exclude: Path | None = None) -> CheckResult:
        return check_images(data, size, exclude=exclude, progress=lambda *_: None)

    return look


@pytest.fixture(scope="session")
def found(looked: Callable[..., CheckResult]) -> Callable[..., dict[str, Finding]]:
    """Examine a folder: findings by kind."""

    def by_kind(data: Path, **settings: object) -> dict[str, Finding]:
        findings = looked(data, **settings).findings
        kinds = {finding.kind: finding for finding in findings}
        assert len(kinds) == len(findings), "each kind is found once"
        return kinds

    return by_kind
