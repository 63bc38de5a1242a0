"""Wrong input: one message on stderr, exit code 2, no files left; with --json one document on stdout."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SMALL = ("--model", "mobilenet", "--weights", "random", "--set", "data.size=[32,32]")


@dataclass(frozen=True)
class Folders:
    """The folders of a case. The command runs in another, empty folder."""

    path: Path
    photos: Path
    finished: Path
    draw: Callable[..., Path]

    def file(self, name: str, text: str = "not an image") -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture
def folders(
    tmp_path: Path, photos: Path, finished: tuple, draw: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Folders:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    (tmp_path / "place").mkdir()
    return Folders(tmp_path / "place", photos, finished[0], draw)


def no_class_folders(folders: Folders) -> Path:
    shutil.copy(folders.photos / "red" / "00.bmp", folders.path / "one.bmp")
    return folders.path


def a_class_with_one_image(folders: Folders) -> Path:
    folder = folders.draw(folders.path / "photos")
    for path in sorted((folder / "red").iterdir())[1:]:
        path.unlink()
    return folder


def val_with_other_classes(folders: Folders) -> Path:
    folders.draw(folders.path / "photos" / "train", ["cat", "dog"])
    folders.draw(folders.path / "photos" / "val", ["cat", "dgo"])
    return folders.path / "photos"


def with_an_unreadable_image(folders: Folders) -> Path:
    folder = folders.draw(folders.path / "photos")
    folders.file("photos/red/broken.jpg")
    return folder


def interrupted(folders: Folders) -> Path:
    run = folders.path / "run"
    shutil.copytree(folders.finished, run)
    (run / "model.keras").unlink()
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(record | {"status": "interrupted"}), encoding="utf-8")
    return run


def other_weights(folders: Folders) -> Path:
    import keras

    path = folders.path / "other.weights.h5"
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

# Name of the case: the command, and texts that its message must contain.
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
    "no weights file": (
        lambda p: ["plan", p.photos, *SMALL[:2], "--weights", "x.h5"],
        ["--weights", "x.h5", "random"],
    ),
    "weights that do not fit": (
        lambda p: ["finetune", p.photos, *SMALL[:2], *SMALL[4:], "--weights", other_weights(p)],
        ["other.weights.h5"],
    ),
    "selection without match": (
        lambda p: ["plan", p.photos, "-m", "mobilenet_synthetic", "-r", "two-phase", "--set", "phases.1.train=blok5"],
        ["phases[1].train", "'blok5'", "stem", "'block5'"],
    ),
    "too much dropped": (lambda p: ["plan", p.photos, "--set", "model.drop_top=99"], ["model.drop_top", "got 99"]),
    "too many groups by gradient": (
        lambda p: ["plan", p.photos, "-r", "surgical", "--set", "phases.1.group_count=99"],
        ["phases[1].group_count", "got 99", "Take 1 to"],
    ),
    "more groups than there are": (
        lambda p: ["plan", p.photos, "-r", "two-phase", "--set", "phases.1.train=top:99"],
        ["phases[1].train", "got '99'", "or a percentage"],
    ),
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
    "set twice": (
        lambda p: ["plan", p.photos, "--budget", "10m", "--set", "performance.budget=5m"],
        ["--set performance.budget=5m", "is also set by --budget"],
    ),
    "a shortcut and its key": (
        lambda p: ["plan", p.photos, "--epochs", 2, "--set", "phases.1.epochs=5"],
        ["--set phases.1.epochs=5", "is also set by --epochs"],
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
        ["--resume", "keeps its folder and its recipe"],
    ),
    "resume into another folder": (
        lambda p: ["finetune", "--resume", interrupted(p), "--out", p.path / "x"],
        ["--resume", "keeps its folder"],
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
        ["does not have the class rde", "blue, green, red"],
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
    "two forms at once": (
        lambda p: ["predict", p.finished, p.photos, "--csv", "--json"],
        ["--csv, --jsonl and --json"],
    ),
}
CASES = DATA_CASES | MODEL_CASES | RECIPE_CASES | RUN_CASES | COMMAND_CASES
# `inspect` with --format json instead of --json.
TEXT_ONLY = {"inspect a typo", "inspect too small", "inspect a selection without match"}


def test_there_are_65_cases() -> None:
    assert len(CASES) == sum(map(len, (DATA_CASES, MODEL_CASES, RECIPE_CASES, RUN_CASES, COMMAND_CASES))) == 65


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_message_and_leaves_no_files(case: str, tlcli: Callable, folders: Folders) -> None:
    words, texts = CASES[case]
    command = words(folders)
    result = tlcli(*command)
    assert result.code == 2, result
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == errors[0], "the message is the last line"
    assert "Traceback" not in result.stderr
    assert "bug in tlcli" not in result.stderr
    assert len(errors[0].replace(str(folders.path), "")) < 520
    for text in texts:
        assert text in errors[0]
    assert result.stdout == "" or "--json" in command
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_json_document(case: str, tlcli: Callable, folders: Folders) -> None:
    words, texts = CASES[case]
    form = ("--format", "json") if case in TEXT_ONLY else () if case == "two forms at once" else ("--json",)
    result = tlcli(*words(folders), *form)
    assert result.code == 2
    assert set(result.document) == {"error"}
    error = result.document["error"]
    assert {"kind", "where", "message", "hint"} <= set(error)
    assert all(isinstance(error[key], str) for key in ("kind", "where", "message", "hint"))
    assert error["kind"] != "internal"
    text = " ".join((error["where"] + ":", error["message"], error["hint"]))
    for part in texts:
        assert part in text
    assert error["message"] in result.stderr
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("command", [["plan", "no"], ["finetune", "no"], ["recipe", "run", "full", "no"]], ids=str)
def test_quiet_keeps_the_message(command: list[str], tlcli: Callable, folders: Folders) -> None:
    result = tlcli(*command, "--quiet")
    assert result.code == 2
    assert len(result.stderr.splitlines()) == 1


def test_early_mistakes_are_reported_before_keras_loads(tlcli: Callable, folders: Folders) -> None:
    """The first line would otherwise be `loading Keras …`."""
    for command in (
        ["finetune", "no"],
        ["finetune", folders.photos, *SMALL, "-o", folders.photos],
        ["finetune", "--resume", folders.finished],
        ["evaluate", "no"],
        ["predict", interrupted(folders), folders.photos],
    ):
        result = tlcli(*command)
        assert result.stderr.startswith("Error: ")
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["plan", "finetune", "validate", "run"])
def test_all_mistakes_of_a_recipe_are_reported_together(command: str, tlcli: Callable, folders: Folders) -> None:
    recipe = folders.file("mine.yaml", MISTYPED)
    words = {
        "plan": ["plan", folders.photos, "--recipe", recipe],
        "finetune": ["finetune", folders.photos, "--recipe", recipe],
        "validate": ["recipe", "validate", recipe],
        "run": ["recipe", "run", recipe, folders.photos],
    }[command]
    result = tlcli(*words)
    first, *lines = result.stderr.splitlines()
    assert (result.code, result.stdout, first) == (2, "", "Error: 3 problems")
    assert [line.removeprefix(str(recipe)).split(":")[1] for line in lines] == ["4", "5", "9"]
    for line, text in zip(lines, ["data.vall: unknown key", "head.dropout", "phases[0].epochs"], strict=True):
        assert text in line
    assert "Did you mean 'val'?" in lines[0]
    if command != "validate":
        problems = tlcli(*words, "--json").document["error"]["problems"]
        assert [problem["where"] for problem in problems] == [line.split(": ")[0] for line in lines]


def test_without_strict_an_unreadable_image_is_a_warning(tlcli: Callable, folders: Folders) -> None:
    folder = with_an_unreadable_image(folders)
    result = tlcli("plan", folder, *SMALL, "--quiet", "--json")
    assert result.code == 0
    assert sum(result.document["data"]["counts"].values()) == 30
    lines = result.stderr.splitlines()
    assert all(line.startswith("warning: ") for line in lines)
    assert [line for line in lines if line.startswith(f"warning: skipped {folder}/red/broken.jpg: not a valid JPEG")]
    assert len(lines) == 1, "the sentence for the record is not said again"
    (sentence,) = result.document["data"]["warnings"]
    assert sentence.startswith("skipped 1 unreadable image: red/broken.jpg (not a valid JPEG")


def test_a_cache_that_cannot_be_written_names_the_remedy(
    tlcli: Callable, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLCLI_CACHE", str(folders.file("not-a-folder")))
    result = tlcli("plan", folders.photos, *SMALL, "--quiet")
    assert result.code == 2
    assert result.stderr.endswith("cannot be written (Not a directory). Set TLCLI_CACHE to a writable folder.\n")


def test_debug_adds_the_traceback(tlcli: Callable, folders: Folders) -> None:
    result = tlcli("plan", "no", "--debug", "--json")
    assert result.code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert "DataError" in result.stderr
    assert result.document["error"]["kind"] == "data"


def test_control_characters_are_escaped(tlcli: Callable, folders: Folders) -> None:
    result = tlcli("plan", "a\x1b[31m\x07b")
    assert result.code == 2
    assert "\x1b" not in result.stderr
    assert "a\\x1b[31m\\x07b" in result.stderr


def test_copying_a_recipe_does_not_overwrite_a_file(tlcli: Callable, folders: Folders) -> None:
    path = folders.file("mine.yaml", "mine")
    result = tlcli("recipe", "copy", "full", path)
    assert result.code == 2
    assert "already exists" in result.stderr
    assert path.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("words", [("--size", "224"), ("--size", "224", "--json"), ("--size", "224x224", "1")])
def test_an_option_of_two_values_says_so(words: tuple[str, ...], tlcli: Callable, photos: Path) -> None:
    result = tlcli("plan", photos, *words)
    assert result.code == 2
    assert "It takes height and width in pixels, such as --size 224 224." in result.stderr
