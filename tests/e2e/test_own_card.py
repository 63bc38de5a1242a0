"""A user's own network from a card file, and the default network, from plan to prediction."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.zoo import catalogue

CARD = """\
name: mine
source: keras:MobileNet
title: My own
size: 32
min_size: 32
preprocessing: tf
licence: MIT
arguments: {{alpha: 0.25}}
weights: mine.weights.h5
sha256: {sha256}
data: leaves
"""
SHORT = """\
recipe: 1
name: short
data: {val: 0.2, test: 0.2}
phases:
  - {name: head, train: head, init: probe, epochs: 0}
  - {name: last, train: "top:1", epochs: 1}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a card, its weights and a recipe. Tests share it and must not change it."""
    import keras

    from tlcli.zoo.sources import weights_file

    folder = tmp_path_factory.mktemp("own")
    keras.utils.set_random_seed(1)
    network = keras.applications.MobileNet(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.25)
    sha256 = weights_file.save(network, folder / "mine.weights.h5", half=True)
    (folder / "mine.yaml").write_text(CARD.format(sha256=sha256), encoding="utf-8")
    (folder / "short.yaml").write_text(SHORT, encoding="utf-8")
    return folder


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Path:
    """A copy of `home` that a test may change."""
    return Path(shutil.copytree(home, tmp_path / "own"))


def test_an_own_card_works_from_plan_to_prediction(
    home: Path, tlcli: Callable, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from answers import assert_one_answer

    monkeypatch.chdir(home)
    words = [photos, "--model", "mine.yaml", "--recipe", "short.yaml"]
    plan = tlcli("plan", *words, "--json").document
    assert (plan["model"]["name"], plan["model"]["size"], plan["notices"]) == ("mine", [32, 32], [])
    assert plan["recipe"]["model"]["name"] == str(home / "mine.yaml")
    assert len(list((Path(os.environ["TLCLI_CACHE"]) / "structures").glob("*.json"))) == 1, "measured once and stored"

    run = tmp_path / "run"
    result = tlcli("finetune", *words, "--out", run, "--json")
    assert result.code == 0, result.stderr
    model = result.document["model"]
    assert model["weights"] == "card (mine)"
    assert (model["card"]["weights"], model["card"]["data"]) == ("mine.weights.h5", "leaves")
    assert len(list((Path(os.environ["TLCLI_CACHE"]) / "structures").glob("*.json"))) == 1

    monkeypatch.chdir(tmp_path)
    assert tlcli("plan", "--recipe", run / "recipe.yaml", "--json").document["model"]["name"] == "mine"
    assert tlcli("evaluate", run, "--json").document["accuracy"] == result.document["scores"]["test"]["accuracy"]
    assert len(tlcli("predict", run, photos / "red", "--json").document) == 10
    assert_one_answer(run / "model.keras", np.random.default_rng(0).uniform(0, 255, (2, 40, 50, 3)).astype(np.float32))
    assert tlcli("inspect", run, "--format", "json").document["parameters"] == model["parameters"]


def test_an_interrupted_run_resumes_without_the_weights_file(
    copied: Path, tlcli: Callable, photos: Path, tmp_path: Path
) -> None:
    """The checkpoint has the weights."""
    from tlcli.train.events import Event, StepBegun
    from tlcli.workflows import finetune
    from tlcli.workflows.request import Request, check_request

    request = Request(
        recipe=str(copied / "short.yaml"),
        options={"data.path": str(photos), "model.name": str(copied / "mine.yaml")},
        out=tmp_path / "run",
    )

    def stop(event: Event) -> None:
        if isinstance(event, StepBegun) and event.step.name == "last":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune.finetune(request, check_request(request), stop)
    before = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert (before["status"], before["model"]["weights"]) == ("interrupted", "card (mine)")
    (copied / "mine.weights.h5").unlink()
    result = tlcli("finetune", "--resume", tmp_path / "run", "--json")
    assert result.code == 0, result.stderr
    assert result.document["status"] == "complete"
    assert result.document["model"]["weights"] == "card (mine)"
    assert result.document["model"]["weights_sha256"] == before["model"]["weights_sha256"]


def test_inspect_and_zoo_show_accept_a_card_file(home: Path, tlcli: Callable) -> None:
    report = tlcli("inspect", home / "mine.yaml", "--format", "json").document
    assert (report["name"], report["input_size"]) == ("mine", [32, 32])
    assert report["parameters"] == 218_544
    card = tlcli("zoo", "show", home / "mine.yaml", "--json").document
    assert (card["weights"], card["data"]) == (str(home / "mine.weights.h5"), "leaves")


def test_the_bundled_network_needs_no_measurement(tlcli: Callable) -> None:
    report = tlcli("inspect", "mobilenet_synthetic", "--format", "json").document
    card = catalogue.find("mobilenet_synthetic")
    assert (report["parameters"], report["input_size"]) == (card.parameters, [card.size, card.size])
    assert not (Path(os.environ["TLCLI_CACHE"]) / "structures").exists()


def flip_bit(home: Path) -> None:
    """Change one bit of the weights."""
    data = bytearray((home / "mine.weights.h5").read_bytes())
    data[len(data) // 2] ^= 1
    (home / "mine.weights.h5").write_bytes(data)


def edit(old: str, new: str) -> Callable[[Path], None]:
    """The function that replaces a text in the card."""

    def change(home: Path) -> None:
        path = home / "mine.yaml"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("damage", "words", "messages"),
    [
        (flip_bit, [], ["mine.weights.h5: is not the file", "expected sha256", "got"]),
        (lambda home: (home / "mine.weights.h5").unlink(), [], ["mine.weights.h5: the weights of mine are missing"]),
        (edit("mine.weights.h5", "../x.h5"), [], ["mine.yaml", "weights: must be the name", "'../x.h5'"]),
        (edit("title", "titel"), [], ["mine.yaml", "titel: unknown key"]),
        (lambda _: None, ["--set", "model.arguments.alpha=0.5"], ["model.arguments.alpha", "fit only {alpha: 0.25}"]),
    ],
    ids=["flipped bit", "no weights", "elsewhere", "unknown key", "arguments"],
)
@pytest.mark.parametrize("command", ["plan", "finetune"])
def test_problems_are_reported_at_once(
    command: str, damage: Callable, words: list[str], messages: list[str], copied: Path, tlcli: Callable, photos: Path
) -> None:
    damage(copied)
    result = tlcli(command, photos, "--model", copied / "mine.yaml", *words)
    assert (result.code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1, "before Keras loads and images are read"
    for message in messages:
        assert message in result.stderr


@pytest.mark.parametrize(
    "damage", [flip_bit, lambda home: (home / "mine.weights.h5").unlink()], ids=["flipped bit", "no weights"]
)
def test_unused_weights_are_not_checked(damage: Callable, copied: Path, tlcli: Callable, photos: Path) -> None:
    damage(copied)
    words = ["--model", copied / "mine.yaml", "--weights", "random", "--set", "model.arguments.alpha=0.5"]
    result = tlcli("plan", photos, *words, "--json")
    assert result.code == 0, result.stderr
    assert result.document["model"]["parameters"] == 829_536


# The default network: `auto`


def test_without_the_package_the_bundled_network_is_used_with_a_notice(
    home: Path, tlcli: Callable, photos: Path, tmp_path: Path, without_lite0: Path
) -> None:
    plan = tlcli("plan", photos, "--json").document
    assert (plan["model"]["name"], plan["recipe"]["model"]["name"]) == ("mobilenet_synthetic", "mobilenet_synthetic")
    (notice,) = plan["notices"]
    assert "lower accuracy" in notice
    assert f"Note: {notice}." in tlcli("plan", photos).stdout.splitlines()

    run = tmp_path / "run"
    result = tlcli("finetune", photos, "--recipe", home / "short.yaml", "--out", run, "--json", "--quiet")
    assert result.code == 0, result.stderr
    assert result.stderr == f"warning: {notice}\n"
    assert (result.document["model"]["name"], result.document["model"]["weights"]) == (
        "mobilenet_synthetic",
        "card (mobilenet_synthetic)",
    )
    assert result.document["model"]["size"] == [64, 64]
    assert notice in result.document["warnings"]
    assert "name: mobilenet_synthetic\n" in (run / "recipe.yaml").read_text(encoding="utf-8")
    assert tlcli("evaluate", run).code == 0


def test_there_is_no_notice_for_the_bundled_network_by_name(tlcli: Callable, photos: Path) -> None:
    plan = tlcli("plan", photos, "--json", "--model", "mobilenet_synthetic").document
    assert (plan["model"]["name"], plan["notices"]) == ("mobilenet_synthetic", [])


@pytest.mark.parametrize("words", [["--set", "data.size=[48,48]"], ["--model", "auto", "--set", "data.size=[48,48]"]])
def test_a_given_size_is_kept(words: list[str], tlcli: Callable, photos: Path) -> None:
    plan = tlcli("plan", photos, "--json", *words).document
    assert (plan["model"]["name"], plan["model"]["size"]) == ("efficientnet_lite0", [48, 48])


def test_arguments_and_weights_files_need_a_named_network(tlcli: Callable, photos: Path, tmp_path: Path) -> None:
    for words in (["--set", "model.arguments.alpha=0.35"], ["--weights", tmp_path / "w.weights.h5"]):
        result = tlcli("plan", photos, *words)
        assert result.code == 2
        assert "Name the network" in result.stderr


def test_a_folder_called_auto_changes_nothing(
    tlcli: Callable, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "auto").mkdir()
    monkeypatch.chdir(tmp_path)
    assert tlcli("plan", photos, "--json").document["model"]["name"] == "efficientnet_lite0"
