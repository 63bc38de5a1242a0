"""Real photographs and real weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

WEIGHTS = "mobilenet_v2_0.35_224_imagenet_notop"


def some_of(folder: Path, target: Path, count: int) -> None:
    """Copy `count` pictures of every class folder, evenly picked."""
    for source in sorted(path for path in folder.iterdir() if path.is_dir()):
        pictures = sorted(source.iterdir())
        (target / source.name).mkdir(parents=True)
        for path in pictures[:: len(pictures) // count][:count]:
            shutil.copy(path, target / source.name)


@pytest.fixture(scope="module")
def flowers(sample: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty flowers to learn from and fifty to validate by, in the folders they come in."""
    folder, home = tmp_path_factory.mktemp("samples") / "flowers", sample("tf_flowers")
    some_of(home / "train", folder / "train", 12)
    some_of(home / "val", folder / "val", 10)
    return folder


def test_a_head_on_pretrained_features_knows_flowers(
    flowers: Path, sample: Callable[[str], Path], tlcli: Callable, tmp_path: Path
) -> None:
    (weights,) = sample(WEIGHTS).glob("*.weights.h5")
    words = ["--model", "mobilenet_v2", "--weights", weights, "--set", "model.arguments.alpha=0.35"]
    words += ["--set", "data.size=[96,96]", "--recipe", "head-only", "--set", "phases.0.epochs=1"]
    said = tlcli("finetune", flowers, *words, "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.stderr
    record = said.document
    assert record["model"]["weights"] == f"file:{weights.name}"
    assert record["scores"]["val"]["count"] == 50
    assert record["scores"]["val"]["accuracy"] > 0.5, "five classes: chance is 0.2"
    again = tlcli("evaluate", tmp_path / "run", flowers, "--json").document
    assert again["count"] == 50, "the given val folder, as there is no test folder"
    assert again["accuracy"] == pytest.approx(record["scores"]["val"]["accuracy"], abs=0.021)


def test_given_folders_are_used_and_the_missing_one_is_cut_from_train(flowers: Path, tlcli: Callable) -> None:
    said = tlcli("plan", flowers, "--json")
    counts = said.document["data"]["counts"]
    assert counts["val"] == 50
    assert counts["train"] + counts["test"] == 60
    assert 0 < counts["test"] < 25


def test_one_picture_under_two_labels_is_told(sample: Callable[[str], Path], tlcli: Callable, tmp_path: Path) -> None:
    home = sample("trashnet")
    some_of(home, tmp_path / "trash", 20)
    pairs = [
        ("glass/glass115.jpg", "metal/metal91.jpg"),
        ("glass/glass176.jpg", "plastic/plastic152.jpg"),
        ("glass/glass389.jpg", "plastic/plastic332.jpg"),
    ]
    for name in (name for pair in pairs for name in pair):
        shutil.copy(home / name, tmp_path / "trash" / name)
    said = tlcli("plan", tmp_path / "trash", "--json", "--set", "data.size=[32,32]")
    assert said.code == 0
    (warning,) = [text for text in said.document["data"]["warnings"] if "more than one class" in text]
    assert warning.startswith("3 images filed under more than one class: ")
    assert warning.endswith("--quarantine FILE, then --exclude FILE")
    for one, other in pairs:
        assert f"{one} = {other}" in warning
    assert f"warning: {warning}" in said.stderr.splitlines()


def test_photographs_of_every_kind_are_predicted(
    sample: Callable[[str], Path], finished: tuple, tlcli: Callable
) -> None:
    """Odd but valid ones are read, broken ones are named, and none stops the others."""
    folder = sample("odd_images")
    said = tlcli("predict", finished[0], folder, "--json")
    assert said.code == 1
    bad = [row for row in said.document if "error" in row]
    good = [row for row in said.document if "error" not in row]
    assert len(good) > len(bad) > 5
    assert all(row["error"] and "Error(" not in row["error"] for row in bad)
    assert all(0 <= row["probability"] <= 1 for row in good)
    json.dumps(said.document, allow_nan=False)
