"""Fixtures: image folders without problems, and the check of a folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.quality.check import CheckResult, check_images
from tlcli.quality.finding import Finding

MakeImage = Callable[..., Image.Image]


@pytest.fixture(scope="session")
def make_image() -> MakeImage:
    """Makes an image of soft random spots, `(width, height)`; different for every seed."""

    def make(seed: int = 901, size: tuple[int, int] = (64, 48)) -> Image.Image:
        spots = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
        return Image.fromarray(spots).resize(size, Image.Resampling.BICUBIC)

    return make


@pytest.fixture
def clean_data(tmp_path: Path, make_image: MakeImage) -> Path:
    """DATA without problems: two classes of 20 PNG files."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            make_image(100 * label + number).save(tmp_path / "data" / name / f"{number:02}.png")
    return tmp_path / "data"


@pytest.fixture
def clean_splits(clean_data: Path, make_image: MakeImage) -> Path:
    """DATA without problems, with train/, val/ and test/: two classes of 20 PNG files in each."""
    home = clean_data.parent / "given"
    for position, split in enumerate(("train", "val", "test")):
        for label, name in enumerate(("cat", "dog")):
            (home / split / name).mkdir(parents=True)
            for number in range(20):
                make_image(1000 * position + 100 * label + number).save(home / split / name / f"{number:02}.png")
    shutil.rmtree(clean_data)
    return home


@pytest.fixture(scope="session")
def run_check() -> Callable[..., CheckResult]:
    """Checks a folder and returns the result."""

    def check(data: Path, size: tuple[int, int] = (32, 32), exclude: Path | None = None) -> CheckResult:
        return check_images(data, size, exclude=exclude, progress=lambda *_: None)

    return check


@pytest.fixture(scope="session")
def findings_of(run_check: Callable[..., CheckResult]) -> Callable[..., dict[str, Finding]]:
    """Checks a folder and returns the findings by kind."""

    def by_kind(data: Path, **settings: object) -> dict[str, Finding]:
        findings = run_check(data, **settings).findings
        kinds = {finding.kind: finding for finding in findings}
        assert len(kinds) == len(findings), "there is one finding per kind"
        return kinds

    return by_kind
