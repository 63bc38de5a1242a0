"""`tlcli pretrain`: pictures in, a card out that every other command takes."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tlcli.errors import TlcliError
from tlcli.pretrain.run import PretrainResult

TINY = ("--model", "mobilenet", "--set", "model.arguments.alpha=0.25", "--weights", "random")
SHORT = ("--size", 32, "--epochs", 2, "--batch-size", 32)


@pytest.fixture(scope="module")
def heap(tmp_path_factory: pytest.TempPathFactory, draw: Callable) -> Path:
    """64 pictures, one copy and one broken file. Not to be changed."""
    folder = draw(tmp_path_factory.mktemp("data") / "heap", ["a", "b", "c", "d"], count=16)
    shutil.copy(folder / "a" / "00.bmp", folder / "copy.bmp")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@dataclass(frozen=True)
class Made:
    """A pretraining that has ended: its card, and what the command said."""

    card: Path
    said: Any


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, heap: Path, tlcli: Callable) -> Made:
    card = tmp_path_factory.mktemp("made") / "mine.yaml"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        said = tlcli("pretrain", heap, *TINY, *SHORT, "--out", card)
    assert said.code == 0, said.stderr
    return Made(card, said)


def test_four_files_and_nothing_else(made: Made) -> None:
    names = {path.name for path in made.card.parent.iterdir()}
    assert names == {"mine.yaml", "mine.weights.h5", "mine.md", "mine.png"}
    with Image.open(made.card.with_suffix(".png")) as picture:
        picture.load()
        assert picture.format == "PNG"


def test_the_card_says_what_it_is(made: Made) -> None:
    text = made.card.read_text(encoding="utf-8")
    card = yaml.safe_load(text)
    assert text.count("\n# ") >= 4, "it explains itself"
    assert card["name"] == "mine"
    assert card["source"] == "keras:MobileNet"
    assert card["arguments"] == {"alpha": 0.25}
    assert (card["size"], card["min_size"], card["preprocessing"]) == (32, 32, "tf")
    assert card["parameters"] == 218_544
    assert card["data"] == "64 images of 'heap' without labels"
    assert card["licence"] == "yours"
    assert [group["name"] for group in card["groups"]] == ["stem", "block{1}"]
    weights = made.card.with_name(card["weights"])
    assert card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_the_page_says_how_it_came_about_and_no_path_of_this_machine(made: Made, heap: Path) -> None:
    text = made.card.with_suffix(".md").read_text(encoding="utf-8")
    for part in (
        "2011.10566",
        "64 images of 'heap'",
        "128 (repetitions included) in 4 steps",
        "mine.png",
        "## Limits",
    ):
        assert part in text
    again = re.search(r"^tlcli pretrain .*", text, re.MULTILINE)
    assert again is not None
    assert again[0] == (
        "tlcli pretrain heap/ --model mobilenet --set model.arguments.alpha=0.25 --weights random --size 32"
        " --epochs 2 --batch-size 32 --seed 0 --out mine.yaml"
    )
    everything = text + made.card.read_text(encoding="utf-8")
    assert str(heap.parent) not in everything
    assert str(made.card.parent) not in everything


def test_what_the_command_said(made: Made, heap: Path) -> None:
    out, err = made.said.stdout, made.said.stderr
    assert f"use it    tlcli finetune photos/ --model {made.card}" in out
    assert re.search(r"loss -?\d\.\d{3} → -?\d\.\d{3}, ", out)
    assert "1 unreadable files were left out" in out
    assert f"warning: left out {heap}/broken.jpg: " in err
    assert "left out 1 of 65 images: copies of other images" in err
    assert len(re.findall(r"^ +[12]/2  loss -?0\.\d{4}  spread 0\.04\d\d ", err, re.MULTILINE)) == 2
    assert "pretraining:" not in err, "a line for each epoch is enough"


@pytest.mark.slow
def test_other_commands_take_the_card(made: Made, photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    planned = tlcli("plan", photos, "--model", made.card, "--json")
    assert planned.code == 0, planned.stderr
    assert planned.document["model"]["size"] == [32, 32]
    short = ["--recipe", "head-only", "--set", "phases.0.epochs=1"]
    tuned = tlcli("finetune", photos, "--model", made.card, *short, "--out", tmp_path / "run", "--json")
    assert tuned.code == 0, tuned.stderr
    assert tuned.document["status"] == "complete"
    assert "mine" in tuned.document["model"]["weights"]


def job(heap: Path, out: Path, *, stop_at: str | None = None, **asked: Any) -> tuple[PretrainResult, list[str]]:
    """The same pretraining as `made`, below the command line; returns it with the lines it told."""
    from tlcli.pretrain import request
    from tlcli.train.events import Event, Noticed
    from tlcli.workflows import pretrain as workflow

    told: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Noticed):
            told.append(event.message)
            if stop_at and stop_at in event.message:
                raise KeyboardInterrupt

    usual = {"model": "mobilenet", "weights": "random", "settings": ("model.arguments.alpha=0.25",)}
    short = {"size": 32, "epochs": 2, "batch": 32}
    task = request.check_request(request.PretrainRequest(out=out, unlabelled=heap, **(usual | short | asked)))
    return workflow.pretrain(task, observe), told


@pytest.mark.slow
def test_interrupted_the_same_command_ends_the_same(made: Made, heap: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    with pytest.raises(KeyboardInterrupt):
        job(heap, out, stop_at=" 2/2 ")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.unfinished"]
    done, told = job(heap, out)
    assert any("resuming after epoch 1" in line for line in told)
    assert sum(" loss " in line for line in told) == 1
    wanted = yaml.safe_load(made.card.read_text(encoding="utf-8"))
    assert done.card.sha256 == wanted["sha256"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in made.card.parent.iterdir()}


@pytest.mark.slow
def test_it_goes_on_from_a_card_replaces_it_and_says_so(
    made: Made, heap: Path, tmp_path: Path, tlcli: Callable
) -> None:
    for path in made.card.parent.iterdir():
        shutil.copy(path, tmp_path)
    card = tmp_path / "mine.yaml"
    before = yaml.safe_load(card.read_text(encoding="utf-8"))
    said = tlcli("pretrain", heap, "-m", card, *SHORT[2:], "-o", card, "--overwrite", "--seed", 3, "--json")
    assert said.code == 0, said.stderr
    document = said.document
    assert document["card"] == str(card)
    assert document["files"] == [str(tmp_path / f"mine{end}") for end in (".weights.h5", ".png", ".md", ".yaml")]
    assert (document["images"], document["unreadable"], document["steps"], document["seed"]) == (64, 1, 4, 3)
    assert [point["images"] for point in document["points"]] == [64, 128]
    after = yaml.safe_load(card.read_text(encoding="utf-8"))
    assert after["sha256"] == document["sha256"] != before["sha256"]
    assert after["arguments"] == before["arguments"]
    assert after["data"] == f"64 images of 'heap' without labels, starting from weights trained on {before['data']}"
    assert after["licence"] == "yours, on weights under yours"


@dataclass(frozen=True)
class Place:
    """Where a case finds its things."""

    path: Path
    heap: Path

    def file(self, name: str) -> Path:
        (self.path / name).write_text("x", encoding="utf-8")
        return self.path / name


CASES: dict[str, tuple[Callable[[Place], list[object]], list[str]]] = {
    "no pictures": (lambda p: ["-o", p.path / "x"], ["UNLABELLED", "no folder of images given", "--synthetic"]),
    "both": (lambda p: [p.heap, "--synthetic", "-o", p.path / "x"], ["exclude each other"]),
    "no folder": (lambda p: [p.path / "no", "-m", "mobilenet", "-o", p.path / "x"], ["no such folder"]),
    "epochs of drawn": (lambda p: ["--synthetic", "--epochs", 3, "-o", p.path / "x"], ["--epochs", "--images"]),
    "images of a folder": (lambda p: [p.heap, "--images", 3, "-o", p.path / "x"], ["--images", "--epochs"]),
    "no out": (lambda p: [p.heap], ["--out"]),
    "out is there": (lambda p: [p.heap, "-o", p.file("x.yaml").with_suffix("")], ["x.yaml", "--overwrite"]),
    "weights are there": (
        lambda p: [p.heap, "-o", p.file("x.weights.h5").parent / "x"],
        ["x.weights.h5", "--overwrite"],
    ),
    "out among the pictures": (lambda p: [p.heap, *TINY, "-o", p.heap / "x"], ["lies inside the folder of images"]),
    "out below a file": (lambda p: [p.heap, *TINY, "-o", p.file("f") / "x"], ["/f: is a file"]),
    "no name for a card": (lambda p: [p.heap, *TINY, "-o", p.path / "my net"], ["'my net'"]),
    "no such model": (lambda p: [p.heap, "-m", "mobilnet", "-o", p.path / "x"], ["'mobilnet'", "'mobilenet'"]),
    "a setting of a recipe": (lambda p: [p.heap, *TINY, "--set", "seed=1", "-o", p.path / "x"], ["--set", "seed=1"]),
    "too small": (lambda p: [p.heap, *TINY, "--size", 16, "-o", p.path / "x"], ["--size", "at least 32"]),
    "no such weights": (
        lambda p: [p.heap, *TINY[:4], "--weights", "w.h5", "-o", p.path / "x"],
        ["--weights", "'w.h5'"],
    ),
    "too few pictures": (
        lambda p: [p.heap / "a", *TINY, "--size", 32, "-o", p.path / "x"],
        ["too few distinct readable images (got 16", "At least 32"],
    ),
    "batch of one": (lambda p: [p.heap, "--batch-size", 1, "-o", p.path / "x"], ["--batch-size"]),
}


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_told_in_one_sentence(case: str, tlcli: Callable, heap: Path, tmp_path: Path) -> None:
    words, wanted = CASES[case]
    command = words(Place(tmp_path, heap))
    before = sorted(tmp_path.iterdir())
    said = tlcli("pretrain", *command)
    assert said.code == 2, said
    errors = [line for line in said.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, said.stderr
    for text in wanted:
        assert text in errors[0]
    assert "fault of tlcli" not in errors[0]
    assert said.stdout == ""
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written_to_is_told_first(heap: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(TlcliError, match="cannot be written"):
        job(heap, tmp_path / "x")


def test_json_errors(tlcli: Callable, tmp_path: Path) -> None:
    said = tlcli("pretrain", "-o", tmp_path / "x", "--json")
    assert said.code == 2
    assert json.loads(said.stdout)["error"]["kind"] == "usage"
