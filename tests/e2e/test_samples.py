"""Commands on real photographs with real pretrained weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

WEIGHTS = "mobilenet_v2_0.35_224_imagenet_notop"


def copy_some(folder: Path, target: Path, count: int) -> None:
    """Copy `count` images of every class folder, at even distances."""
    for source in sorted(path for path in folder.iterdir() if path.is_dir()):
        images = sorted(source.iterdir())
        (target / source.name).mkdir(parents=True)
        for path in images[:: len(images) // count][:count]:
            shutil.copy(path, target / source.name)


@pytest.fixture(scope="module")
def flowers(sample: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty training and fifty validation images of tf_flowers, in train/ and val/."""
    folder, home = tmp_path_factory.mktemp("samples") / "flowers", sample("tf_flowers")
    copy_some(home / "train", folder / "train", 12)
    copy_some(home / "val", folder / "val", 10)
    return folder


def test_a_head_on_pretrained_features_classifies_flowers(
    flowers: Path, sample: Callable[[str], Path], tlcli: Callable, tmp_path: Path
) -> None:
    (weights,) = sample(WEIGHTS).glob("*.weights.h5")
    words = ["--model", "mobilenet_v2", "--weights", weights, "--set", "model.arguments.alpha=0.35"]
    words += ["--set", "data.size=[96,96]", "--recipe", "head-only", "--set", "phases.0.epochs=1"]
    result = tlcli("finetune", flowers, *words, "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.stderr
    record = result.document
    assert record["model"]["weights"] == f"file:{weights.name}"
    assert record["scores"]["val"]["count"] == 50
    assert record["scores"]["val"]["accuracy"] > 0.5, "five classes: chance is 0.2"
    scores = tlcli("evaluate", tmp_path / "run", flowers, "--json").document
    assert scores["count"] == 50, "the images of val/, because there is no test/"
    assert scores["accuracy"] == pytest.approx(record["scores"]["val"]["accuracy"], abs=0.021)


def test_a_missing_split_folder_is_split_from_train(flowers: Path, tlcli: Callable) -> None:
    result = tlcli("plan", flowers, "--json")
    counts = result.document["data"]["counts"]
    assert counts["val"] == 50
    assert counts["train"] + counts["test"] == 60
    assert 0 < counts["test"] < 25


def test_one_image_under_two_labels_is_reported(sample: Callable[[str], Path], tlcli: Callable, tmp_path: Path) -> None:
    home = sample("trashnet")
    copy_some(home, tmp_path / "trash", 20)
    pairs = [
        ("glass/glass115.jpg", "metal/metal91.jpg"),
        ("glass/glass176.jpg", "plastic/plastic152.jpg"),
        ("glass/glass389.jpg", "plastic/plastic332.jpg"),
    ]
    for name in (name for pair in pairs for name in pair):
        shutil.copy(home / name, tmp_path / "trash" / name)
    result = tlcli("plan", tmp_path / "trash", "--json", "--set", "data.size=[32,32]")
    assert result.code == 0
    (warning,) = [text for text in result.document["data"]["warnings"] if "more than one class" in text]
    assert warning.startswith("3 images in more than one class: ")
    assert warning.endswith("--quarantine FILE, then --exclude FILE")
    for first, second in pairs:
        assert f"{first} = {second}" in warning
    assert f"warning: {warning}" in result.stderr.splitlines()


def test_odd_images_are_predicted_and_broken_ones_are_named(
    sample: Callable[[str], Path], finished: tuple, tlcli: Callable
) -> None:
    """A broken image does not stop the others."""
    folder = sample("odd_images")
    result = tlcli("predict", finished[0], folder, "--json")
    assert result.code == 1
    bad = [row for row in result.document if "error" in row]
    good = [row for row in result.document if "error" not in row]
    assert len(good) > len(bad) > 5
    assert all(row["error"] and "Error(" not in row["error"] for row in bad)
    assert all(0 <= row["probability"] <= 1 for row in good)
    json.dumps(result.document, allow_nan=False)
