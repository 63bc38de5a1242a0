"""Wrong input: one clear sentence on stderr, exit code 2, nothing left behind; with --json one document on stdout."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SMALL = ("--model", "mobilenet", "--weights", "random", "--set", "data.size=[32,32]")


@dataclass(frozen=True)
class Place:
    """Where a case finds and puts its things; the command runs elsewhere, in an empty folder."""

    path: Path
    photos: Path
    finished: Path
    draw: Callable[..., Path]

    def file(self, name: str, text: str = "no picture") -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture
def place(
    tmp_path: Path, photos: Path, finished: tuple, draw: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Place:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    (tmp_path / "place").mkdir()
    return Place(tmp_path / "place", photos, finished[0], draw)


def no_class_folders(place: Place) -> Path:
    shutil.copy(place.photos / "red" / "00.bmp", place.path / "one.bmp")
    return place.path


def a_class_with_one_image(place: Place) -> Path:
    folder = place.draw(place.path / "photos")
    for path in sorted((folder / "red").iterdir())[1:]:
        path.unlink()
    return folder


def val_with_other_classes(place: Place) -> Path:
    place.draw(place.path / "photos" / "train", ["cat", "dog"])
    place.draw(place.path / "photos" / "val", ["cat", "dgo"])
    return place.path / "photos"


def with_an_unreadable_image(place: Place) -> Path:
    folder = place.draw(place.path / "photos")
    place.file("photos/red/broken.jpg")
    return folder


def interrupted(place: Place) -> Path:
    run = place.path / "run"
    shutil.copytree(place.finished, run)
    (run / "model.keras").unlink()
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(record | {"status": "interrupted"}), encoding="utf-8")
    return run


def other_weights(place: Place) -> Path:
    import keras

    path = place.path / "other.weights.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(path)
    return path


MISTYPED = """\
recipe: 1
name: mine
data:
  vall: 0.2
head: {dropout: 1.5}
phases:
  - name: head
    train: head
    epochs: none
"""

# What is wrong: the command, and what the sentence must hold.
DATA_CASES = {
    "no folder": (lambda p: ["plan", p.path / "phots"], ["phots", "no such folder"]),
    "mistyped folder": (lambda p: ["plan", p.photos.parent / "phots"], ["no such folder", "'photos'"]),
    "folder without images": (lambda p: ["plan", p.path], ["holds no images"]),
    "no class folders": (lambda p: ["plan", no_class_folders(p)], ["1 image but no class folders"]),
    "one class": (lambda p: ["plan", p.draw(p.path / "x", ["cat"])], ["only one class", "'cat'"]),
    "a class with one image": (lambda p: ["plan", a_class_with_one_image(p)], ["'red'", "got 1, at least 2"]),
    "a run for images": (lambda p: ["plan", p.finished], ["the folder of a run, not of images", "tlcli evaluate"]),
    "check a run": (lambda p: ["check", p.finished], ["the folder of a run, not of images"]),
    "a file for a folder": (lambda p: ["plan", p.file("photo.jpg")], ["is a file, not a folder"]),
    "no folder named": (lambda _: ["plan"], ["no image folder given"]),
    "val with other classes": (lambda p: ["plan", val_with_other_classes(p)], ["lacks dog", "also has dgo"]),
    "unknown class": (
        lambda p: ["plan", p.photos, "--set", "data.classes=[red,gren]"],
        ["no class folder 'gren'", "'green'"],
    ),
    "unreadable image, strict": (
        lambda p: ["plan", with_an_unreadable_image(p), *SMALL, "--strict"],
        ["1 unreadable image:", "red/broken.jpg"],
    ),
}
MODEL_CASES = {
    "mistyped model": (lambda p: ["plan", p.photos, "-m", "mobilnet_v2"], ["'mobilnet_v2'", "'mobilenet_v2'"]),
    "unknown source": (lambda p: ["plan", p.photos, "-m", "hub:x"], ["'hub:' are not supported"]),
    "no model file": (lambda p: ["plan", p.photos, "-m", "mine.keras"], ["mine.keras", "no such file"]),
    "damaged model file": (lambda p: ["plan", p.photos, "-m", p.file("a.keras")], ["a.keras", "is not a Keras model"]),
    "size below the network's": (
        lambda p: ["plan", p.photos, "--set", "data.size=[16,16]"],
        ["data.size", "at least 32 × 32", "16 × 16"],
    ),
    "no weights file": (lambda p: ["plan", p.photos, "--weights", "x.h5"], ["model.weights", "x.h5", "random"]),
    "weights that do not fit": (
        lambda p: ["finetune", p.photos, *SMALL[:2], *SMALL[4:], "--weights", other_weights(p)],
        ["other.weights.h5"],
    ),
    "selection without match": (
        lambda p: ["plan", p.photos, "-r", "two-phase", "--set", "phases.1.train=blok5"],
        ["phases[1].train", "'blok5'", "stem", "'block5'"],
    ),
    "too much dropped": (lambda p: ["plan", p.photos, "--set", "model.drop_top=99"], ["model.drop_top", "got 99"]),
    "inspect a typo": (lambda _: ["inspect", "resnet5O"], ["'resnet5O'", "'resnet50'"]),
    "inspect too small": (lambda _: ["inspect", "resnet50", "--size", 8, 8], ["--size", "at least 32 × 32"]),
    "inspect a selection without match": (
        lambda _: ["inspect", "resnet50", "--train", "block99"],
        ["'block99'", "block1"],
    ),
    "zoo has none": (lambda _: ["zoo", "list", "resnot*"], ["'resnot*'"]),
    "zoo show a typo": (lambda _: ["zoo", "show", "resnet5O"], ["'resnet50'"]),
}
RECIPE_CASES = {
    "no recipe": (lambda p: ["plan", p.photos, "-r", "two-phases"], ["'two-phases'", "'two-phase'"]),
    "unknown key": (lambda p: ["plan", p.photos, "--set", "data.vall=0.2"], ["--set data.vall", "'val'"]),
    "unknown section": (lambda p: ["plan", p.photos, "--set", "dta.val=0.2"], ["--set dta", "'data'"]),
    "out of range": (lambda p: ["plan", p.photos, "--set", "head.dropout=1.5"], ["--set head.dropout", "got 1.5"]),
    "no such phase": (lambda p: ["plan", p.photos, "--set", "phases.9.epochs=1"], ["phases[9].epochs"]),
    "setting without a value": (lambda p: ["plan", p.photos, "--set", "data.val"], ["must read key=value"]),
    "not YAML": (lambda p: ["plan", p.photos, "-r", p.file("r.yaml", "a: [")], ["r.yaml:1:", "not valid YAML"]),
    "gradual without validation": (
        lambda p: ["plan", p.photos, *SMALL, "--set", "data.val=0"],
        ["phases[1].policy", "validation images"],
    ),
    "said twice": (
        lambda p: ["plan", p.photos, "--budget", "10m", "--set", "performance.budget=5m"],
        ["--set performance.budget=5m", "is also set by --budget"],
    ),
    "two models": (
        lambda p: ["plan", p.photos, *SMALL, "--set", "model.name=resnet50"],
        ["is also set by --model"],
    ),
    "bad expectation": (lambda p: ["plan", p.photos, "--set", "expect=[good]"], ["expect", "'good'"]),
}
RUN_CASES = {
    "out below a file": (lambda p: ["finetune", p.photos, *SMALL, "-o", p.file("f") / "run"], ["/f: is a file"]),
    "out is a file": (lambda p: ["finetune", p.photos, *SMALL, "-o", p.file("f")], ["/f: is a file"]),
    "out is not empty": (
        lambda p: ["finetune", p.photos, *SMALL, "-o", p.file("run/x").parent],
        ["already exists and is not empty", "another --out"],
    ),
    "resume a complete run": (lambda p: ["finetune", "--resume", p.finished], ["the run is complete"]),
    "resume no run": (lambda p: ["finetune", "--resume", p.path], ["is not a run folder"]),
    "resume with settings": (
        lambda p: ["finetune", "--resume", interrupted(p), "--set", "seed=1"],
        ["--resume", "the recipe it began with"],
    ),
    "resume into another folder": (
        lambda p: ["finetune", "--resume", interrupted(p), "--out", p.path / "x"],
        ["--resume", "the folder"],
    ),
    "unknown device": (lambda p: ["finetune", p.photos, *SMALL, "--device", "gpu:7"], ["'gpu:7'", "cpu:0"]),
    "evaluate no run": (lambda p: ["evaluate", p.path / "x"], ["no such run"]),
    "evaluate a folder that is no run": (lambda p: ["evaluate", p.photos], ["is not a run folder"]),
    "evaluate an interrupted run": (
        lambda p: ["evaluate", interrupted(p)],
        ["interrupted", "tlcli finetune --resume", "place/run"],
    ),
    "predict by an interrupted run": (
        lambda p: ["predict", interrupted(p), p.photos],
        ["interrupted", "tlcli finetune --resume"],
    ),
    "predict a missing file": (lambda p: ["predict", p.finished, "no.jpg"], ["no.jpg: there is no such file"]),
    "predict an empty folder": (lambda p: ["predict", p.finished, p.path], ["holds no images"]),
    "a damaged classifier": (
        lambda p: ["predict", p.file("model.keras"), p.photos],
        ["model.keras", "is not a classifier"],
    ),
    "evaluate other classes": (
        lambda p: ["evaluate", p.finished, p.draw(p.path / "x", ["blue", "green", "rde"])],
        ["unknown: rde", "missing: red", "blue, green, red"],
    ),
}
COMMAND_CASES = {
    "unknown command": (lambda _: ["finetun"], ["'finetun'", "'finetune'", "tlcli --help"]),
    "unknown command without a near one": (lambda _: ["zzz"], ["'zzz'", "finetune, inspect"]),
    "unknown command of a group": (lambda _: ["recipe", "lst"], ["'lst'", "'list'", "tlcli recipe --help"]),
    "unknown option": (lambda p: ["plan", p.photos, "--modle", "x"], ["--modle", "--model"]),
    "wrong choice": (lambda p: ["plan", p.photos, "--precision", "int8"], ["--precision", "int8", "bfloat16"]),
    "predict without images": (lambda p: ["predict", p.finished], ["IMAGE", "tlcli predict --help"]),
    "top zero": (lambda p: ["predict", p.finished, p.photos, "--top", 0], ["--top", "0"]),
    "two forms at once": (lambda p: ["predict", p.finished, p.photos, "--csv", "--json"], ["--csv and --json"]),
}
CASES = DATA_CASES | MODEL_CASES | RECIPE_CASES | RUN_CASES | COMMAND_CASES
# These know no --json; inspect has --format json.
TEXT_ONLY = {"inspect a typo", "inspect too small", "inspect a selection without match"}


def test_no_case_shadows_another() -> None:
    assert len(CASES) == sum(map(len, (DATA_CASES, MODEL_CASES, RECIPE_CASES, RUN_CASES, COMMAND_CASES))) == 62


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_nothing_left_behind(case: str, tlcli: Callable, place: Place) -> None:
    words, wanted = CASES[case]
    command = words(place)
    said = tlcli(*command)
    assert said.code == 2, said
    errors = [line for line in said.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, said.stderr
    assert said.stderr.splitlines()[-1] == errors[0], "the sentence is the last line"
    assert "Traceback" not in said.stderr
    assert "fault of tlcli" not in said.stderr
    assert len(errors[0].replace(str(place.path), "")) < 500
    for text in wanted:
        assert text in errors[0]
    assert said.stdout == "" or "--json" in command
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("case", CASES)
def test_the_same_as_one_json_document(case: str, tlcli: Callable, place: Place) -> None:
    words, wanted = CASES[case]
    form = ("--format", "json") if case in TEXT_ONLY else () if case == "two forms at once" else ("--json",)
    said = tlcli(*words(place), *form)
    assert said.code == 2
    assert set(said.document) == {"error"}
    error = said.document["error"]
    assert {"kind", "where", "message", "hint"} <= set(error)
    assert all(isinstance(error[key], str) for key in ("kind", "where", "message", "hint"))
    assert error["kind"] != "internal"
    text = " ".join((error["where"] + ":", error["message"], error["hint"]))
    for part in wanted:
        assert part in text
    assert error["message"] in said.stderr
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("command", [["plan", "no"], ["finetune", "no"], ["recipe", "run", "full", "no"]], ids=str)
def test_quiet_leaves_the_sentence(command: list[str], tlcli: Callable, place: Place) -> None:
    said = tlcli(*command, "--quiet")
    assert said.code == 2
    assert len(said.stderr.splitlines()) == 1


def test_what_can_be_told_at_once_is_told_before_anything_is_loaded(tlcli: Callable, place: Place) -> None:
    """Loading Keras takes seconds, and would be the first line."""
    for command in (
        ["finetune", "no"],
        ["finetune", place.photos, *SMALL, "-o", place.photos],
        ["finetune", "--resume", place.finished],
        ["evaluate", "no"],
        ["predict", interrupted(place), place.photos],
    ):
        said = tlcli(*command)
        assert said.stderr.startswith("Error: ")
        assert len(said.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["plan", "finetune", "validate", "run"])
def test_all_mistakes_of_a_recipe_at_once(command: str, tlcli: Callable, place: Place) -> None:
    recipe = place.file("mine.yaml", MISTYPED)
    words = {
        "plan": ["plan", place.photos, "--recipe", recipe],
        "finetune": ["finetune", place.photos, "--recipe", recipe],
        "validate": ["recipe", "validate", recipe],
        "run": ["recipe", "run", recipe, place.photos],
    }[command]
    said = tlcli(*words)
    lines = said.stderr.removeprefix("Error: ").splitlines()
    assert (said.code, said.stdout) == (2, "")
    assert [line.removeprefix(str(recipe)).split(":")[1] for line in lines] == ["4", "5", "9"]
    for line, text in zip(lines, ["data.vall: unknown key", "head.dropout", "phases[0].epochs"], strict=True):
        assert text in line
    assert "Did you mean 'val'?" in lines[0]
    if command != "validate":
        problems = tlcli(*words, "--json").document["error"]["problems"]
        assert [problem["where"] for problem in problems] == [line.split(": ")[0] for line in lines]


def test_an_image_that_cannot_be_read_is_a_warning_otherwise(tlcli: Callable, place: Place) -> None:
    folder = with_an_unreadable_image(place)
    said = tlcli("plan", folder, *SMALL, "--quiet", "--json")
    assert said.code == 0
    assert sum(said.document["data"]["counts"].values()) == 30
    lines = said.stderr.splitlines()
    assert all(line.startswith("warning: ") for line in lines)
    assert [line for line in lines if line.startswith(f"warning: skipped {folder}/red/broken.jpg: not an image")]


def test_debug_adds_the_traceback_and_keeps_the_rest(tlcli: Callable, place: Place) -> None:
    said = tlcli("plan", "no", "--debug", "--json")
    assert said.code == 2
    assert "Traceback (most recent call last)" in said.stderr
    assert "DataError" in said.stderr
    assert said.document["error"]["kind"] == "data"


def test_control_characters_of_a_name_reach_no_terminal(tlcli: Callable, place: Place) -> None:
    said = tlcli("plan", "a\x1b[31m\x07b")
    assert said.code == 2
    assert "\x1b" not in said.stderr
    assert "a\\x1b[31m\\x07b" in said.stderr


def test_an_existing_file_is_never_overwritten_by_a_copied_recipe(tlcli: Callable, place: Place) -> None:
    path = place.file("mine.yaml", "mine")
    said = tlcli("recipe", "copy", "full", path)
    assert said.code == 2
    assert "already exists" in said.stderr
    assert path.read_text(encoding="utf-8") == "mine"
