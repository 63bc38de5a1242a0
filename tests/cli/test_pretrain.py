"""`tlcli pretrain`: from images to a card that other commands take."""

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
def images(tmp_path_factory: pytest.TempPathFactory, draw: Callable) -> Path:
    """64 images, one copy and one broken file. Do not change them."""
    folder = draw(tmp_path_factory.mktemp("data") / "unlabelled", ["a", "b", "c", "d"], count=16)
    shutil.copy(folder / "a" / "00.bmp", folder / "copy.bmp")
    (folder / "broken.jpg").write_bytes(b"not an image")
    return folder


@dataclass(frozen=True)
class Pretrained:
    """The card of a pretraining, and the result of the command."""

    card: Path
    result: Any


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, images: Path, tlcli: Callable) -> Pretrained:
    card = tmp_path_factory.mktemp("pretrained") / "mine.yaml"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        result = tlcli("pretrain", images, *TINY, *SHORT, "--out", card)
    assert result.code == 0, result.stderr
    return Pretrained(card, result)


def test_four_files_are_written(pretrained: Pretrained) -> None:
    names = {path.name for path in pretrained.card.parent.iterdir()}
    assert names == {"mine.yaml", "mine.weights.h5", "mine.md", "mine.png"}
    with Image.open(pretrained.card.with_suffix(".png")) as plot:
        plot.load()
        assert plot.format == "PNG"


def test_the_card_describes_the_network(pretrained: Pretrained) -> None:
    text = pretrained.card.read_text(encoding="utf-8")
    card = yaml.safe_load(text)
    assert text.count("\n# ") >= 4, "comments explain the card"
    assert card["name"] == "mine"
    assert card["source"] == "keras:MobileNet"
    assert card["arguments"] == {"alpha": 0.25}
    assert (card["size"], card["min_size"], card["preprocessing"]) == (32, 32, "tf")
    assert card["parameters"] == 218_544
    assert card["data"] == "64 images of 'unlabelled' without labels"
    assert card["licence"] == "yours"
    assert [group["name"] for group in card["groups"]] == ["stem", "block{1}"]
    weights = pretrained.card.with_name(card["weights"])
    assert card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_the_page_has_the_command_and_no_local_path(pretrained: Pretrained, images: Path) -> None:
    text = pretrained.card.with_suffix(".md").read_text(encoding="utf-8")
    for part in (
        "2011.10566",
        "64 images of 'unlabelled'",
        "128 (repetitions included) in 4 steps",
        "mine.png",
        "## Limits",
    ):
        assert part in text
    command = re.search(r"^tlcli pretrain .*", text, re.MULTILINE)
    assert command is not None
    assert command[0] == (
        "tlcli pretrain unlabelled/ --model mobilenet --set model.arguments.alpha=0.25 --weights random --size 32"
        " --epochs 2 --batch-size 32 --seed 0 --out mine.yaml"
    )
    everything = text + pretrained.card.read_text(encoding="utf-8")
    assert str(images.parent) not in everything
    assert str(pretrained.card.parent) not in everything


def test_terminal_output(pretrained: Pretrained, images: Path) -> None:
    out, err = pretrained.result.stdout, pretrained.result.stderr
    assert f"next      tlcli finetune photos/ --model {pretrained.card}" in out
    assert re.search(r"loss -?\d\.\d{3} → -?\d\.\d{3}, ", out)
    assert "skipped 1 unreadable file\n" in out
    assert f"warning: left out {images}/broken.jpg: " in err
    assert "left out 1 of 65 images: copies of other images" in err
    assert len(re.findall(r"^ +[12]/2  loss -?0\.\d{4}  spread 0\.04\d\d ", err, re.MULTILINE)) == 2
    assert "pretraining:" not in err, "without a terminal, each epoch has a line and there is no progress bar"


@pytest.mark.slow
def test_other_commands_take_the_card(pretrained: Pretrained, photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    planned = tlcli("plan", photos, "--model", pretrained.card, "--json")
    assert planned.code == 0, planned.stderr
    assert planned.document["model"]["size"] == [32, 32]
    short = ["--recipe", "head-only", "--set", "phases.0.epochs=1"]
    finetuned = tlcli("finetune", photos, "--model", pretrained.card, *short, "--out", tmp_path / "run", "--json")
    assert finetuned.code == 0, finetuned.stderr
    assert finetuned.document["status"] == "complete"
    assert "mine" in finetuned.document["model"]["weights"]


def job(images: Path, out: Path, *, stop_at: str | None = None, **options: Any) -> tuple[PretrainResult, list[str]]:
    """The pretraining of `pretrained` without the command line: the result, and the messages."""
    from tlcli.pretrain import request
    from tlcli.train.events import Event, Noticed
    from tlcli.workflows import pretrain as workflow

    messages: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Noticed):
            messages.append(event.message)
            if stop_at and stop_at in event.message:
                raise KeyboardInterrupt

    usual = {"model": "mobilenet", "weights": "random", "settings": ("model.arguments.alpha=0.25",)}
    short = {"size": 32, "epochs": 2, "batch": 32}
    task = request.check_request(request.PretrainRequest(out=out, unlabelled=images, **(usual | short | options)))
    return workflow.pretrain(task, observe), messages


@pytest.mark.slow
def test_a_resumed_pretraining_gives_the_same_weights(pretrained: Pretrained, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    with pytest.raises(KeyboardInterrupt):
        job(images, out, stop_at=" 2/2 ")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.unfinished"]
    resumed, messages = job(images, out)
    assert any("resuming after epoch 1" in line for line in messages)
    assert sum(" loss " in line for line in messages) == 1
    expected = yaml.safe_load(pretrained.card.read_text(encoding="utf-8"))
    assert resumed.card.sha256 == expected["sha256"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in pretrained.card.parent.iterdir()}


@pytest.mark.slow
def test_a_card_is_pretrained_further_and_replaced(
    pretrained: Pretrained, images: Path, tmp_path: Path, tlcli: Callable
) -> None:
    for path in pretrained.card.parent.iterdir():
        shutil.copy(path, tmp_path)
    card = tmp_path / "mine.yaml"
    before = yaml.safe_load(card.read_text(encoding="utf-8"))
    result = tlcli("pretrain", images, "-m", card, *SHORT[2:], "-o", card, "--overwrite", "--seed", 3, "--json")
    assert result.code == 0, result.stderr
    document = result.document
    assert document["card"] == str(card)
    assert document["files"] == [str(tmp_path / f"mine{end}") for end in (".weights.h5", ".png", ".md", ".yaml")]
    assert (document["images"], document["unreadable"], document["steps"], document["seed"]) == (64, 1, 4, 3)
    assert [point["images"] for point in document["points"]] == [64, 128]
    after = yaml.safe_load(card.read_text(encoding="utf-8"))
    assert after["sha256"] == document["sha256"] != before["sha256"]
    assert after["arguments"] == before["arguments"]
    assert (
        after["data"] == f"64 images of 'unlabelled' without labels, starting from weights trained on {before['data']}"
    )
    assert after["licence"] == "yours, on weights under yours"


@dataclass(frozen=True)
class Folders:
    """The folders of a case: an empty one, and the images."""

    path: Path
    images: Path

    def file(self, name: str) -> Path:
        (self.path / name).write_text("x", encoding="utf-8")
        return self.path / name


CASES: dict[str, tuple[Callable[[Folders], list[object]], list[str]]] = {
    "no images": (lambda p: ["-o", p.path / "x"], ["UNLABELLED", "no folder of images given", "--synthetic"]),
    "a folder and --synthetic": (lambda p: [p.images, "--synthetic", "-o", p.path / "x"], ["exclude each other"]),
    "no folder": (lambda p: [p.path / "no", "-m", "mobilenet", "-o", p.path / "x"], ["no such folder"]),
    "epochs with --synthetic": (lambda p: ["--synthetic", "--epochs", 3, "-o", p.path / "x"], ["--epochs", "--images"]),
    "--images with a folder": (lambda p: [p.images, "--images", 3, "-o", p.path / "x"], ["--images", "--epochs"]),
    "no out": (lambda p: [p.images], ["--out"]),
    "card exists": (lambda p: [p.images, "-o", p.file("x.yaml").with_suffix("")], ["x.yaml", "--overwrite"]),
    "weights exist": (
        lambda p: [p.images, "-o", p.file("x.weights.h5").parent / "x"],
        ["x.weights.h5", "--overwrite"],
    ),
    "out inside the folder of images": (
        lambda p: [p.images, *TINY, "-o", p.images / "x"],
        ["lies inside the folder of images"],
    ),
    "out below a file": (lambda p: [p.images, *TINY, "-o", p.file("f") / "x"], ["/f: is a file"]),
    "invalid name for a card": (lambda p: [p.images, *TINY, "-o", p.path / "my net"], ["'my net'"]),
    "no such model": (lambda p: [p.images, "-m", "mobilnet", "-o", p.path / "x"], ["'mobilnet'", "'mobilenet'"]),
    "a setting of a recipe": (lambda p: [p.images, *TINY, "--set", "seed=1", "-o", p.path / "x"], ["--set", "seed=1"]),
    "too small": (lambda p: [p.images, *TINY, "--size", 16, "-o", p.path / "x"], ["--size", "at least 32"]),
    "no such weights": (
        lambda p: [p.images, *TINY[:4], "--weights", "w.h5", "-o", p.path / "x"],
        ["--weights", "'w.h5'"],
    ),
    "too few images": (
        lambda p: [p.images / "a", *TINY, "--size", 32, "-o", p.path / "x"],
        ["too few distinct readable images (got 16", "At least 32"],
    ),
    "batch of one": (lambda p: [p.images, "--batch-size", 1, "-o", p.path / "x"], ["--batch-size"]),
}


@pytest.mark.parametrize("case", CASES)
def test_errors_are_one_sentence(case: str, tlcli: Callable, images: Path, tmp_path: Path) -> None:
    words, expected = CASES[case]
    command = words(Folders(tmp_path, images))
    before = sorted(tmp_path.iterdir())
    result = tlcli("pretrain", *command)
    assert result.code == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.stderr
    for text in expected:
        assert text in errors[0]
    assert "fault of tlcli" not in errors[0]
    assert result.stdout == ""
    assert sorted(tmp_path.iterdir()) == before


def test_an_unwritable_folder_is_an_error_before_the_work(images: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root can write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(TlcliError, match="cannot be written"):
        job(images, tmp_path / "x")


def test_json_errors(tlcli: Callable, tmp_path: Path) -> None:
    result = tlcli("pretrain", "-o", tmp_path / "x", "--json")
    assert result.code == 2
    assert json.loads(result.stdout)["error"]["kind"] == "usage"
