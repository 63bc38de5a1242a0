"""The contact sheet of the augmentation: what it shows, hostile class names, and files that it refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.report.augment_sheet import GAP, IMAGES_PER_CLASS, LINE, NAMES, SIDE, VIEWS

RECIPE = ("--set", "data.size=[32,64]", "--set", "model.name=mobilenet", "--set", "model.weights=random")
NONE = ("--set", "augment.preset=none")


def cells(path: Path, rows: int) -> np.ndarray:
    """The images of a sheet, `uint8 (rows, columns, height, width, 3)`."""
    with Image.open(path) as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
        pixels = np.asarray(sheet)
    height, width = SIDE // 2, SIDE
    assert pixels.shape[:2] == (2 * LINE + rows * (height + GAP) + 2 * GAP, NAMES + (1 + VIEWS) * (width + GAP) + GAP)
    tops = [2 * LINE + GAP + row * (height + GAP) for row in range(rows)]
    lefts = [NAMES + column * (width + GAP) for column in range(1 + VIEWS)]
    return np.stack([[pixels[top : top + height, left : left + width] for left in lefts] for top in tops])


@pytest.mark.parametrize("words", [NONE, ("--set", "augment.preset=strong", "--set", "augment.mixup=1.0")])
def test_the_first_column_is_the_original_and_the_others_are_views(words, photos, tlcli, tmp_path):
    path = tmp_path / "sheet.png"
    result = tlcli("plan", photos, *RECIPE, *words, "--augment-sheet", path)
    assert result.code == 0, result.stderr
    assert str(path) in result.stdout.replace("\n", "")
    shown = cells(path, 3 * IMAGES_PER_CLASS).astype(int)
    # Each class of the sample images is brightest in one channel: blue 0, green 1, red 2.
    assert shown[:, 0].mean(axis=(1, 2)).argmax(axis=-1).tolist() == [0, 0, 1, 1, 2, 2]
    differences = np.abs(shown[:, 1:] - shown[:, :1]).mean(axis=(2, 3, 4))
    assert (differences == 0).all() if words == NONE else (differences > 1).all()
    again = tmp_path / "again.png"
    assert tlcli("plan", photos, *RECIPE, *words, "--augment-sheet", again, "--json").code == 0
    assert again.read_bytes() == path.read_bytes(), "the seed decides"


def test_hostile_class_names_are_escaped_and_shortened(draw, tlcli, tmp_path):
    names = ["&lt;", "<b>" * 30, "Жук 甲虫"]
    result = tlcli("plan", draw(tmp_path / "p", names), *RECIPE, "--augment-sheet", tmp_path / "sheet.png")
    assert result.code == 0, result.stderr
    assert cells(tmp_path / "sheet.png", 6).std() > 10


def test_files_that_cannot_be_written_are_refused(photos, tlcli, tmp_path):
    (tmp_path / "there.png").write_bytes(b"mine")
    for name, message in (
        ("sheet.jpg", "must end in .png"),
        ("there.png", "already exists"),
        ("no/sheet.png", "no such folder"),
        (photos / "sheet.png", "inside the image folder"),
    ):
        result = tlcli("plan", photos, *RECIPE, "--augment-sheet", tmp_path / name)
        assert result.code == 2
        assert message in result.stderr.replace("\n", " ")
    assert (tmp_path / "there.png").read_bytes() == b"mine"
