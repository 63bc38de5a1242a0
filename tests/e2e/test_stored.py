"""The feature cache between runs: features are found by image content, whatever the name of the folder."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

RECIPE = """\
recipe: 1
name: brief
data: {size: [32, 32], val: 0.2, test: 0.2}
model: {name: mobilenet, weights: random, arguments: {alpha: 0.25}}
augment: {views: 2}
phases:
  - {name: head, train: head, init: probe, epochs: 0}
  - {name: fine-tune, train: "top:3", epochs: 2}
"""


def history(run: Path) -> list[dict[str, str]]:
    """The rows of history.csv without the times, which may differ between runs."""
    with (run / "history.csv").open(encoding="utf-8", newline="") as stream:
        clock = ("seconds", "images_per_second")
        return [{key: value for key, value in row.items() if key not in clock} for row in csv.DictReader(stream)]


def test_another_run_on_the_same_images_computes_no_features(tlcli: Callable, draw: Callable, tmp_path: Path) -> None:
    recipe = tmp_path / "brief.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")

    def finetune(data: Path, out: str, *words: str) -> tuple[Any, bool]:
        result = tlcli("finetune", data, "--recipe", recipe, "--out", tmp_path / out, "--json", *words)
        assert result.code == 0, result.stderr
        return result.document, "images through the frozen layers: " in result.stderr

    data = draw(tmp_path / "photos")
    first, has_computed = finetune(data, "first")
    assert has_computed
    moved = data.rename(tmp_path / "moved")
    second, has_computed = finetune(moved, "second")
    assert not has_computed
    assert history(tmp_path / "second") == history(tmp_path / "first")
    assert second["scores"] == first["scores"]
    assert second["model"]["weights_sha256"] == first["model"]["weights_sha256"]
    assert second["seconds"]["prefix"] < first["seconds"]["prefix"]

    # Another head or learning rate needs no new features; a changed image does.
    assert not finetune(moved, "third", "--set", "head.dropout=0.4", "--set", "optimizer.lr=0.01")[1]
    with Image.open(moved / "red" / "03.bmp") as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(moved / "red" / "03.bmp")
    assert finetune(moved, "fourth")[1]
