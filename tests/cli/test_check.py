"""`tlcli check` as it is typed: what it says, writes and refuses, and what `finetune` does with its list."""

import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tlcli.workflows import check as workflow

KEYS = {"kind", "severity", "count", "paths", "message", "remedy", "groups", "notes"}
SIZE = ("--size", "32", "32")
RANDOM = ("-m", "mobilenet", "--weights", "random", "--set", "data.size=[32,32]")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two clean classes of twelve different pictures, large enough for `--size 32 32`."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            spots = np.random.default_rng(100 * label + number).integers(0, 256, (6, 6, 3), np.uint8)
            picture = Image.fromarray(spots).resize((64, 48), Image.Resampling.BICUBIC)
            picture.save(tmp_path / "data" / name / f"{number:02}.png")
    return tmp_path / "data"


def spoil(data: Path) -> Path:
    """An error, a warning and something good to know."""
    shutil.copy(data / "cat" / "00.png", data / "dog" / "copy.png")
    shutil.copy(data / "cat" / "01.png", data / "cat" / "copy.png")
    (data / "dog" / "notes.txt").write_text("notes")
    return data


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a folder: names, times and contents."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def test_a_clean_folder(tlcli: Callable, data: Path) -> None:
    said = tlcli("check", data, *SIZE)
    assert said.code == 0
    assert "nothing was found" in said.stdout
    assert "24 readable images" in said.stdout.splitlines()[0]
    assert "decoding: 24 of 24" in said.stderr


def test_the_document(tlcli: Callable, data: Path) -> None:
    said = tlcli("check", spoil(data), *SIZE, "--json")
    assert said.code == 3
    document = said.document
    assert (document["files"], document["images"], document["classes"]) == (27, 26, {"cat": 13, "dog": 13})
    assert document["counts"] == {"error": 1, "warning": 1, "info": 1}
    assert document["failed"] is True
    assert [finding["kind"] for finding in document["findings"]] == ["label_conflict", "duplicate", "not_an_image"]
    assert all(set(finding) == KEYS for finding in document["findings"])
    assert document["findings"][0]["paths"] == ["cat/00.png", "dog/copy.png"]
    assert all(finding["count"] == len(finding["paths"]) for finding in document["findings"])


@pytest.mark.parametrize(
    ("worst", "fail_on", "code"),
    [
        ("error", "error", 3),
        ("error", "info", 3),
        ("error", "never", 0),
        ("warning", "error", 0),
        ("warning", "warning", 3),
        ("info", "warning", 0),
        ("info", "info", 3),
        ("none", "info", 0),
    ],
)
def test_exit_codes(tlcli: Callable, data: Path, worst: str, fail_on: str, code: int) -> None:
    spoil(data)
    if worst != "error":
        (data / "dog" / "copy.png").unlink()
    if worst in ("info", "none"):
        (data / "cat" / "copy.png").unlink()
    if worst == "none":
        (data / "dog" / "notes.txt").unlink()
    said = tlcli("check", data, *SIZE, "--fail-on", fail_on)
    assert said.code == code, said
    assert ("exit code  3" in said.stdout) == (code == 3)


def test_nothing_in_the_folder_changes(tlcli: Callable, data: Path, tmp_path: Path) -> None:
    before = tree(spoil(data))
    tlcli("check", data, "--html", tmp_path / "page.html", "--quarantine", tmp_path / "bad.txt")
    assert tree(data) == before
    assert (tmp_path / "page.html").stat().st_size > 5000


def test_quarantine_and_exclude(tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (spoil(data) / "cat" / "broken.jpg").write_text("no picture")
    said = tlcli("check", data, *SIZE, "--quarantine", "bad.txt")
    lines = Path("bad.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "cat/00.png\tthe same as dog/copy.png, in another class",
        "cat/broken.jpg\tcannot be read: not a valid JPEG, PNG, GIF, BMP, WebP or TIFF image",
        "cat/copy.png\ta copy of cat/01.png",
        "dog/copy.png\tthe same as cat/00.png, in another class",
    ]
    command = next(line for line in said.stdout.splitlines() if line.startswith("use it"))
    assert command.endswith(f"tlcli finetune {data} --exclude bad.txt --set 'data.size=[32,32]'")
    again = tlcli("check", data, *SIZE, "--exclude", "bad.txt", "--json")
    assert again.code == 0
    assert [finding["kind"] for finding in again.document["findings"]] == ["not_an_image"]
    assert again.document["excluded"] == 4


@pytest.mark.parametrize("how", ["option", "setting"])
def test_plan_leaves_out_what_is_listed(tlcli: Callable, data: Path, tmp_path: Path, how: str) -> None:
    list_ = tmp_path / "bad.txt"
    list_.write_text("# mine\ncat/00.png\ncat/99.png\n")
    given = ["--exclude", list_] if how == "option" else ["--set", f"data.exclude={list_}"]
    said = tlcli("plan", data, *RANDOM, "--json", *given)
    assert said.code == 0, said.stderr
    assert sum(said.document["data"]["counts"].values()) == 23
    assert f"warning: {list_}:3: there is no image 'cat/99.png' in {data}" in said.stderr
    assert f"left out 1 image listed in {list_}" in said.stderr


def test_a_run_remembers_its_list(
    tlcli: Callable, photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.txt").write_text("red/03.bmp\n")
    said = tlcli("finetune", photos, "--recipe", tiny, "--exclude", "bad.txt", "--out", "run")
    assert said.code == 0, said.stderr
    assert "red/03.bmp" not in Path("run/splits.csv").read_text(encoding="utf-8")
    assert f"exclude: {tmp_path / 'bad.txt'}" in Path("run/recipe.yaml").read_text(encoding="utf-8")
    told = [line for line in said.stderr.splitlines() if "tlcli check" in line]
    assert told == [f"for all checks: tlcli check {photos}"]


def test_probe_takes_a_list(tlcli: Callable, data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("cow/1.png\n")
    said = tlcli("probe", data, "--exclude", tmp_path / "bad.txt")
    assert said.code == 2
    assert f"{tmp_path}/bad.txt:1: there is no image 'cow/1.png'" in said.stderr


def test_finetune_warns_of_what_costs_nothing_to_find(tlcli: Callable, data: Path) -> None:
    shutil.copytree(data / "dog", data / "Cat")
    for path in sorted((data / "Cat").iterdir()):
        path.write_bytes(path.read_bytes() + b"\0")
    for path in sorted((data / "dog").iterdir())[2:]:
        path.unlink()
    words = ("plan", data, *RANDOM, "--json")
    warnings = " ".join(tlcli(*words).document["data"]["warnings"])
    assert "differ only by case, white space or Unicode form: 'Cat' and 'cat'. Merge" in warnings
    assert "fewer than 10 different images: 'dog' (2)" in warnings
    assert "class 'Cat' has 12 images, 'dog' only 2" in warnings


CASES: dict[str, tuple[Callable[[Path, Path], list[Any]], list[str]]] = {
    "no folder": (lambda data, _: ["check", data.parent / "dta"], ["dta: no such folder (given as DATA)", "'data'"]),
    "a file": (
        lambda data, _: ["check", data / "cat" / "00.png"],
        ["DATA is a file", "one folder of images per class"],
    ),
    "an empty folder": (lambda _, place: ["check", place], ["holds no images"]),
    "no class folders": (lambda data, _: ["check", data / "cat"], ["holds 12 images but no class folders"]),
    "unknown model": (lambda data, _: ["check", data, "-m", "resnet5O"], ["'resnet5O'", "'resnet50'"]),
    "size of none": (lambda data, _: ["check", data, "--size", 0, 32], ["--size", "got 0 32"]),
    "size below the network's": (
        lambda data, _: ["check", data, "-m", "resnet50", "--size", 8, 8],
        ["--size", "at least 32 × 32"],
    ),
    "page among the images": (
        lambda data, _: ["check", data, "--html", data / "page.html"],
        ["is inside the image folder", "--html outside"],
    ),
    "list among the images": (
        lambda data, _: ["check", data, "--quarantine", data / "cat" / "bad.txt"],
        ["is inside the image folder", "--quarantine outside"],
    ),
    "page is a folder": (lambda data, place: ["check", data, "--html", place], ["is a folder, not a file"]),
    "page in no folder": (
        lambda data, place: ["check", data, "--html", place / "no" / "page.html"],
        ["there is no such folder", "another --html"],
    ),
    "page where nothing can be written": (
        lambda data, _: ["check", data, "--html", "/proc/page.html"],
        ["/proc: the folder cannot be written to"],
    ),
    "page that is there": (
        lambda data, place: ["check", data, "--html", _written(place / "page.html")],
        ["the file already exists"],
    ),
    "page and list in one": (
        lambda data, place: ["check", data, "--html", place / "x", "--quarantine", place / "x"],
        ["the same file"],
    ),
    "no list": (lambda data, place: ["check", data, "--exclude", place / "no.txt"], ["no.txt: cannot be read"]),
    "no list to plan with": (
        lambda data, place: ["plan", data, "--exclude", place / "no.txt"],
        ["no.txt: cannot be read", "tlcli check DATA --quarantine"],
    ),
    "a list of another folder": (
        lambda data, place: ["finetune", data, "--exclude", _written(place / "bad.txt", "\nx/1.png\n")],
        ["bad.txt:2: there is no image 'x/1.png'", "another folder"],
    ),
    "a line that is no path": (
        lambda data, place: ["plan", data, "--exclude", _written(place / "bad.txt", "cat/00.png\n/x.png\n")],
        ["bad.txt:2: is not a path relative to DATA (got '/x.png')"],
    ),
    "unknown severity": (lambda data, _: ["check", data, "--fail-on", "errors"], ["--fail-on", "'errors'"]),
}


def _written(path: Path, text: str = "mine") -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_every_case_was_seen() -> None:
    assert len(CASES) == 19


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_one_sentence(
    case: str, tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    words, wanted = CASES[case]
    said = tlcli(*words(data, tmp_path / "place"))
    assert (said.code, said.stdout) == (2, "")
    assert len(said.stderr.splitlines()) == 1
    assert said.stderr.startswith("Error: ")
    document = tlcli(*words(data, tmp_path / "place"), "--json").document["error"]
    for text in wanted:
        assert text in said.stderr
        assert text in f"{document['where']}: {document['message']} {document['hint']}"


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits(tlcli: Callable, data: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names are folded and none is cut; what a terminal or Rich would obey is shown."""
    monkeypatch.setenv("COLUMNS", str(width))
    hostile = "[red]x[b]\x1b]0;title\x07 " + "long " * 8
    spoil(data)
    shutil.copy(data / "cat" / "02.png", data / "dog" / f"{hostile}.png")
    said = tlcli("check", data, *SIZE)
    assert said.code == 3
    assert "\x1b" not in said.stdout
    table = said.stdout[said.stdout.index("severity") : said.stdout.index("label conflict:")]
    assert max(map(len, table.splitlines())) <= width
    shown = re.sub(r"\s+", "", hostile.replace("\x1b", "\\x1b").replace("\x07", "\\x07"))
    assert shown in re.sub(r"\s+", "", table)


def test_quiet_says_what_was_found_and_no_more(tlcli: Callable, data: Path) -> None:
    said = tlcli("check", spoil(data), *SIZE, "--quiet")
    assert said.stderr == ""
    assert "label conflict" in said.stdout
    assert "pictures " not in said.stdout


def test_a_list_that_takes_all_of_a_class(
    tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / "dog", data / "ant's, [1]")
    (data / "cow").mkdir()
    for number in range(3):
        (data / "cow" / f"{number}.jpg").write_text("no picture")
    for path in (data / "dog").iterdir():
        shutil.copy(path, data / "cat" / f"dog-{path.name}")
    for number in range(2, 5):
        shutil.copy(data / "cat" / "02.png", data / "cow" / f"{number}.png")
    shutil.copy(data / "cat" / "03.png", data / "cow" / "5.png")
    Image.new("RGB", (60, 60), "red").save(data / "cow" / "6.png")
    said = tlcli("check", data, *SIZE, "--quarantine", "bad.txt")
    use = next(line for line in said.stdout.splitlines() if line.startswith("use it"))
    assert use.endswith("remove lines from the list, or add images: fewer than two classes are left")
    assert "Use:" not in Path("bad.txt").read_text(encoding="utf-8")
    # The picture of one class comes back, and that of another: the command that is printed has to do.
    shutil.rmtree(data / "dog")
    for path in data.glob("cat/dog-*"):
        path.unlink()
    said = tlcli("check", data, *SIZE, "--quarantine", "better.txt")
    command = next(line for line in said.stdout.splitlines() if line.startswith("use it")).partition("tlcli ")[2]
    words = shlex.split(command)
    assert words[-2:] == ["--set", 'data.classes=["ant\'s, [1]", "cat"]']
    planned = tlcli("plan", *words[1:], *RANDOM, "--json")
    assert planned.code == 0, planned.stderr


def test_names_that_are_no_unicode(
    tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training refuses such an image, but not when it is left out, and the list has it."""
    monkeypatch.chdir(tmp_path)
    (data / "cat" / "05.png").rename(data / "cat" / os.fsdecode(b"\xff.png"))
    (data / "cat" / os.fsdecode(b"\xfe.txt")).write_text("notes")
    refused = tlcli("plan", data, *RANDOM)
    assert refused.code == 2
    assert r"cat/\xff.png" in refused.stderr
    said = tlcli("check", data, *SIZE, "--quarantine", "bad.txt")
    assert r"cat/\xff.png" in said.stdout
    use = next(line for line in said.stdout.splitlines() if line.startswith("use it")).partition("tlcli ")[2]
    planned = tlcli("plan", *shlex.split(use)[1:], *RANDOM, "--json")
    assert planned.code == 0, planned.stderr
    assert sum(planned.document["data"]["counts"].values()) == 23


def test_class_folders_that_no_list_can_help(
    tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(data / "cat" / "00.png", data / "cat" / "copy.png")
    (data / "dog").rename(data / "d\tog")
    said = tlcli("check", data, *SIZE, "--quarantine", "bad.txt")
    use = next(line for line in said.stdout.splitlines() if line.startswith("use it"))
    assert use.endswith("rename the class folders named above; training refuses them")
    assert "Use:" not in Path("bad.txt").read_text(encoding="utf-8")


def test_what_was_asked_for_is_in_the_commands(
    tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(data / "cat" / "01.png", data / "cat" / "copy.png")
    words = ("check", data, "--model", "mobilenet", *SIZE)
    again = f"tlcli check {data} --model mobilenet --size 32 32"
    said = tlcli(*words).stdout
    assert f"{again} --html findings.html" in said
    assert f"{again} --quarantine bad.txt" in said
    use = f"tlcli finetune {data} --exclude bad.txt --model mobilenet --set 'data.size=[32,32]'"
    assert use in tlcli(*words, "--quarantine", "bad.txt").stdout
    (data / "cat" / "copy.png").unlink()
    said = tlcli(*words, "--quarantine", "none.txt").stdout
    assert "list       none.txt, 0 images" in said
    assert "use it" not in said


def test_an_interrupt_is_told_once(tlcli: Callable, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "check_images", interrupted)
    said = tlcli("check", data, "--json")
    assert (said.code, said.stdout) == (130, "")
    assert said.stderr.split() == ["Interrupted."]


def test_a_list_upon_a_list(tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(data / "cat" / "01.png", data / "cat" / "copy.png")
    Path("mine.txt").write_text("dog/00.png\tblurred\n")
    said = tlcli("check", data, *SIZE, "--exclude", "mine.txt")
    again = f"tlcli check {data} --exclude mine.txt --size 32 32"
    assert f"list       {again} --quarantine bad.txt: 2 images" in said.stdout
    tlcli("check", data, *SIZE, "--exclude", "mine.txt", "--quarantine", "bad.txt")
    lines = Path("bad.txt").read_text(encoding="utf-8").splitlines()
    assert lines[2:] == ["cat/copy.png\ta copy of cat/01.png", "dog/00.png\twas listed in mine.txt"]
