"""`tlcli check`: output, files and errors, and `--exclude` in other commands."""

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
    """Two classes of twelve different images without findings at `--size 32 32`."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            spots = np.random.default_rng(100 * label + number).integers(0, 256, (6, 6, 3), np.uint8)
            image = Image.fromarray(spots).resize((64, 48), Image.Resampling.BICUBIC)
            image.save(tmp_path / "data" / name / f"{number:02}.png")
    return tmp_path / "data"


def add_findings(data: Path) -> Path:
    """The folder with one error, one warning and one info added."""
    shutil.copy(data / "cat" / "00.png", data / "dog" / "copy.png")
    shutil.copy(data / "cat" / "01.png", data / "cat" / "copy.png")
    (data / "dog" / "notes.txt").write_text("notes")
    return data


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All paths in a folder, each with its modification time in nanoseconds and its bytes."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def test_a_folder_without_findings(tlcli: Callable, data: Path) -> None:
    result = tlcli("check", data, *SIZE)
    assert result.code == 0
    assert "24 readable images" in result.stdout.splitlines()[0]
    assert result.stdout.splitlines()[0].endswith(": 0 errors and 0 warnings")
    assert "decoding: 24 of 24" in result.stderr


def test_json(tlcli: Callable, data: Path) -> None:
    result = tlcli("check", add_findings(data), *SIZE, "--json")
    assert result.code == 3
    document = result.document
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
    add_findings(data)
    if worst != "error":
        (data / "dog" / "copy.png").unlink()
    if worst in ("info", "none"):
        (data / "cat" / "copy.png").unlink()
    if worst == "none":
        (data / "dog" / "notes.txt").unlink()
    result = tlcli("check", data, *SIZE, "--fail-on", fail_on)
    assert result.code == code, result.stderr
    assert ("exit code  3" in result.stdout) == (code == 3)


def test_nothing_in_the_folder_changes(tlcli: Callable, data: Path, tmp_path: Path) -> None:
    before = snapshot(add_findings(data))
    tlcli("check", data, "--html", tmp_path / "page.html", "--quarantine", tmp_path / "bad.txt")
    assert snapshot(data) == before
    assert (tmp_path / "page.html").stat().st_size > 5000


def test_a_quarantined_image_is_excluded(
    tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (add_findings(data) / "cat" / "broken.jpg").write_text("not an image")
    result = tlcli("check", data, *SIZE, "--quarantine", "bad.txt")
    lines = Path("bad.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "cat/00.png\tthe same as dog/copy.png, in another class",
        "cat/broken.jpg\tcannot be read: not a valid JPEG, PNG, GIF, BMP, WebP or TIFF image",
        "cat/copy.png\ta copy of cat/01.png",
        "dog/copy.png\tthe same as cat/00.png, in another class",
    ]
    command = next(line for line in result.stdout.splitlines() if line.startswith("next"))
    assert command.endswith(f"tlcli finetune {data} --exclude bad.txt --set 'data.size=[32,32]'")
    excluded = tlcli("check", data, *SIZE, "--exclude", "bad.txt", "--json")
    assert excluded.code == 0
    assert [finding["kind"] for finding in excluded.document["findings"]] == ["not_an_image"]
    assert excluded.document["excluded"] == 4


@pytest.mark.parametrize("source", ["option", "setting"])
def test_plan_leaves_out_listed_images(tlcli: Callable, data: Path, tmp_path: Path, source: str) -> None:
    exclusions = tmp_path / "bad.txt"
    exclusions.write_text("# mine\ncat/00.png\ncat/99.png\n")
    options = ["--exclude", exclusions] if source == "option" else ["--set", f"data.exclude={exclusions}"]
    result = tlcli("plan", data, *RANDOM, "--json", *options)
    assert result.code == 0, result.stderr
    assert sum(result.document["data"]["counts"].values()) == 23
    assert f"warning: {exclusions}:3: there is no image 'cat/99.png' in {data}" in result.stderr
    assert f"left out 1 image listed in {exclusions}" in result.stderr


def test_a_run_records_its_exclusions(
    tlcli: Callable, photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.txt").write_text("red/03.bmp\n")
    result = tlcli("finetune", photos, "--recipe", tiny, "--exclude", "bad.txt", "--out", "run")
    assert result.code == 0, result.stderr
    assert "red/03.bmp" not in Path("run/splits.csv").read_text(encoding="utf-8")
    assert f"exclude: {tmp_path / 'bad.txt'}" in Path("run/recipe.yaml").read_text(encoding="utf-8")
    hints = [line for line in result.stderr.splitlines() if "tlcli check" in line]
    assert hints == [f"for all checks: tlcli check {photos}"]


def test_probe_excludes_listed_images(tlcli: Callable, data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("cow/1.png\n")
    result = tlcli("probe", data, "--exclude", tmp_path / "bad.txt")
    assert result.code == 2
    assert f"{tmp_path}/bad.txt:1: there is no image 'cow/1.png'" in result.stderr


def test_plan_runs_the_quick_checks(tlcli: Callable, data: Path) -> None:
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
    "DATA is a file": (
        lambda data, _: ["check", data / "cat" / "00.png"],
        ["DATA is a file", "one folder of images per class"],
    ),
    "an empty folder": (lambda _, folder: ["check", folder], ["holds no images"]),
    "no class folders": (lambda data, _: ["check", data / "cat"], ["holds 12 images but no class folders"]),
    "unknown model": (lambda data, _: ["check", data, "-m", "resnet5O"], ["'resnet5O'", "'resnet50'"]),
    "size of zero": (lambda data, _: ["check", data, "--size", 0, 32], ["--size", "got 0 32"]),
    "size below the minimum": (
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
    "page is a folder": (lambda data, folder: ["check", data, "--html", folder], ["is a folder, not a file"]),
    "page in no folder": (
        lambda data, folder: ["check", data, "--html", folder / "no" / "page.html"],
        ["there is no such folder", "another --html"],
    ),
    "page in a folder that is not writable": (
        lambda data, _: ["check", data, "--html", "/proc/page.html"],
        ["/proc: the folder cannot be written to"],
    ),
    "page exists": (
        lambda data, folder: ["check", data, "--html", _file(folder / "page.html")],
        ["the file already exists"],
    ),
    "page and list are one file": (
        lambda data, folder: ["check", data, "--html", folder / "x", "--quarantine", folder / "x"],
        ["the same file"],
    ),
    "missing list": (lambda data, folder: ["check", data, "--exclude", folder / "no.txt"], ["no.txt: cannot be read"]),
    "missing list for plan": (
        lambda data, folder: ["plan", data, "--exclude", folder / "no.txt"],
        ["no.txt: cannot be read", "tlcli check DATA --quarantine"],
    ),
    "a list of another folder": (
        lambda data, folder: ["finetune", data, "--exclude", _file(folder / "bad.txt", "\nx/1.png\n")],
        ["bad.txt:2: there is no image 'x/1.png'", "another folder"],
    ),
    "a line that is not a relative path": (
        lambda data, folder: ["plan", data, "--exclude", _file(folder / "bad.txt", "cat/00.png\n/x.png\n")],
        ["bad.txt:2: is not a path relative to DATA (got '/x.png'"],
    ),
    "unknown severity": (lambda data, _: ["check", data, "--fail-on", "errors"], ["--fail-on", "'errors'"]),
}


def _file(path: Path, text: str = "mine") -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_case_names_are_unique() -> None:
    assert len(CASES) == 19


@pytest.mark.parametrize("case", CASES)
def test_errors_are_one_sentence(
    case: str, tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    words, expected = CASES[case]
    result = tlcli(*words(data, tmp_path / "folder"))
    assert (result.code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    document = tlcli(*words(data, tmp_path / "folder"), "--json").document["error"]
    for text in expected:
        assert text in result.stderr
        assert text in f"{document['where']}: {document['message']} {document['hint']}"


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits(tlcli: Callable, data: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names are folded, not truncated. Rich markup and control characters are printed as text."""
    monkeypatch.setenv("COLUMNS", str(width))
    hostile = "[red]x[b]\x1b]0;title\x07 " + "long " * 8
    add_findings(data)
    shutil.copy(data / "cat" / "02.png", data / "dog" / f"{hostile}.png")
    result = tlcli("check", data, *SIZE)
    assert result.code == 3
    assert "\x1b" not in result.stdout
    table = result.stdout[result.stdout.index("severity") : result.stdout.index("label conflict:")]
    assert max(map(len, table.splitlines())) <= width
    printed = re.sub(r"\s+", "", hostile.replace("\x1b", "\\x1b").replace("\x07", "\\x07"))
    assert printed in re.sub(r"\s+", "", table)


def test_quiet_prints_findings_only(tlcli: Callable, data: Path) -> None:
    result = tlcli("check", add_findings(data), *SIZE, "--quiet")
    assert result.stderr == ""
    assert "label conflict" in result.stdout
    assert "--html" not in result.stdout


def test_a_list_that_empties_a_class(
    tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / "dog", data / "ant's, [1]")
    (data / "cow").mkdir()
    for number in range(3):
        (data / "cow" / f"{number}.jpg").write_text("not an image")
    for path in (data / "dog").iterdir():
        shutil.copy(path, data / "cat" / f"dog-{path.name}")
    for number in range(2, 5):
        shutil.copy(data / "cat" / "02.png", data / "cow" / f"{number}.png")
    shutil.copy(data / "cat" / "03.png", data / "cow" / "5.png")
    Image.new("RGB", (60, 60), "red").save(data / "cow" / "6.png")
    result = tlcli("check", data, *SIZE, "--quarantine", "bad.txt")
    step = next(line for line in result.stdout.splitlines() if line.startswith("next"))
    assert step.endswith("remove lines from the list, or add images: fewer than two classes are left")
    assert "Use:" not in Path("bad.txt").read_text(encoding="utf-8")
    # Two classes keep enough images, so the printed command has to work.
    shutil.rmtree(data / "dog")
    for path in data.glob("cat/dog-*"):
        path.unlink()
    result = tlcli("check", data, *SIZE, "--quarantine", "better.txt")
    command = next(line for line in result.stdout.splitlines() if line.startswith("next")).partition("tlcli ")[2]
    words = shlex.split(command)
    assert words[-2:] == ["--set", 'data.classes=["ant\'s, [1]", "cat"]']
    planned = tlcli("plan", *words[1:], *RANDOM, "--json")
    assert planned.code == 0, planned.stderr


def test_names_that_are_not_utf8(tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training refuses such an image unless it is excluded. The list contains it."""
    monkeypatch.chdir(tmp_path)
    (data / "cat" / "05.png").rename(data / "cat" / os.fsdecode(b"\xff.png"))
    (data / "cat" / os.fsdecode(b"\xfe.txt")).write_text("notes")
    refused = tlcli("plan", data, *RANDOM)
    assert refused.code == 2
    assert r"cat/\xff.png" in refused.stderr
    result = tlcli("check", data, *SIZE, "--quarantine", "bad.txt")
    assert r"cat/\xff.png" in result.stdout
    step = next(line for line in result.stdout.splitlines() if line.startswith("next")).partition("tlcli ")[2]
    planned = tlcli("plan", *shlex.split(step)[1:], *RANDOM, "--json")
    assert planned.code == 0, planned.stderr
    assert sum(planned.document["data"]["counts"].values()) == 23


def test_a_list_cannot_fix_class_names(
    tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(data / "cat" / "00.png", data / "cat" / "copy.png")
    (data / "dog").rename(data / "d\tog")
    result = tlcli("check", data, *SIZE, "--quarantine", "bad.txt")
    step = next(line for line in result.stdout.splitlines() if line.startswith("next"))
    assert step.endswith("rename the class folders named above; training refuses them")
    assert "Use:" not in Path("bad.txt").read_text(encoding="utf-8")


def test_printed_commands_repeat_the_options(
    tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(data / "cat" / "01.png", data / "cat" / "copy.png")
    words = ("check", data, "--model", "mobilenet", *SIZE)
    repeated = f"tlcli check {data} --model mobilenet --size 32 32"
    result = tlcli(*words).stdout
    assert f"{repeated} --html findings.html" in result
    assert f"{repeated} --quarantine bad.txt" in result
    command = f"tlcli finetune {data} --exclude bad.txt --model mobilenet --set 'data.size=[32,32]'"
    assert command in tlcli(*words, "--quarantine", "bad.txt").stdout
    (data / "cat" / "copy.png").unlink()
    result = tlcli(*words, "--quarantine", "none.txt").stdout
    assert "list       none.txt, 0 images" in result
    assert "next" not in result


def test_an_interrupt_is_reported_once(tlcli: Callable, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "check_images", interrupted)
    result = tlcli("check", data, "--json")
    assert (result.code, result.stdout) == (130, "")
    assert result.stderr.split() == ["Interrupted."]


def test_a_new_list_includes_the_excluded_images(
    tlcli: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(data / "cat" / "01.png", data / "cat" / "copy.png")
    Path("mine.txt").write_text("dog/00.png\tblurred\n")
    result = tlcli("check", data, *SIZE, "--exclude", "mine.txt")
    repeated = f"tlcli check {data} --exclude mine.txt --size 32 32"
    assert f"list       {repeated} --quarantine bad.txt  (2 images)" in result.stdout
    tlcli("check", data, *SIZE, "--exclude", "mine.txt", "--quarantine", "bad.txt")
    lines = Path("bad.txt").read_text(encoding="utf-8").splitlines()
    assert lines[2:] == ["cat/copy.png\ta copy of cat/01.png", "dog/00.png\twas listed in mine.txt"]


def test_one_class_is_in_the_singular_and_an_empty_one_is_reported_once(
    tlcli: Callable, draw: Callable, tmp_path: Path
) -> None:
    draw(tmp_path, ["cat"], count=1)
    assert ": 1 readable image in 1 class, 1 file: " in tlcli("check", tmp_path).stdout
    (tmp_path / "dog").mkdir()
    result = tlcli("check", tmp_path, "--json").document
    assert [finding["kind"] for finding in result["findings"] if "dog/" in finding["paths"]] == ["empty_class"]
