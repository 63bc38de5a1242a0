"""The run folder: created, locked, written by rename, and removed if the run is refused."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tlcli.data import source, split
from tlcli.errors import DataError, OutputError, RunError, TlcliError
from tlcli.model.structure import measure_in_subprocess
from tlcli.report import folder, record
from tlcli.report.record import RunRecord
from tlcli.train.events import ignore
from tlcli.train.preparation import choose_network, prepare
from tlcli.workflows.request import Request, load_recipe


@pytest.fixture
def run_record() -> RunRecord:
    return RunRecord(
        status="interrupted",
        recipe={"name": "x", "expect": ["seconds.total < 100", "val.accuracy > 0.9"]},
        model={"name": "x"},
        data={"path": "photos", "classes": [], "counts": {}},
        seed=0,
        started="2030-01-01T00:00:00Z",
        versions={},
        hardware={},
    )


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_it_is_created_with_its_parents_and_locked(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "deep" / "one"
    with folder.own_folder(path, resume=False) as run:
        assert run.path == path
        assert names(path) == [".lock"]
    assert names(path) == []


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    with folder.own_folder(tmp_path, resume=False) as run:
        assert run.path == tmp_path


@pytest.mark.parametrize(
    ("status", "hint"),
    [("interrupted", "Resume it with --resume"), ("complete", "Choose another --out."), (None, "Choose another")],
)
def test_a_folder_with_files_is_refused(status: str | None, hint: str, run_record: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    if status:
        run_record.status, run_record.seconds = status, {"total": 1.0}  # type: ignore[assignment]
        record.write(tmp_path, run_record)
    before = names(tmp_path)
    with (
        pytest.raises(OutputError, match="already exists and is not empty") as caught,
        folder.own_folder(tmp_path, resume=False),
    ):
        pass
    assert caught.value.hint.startswith(hint)
    assert names(tmp_path) == before


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_file_in_place_of_a_folder_is_named(below: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="is a file") as caught:
        folder.require_new(file / below)
    assert caught.value.where == str(file)
    assert file.read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written") as caught:
            folder.require_new(tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)
    assert caught.value.where == str(tmp_path)


def test_too_little_disk_space_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="MB left, the run needs about 1000000000000 MB"),
        folder.own_folder(tmp_path / "runs" / "one", resume=False, need_bytes=10**18),
    ):
        pass
    assert names(tmp_path) == []


def test_a_second_process_cannot_open_it(tmp_path: Path) -> None:
    """The other process holds the lock until its standard input ends."""
    path = tmp_path / "run"
    code = f"""
import sys
from pathlib import Path
from tlcli.model.structure import measure_in_subprocess
from tlcli.report import folder, record
with folder.own_folder(Path({str(path)!r}), resume=False):
    print("mine", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(OutputError, match="a run is in progress"), folder.own_folder(path, resume=True):
            pass
        assert names(path) == [".lock"]
        other.communicate("")
    with folder.own_folder(path, resume=True):
        pass


def refused(path: Path, error: TlcliError, *, resume: bool = False) -> None:
    with folder.own_folder(path, resume=resume) as run:
        (run.path / "run.json").write_text("{}", encoding="utf-8")
        raise error


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        refused(tmp_path / "runs" / "one", DataError("wrong"))
    assert names(tmp_path) == []


def test_existing_folders_stay(tmp_path: Path) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "other").mkdir()
    with pytest.raises(DataError):
        refused(tmp_path / "runs" / "one", DataError("wrong"))
    with pytest.raises(DataError):
        refused(tmp_path / "runs" / "two", DataError("wrong"))
    assert names(tmp_path / "runs") == ["one", "other"]
    assert names(tmp_path / "runs" / "one") == []


def test_a_failed_or_resumed_run_stays(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        refused(tmp_path / "one", RunError("burst"))
    with pytest.raises(DataError):
        refused(tmp_path / "one", DataError("wrong"), resume=True)
    assert names(tmp_path / "one") == ["run.json"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (None, "complete", None),
        (RunError("burst", where="phase x"), "failed", "run"),
        (DataError("wrong"), "interrupted", "data"),
        (ZeroDivisionError("bug"), "failed", "internal"),
        (KeyboardInterrupt(), "interrupted", None),
    ],
    ids=str,
)
def test_the_record_is_written_after_every_kind_of_end(
    error: BaseException | None, status: str, kind: str | None, run_record: RunRecord, tmp_path: Path
) -> None:
    run = folder.RunFolder(tmp_path)
    raised = None
    try:
        with folder.recorded(run, run_record, time.perf_counter() - 5):
            if error is not None:
                raise error
    except BaseException as caught:
        raised = caught
    assert raised is error
    written = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert written["status"] == status
    assert (written["error"] or {}).get("kind") == kind
    assert 5 <= written["seconds"]["total"] < 7
    passed = [(verdict["measured"] is not None, verdict["passed"]) for verdict in written["expectations"]]
    assert passed == ([(True, True), (False, False)] if error is None else [])


def test_seconds_add_up_over_interruptions(run_record: RunRecord, tmp_path: Path) -> None:
    run_record.seconds = {"total": 100.0}
    with folder.recorded(folder.RunFolder(tmp_path), run_record, time.perf_counter()):
        pass
    assert 100 <= run_record.seconds["total"] < 101


def test_default_folders_are_numbered_and_have_simple_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "my photos (2030)"
    assert folder.default_folder(data, "resnet50") == Path("runs/my-photos-2030-resnet50-1")
    for name in ("my-photos-2030-resnet50-1", "my-photos-2030-resnet50-9", "my-photos-2030-resnet50-x", "other-12"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert folder.default_folder(data, "resnet50") == Path("runs/my-photos-2030-resnet50-10")


def test_splits_csv_holds_any_name(draw: Callable, tmp_path: Path) -> None:
    index = source.scan(draw(tmp_path / "data", ['a "b", c', "ö=1"], count=5))
    text = folder.splits_csv(split.make_splits(index, val=0.2, test=0.2), index.classes)
    rows = list(csv.DictReader(text.splitlines()))
    assert {row["label"] for row in rows} == {'a "b", c', "ö=1"}
    assert [row["path"] for row in rows] == [image.path for image in index.images]
    assert "\r" not in text


def test_a_resumed_run_refuses_changed_images(run_record: RunRecord, finished: tuple, tmp_path: Path) -> None:
    recipe = load_recipe(Request(recipe=str(finished[0] / "recipe.yaml")))
    network = choose_network(recipe, measure=measure_in_subprocess)
    plan = prepare(recipe, network, strict=False, observe=ignore).plan
    fewer = replace(plan, splits=replace(plan.splits, train=plan.splits.train[1:]))
    run = folder.RunFolder(tmp_path)
    run.write_start(run_record, plan, resumed=False)
    assert names(tmp_path) == ["recipe.yaml", "run.json", "splits.csv"]
    run.write_start(run_record, plan, resumed=True)
    splits = (tmp_path / "splits.csv").read_bytes()
    run_record.started = "later"
    with pytest.raises(DataError, match="the images have changed"):
        run.write_start(run_record, fewer, resumed=True)
    assert (tmp_path / "splits.csv").read_bytes() == splits == (finished[0] / "splits.csv").read_bytes()
    assert "later" not in (tmp_path / "run.json").read_text(encoding="utf-8")


def test_history_and_decisions_are_written_as_given(tmp_path: Path) -> None:
    run = folder.RunFolder(tmp_path)
    row = dict.fromkeys(folder.HISTORY, 1.5) | {"phase": "a, b", "val_loss": None}
    run.write_history([row, row])
    with (tmp_path / "history.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2
    assert tuple(rows[0]) == folder.HISTORY
    assert (rows[0]["phase"], rows[0]["val_loss"], rows[0]["lr"]) == ("a, b", "", "1.5")
    run.write_decisions([])
    assert (tmp_path / "phases.jsonl").read_text(encoding="utf-8") == ""


def test_finished_runs_inside_stay_after_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def refused_comparison() -> None:
        with folder.own_folder(path, resume=False):
            (path / "compare.json").write_text("{}", encoding="utf-8")
            (path / "compared" / "one").mkdir(parents=True)
            raise DataError("wrong", where="here")

    with pytest.raises(DataError):
        refused_comparison()
    assert names(path) == ["compare.json", "compared"]


@pytest.mark.parametrize("has_links", [True, False])
def test_files_of_a_run_are_linked_or_copied(has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record, lock and folders are left out; an existing file is replaced."""
    source, target = tmp_path / "source", tmp_path / "target"
    for path in (source / "inside", target):
        path.mkdir(parents=True)
    for name in ("run.json", ".lock", "labels.txt", "model.keras"):
        (source / name).write_text(name, encoding="utf-8")
    (target / "labels.txt").write_text("old", encoding="utf-8")
    if not has_links:

        def refuse(*_: object) -> None:
            raise OSError("no hard links")

        monkeypatch.setattr(os, "link", refuse)
    folder.link_files(source, target)
    assert names(target) == ["labels.txt", "model.keras"]
    assert (target / "labels.txt").read_text(encoding="utf-8") == "labels.txt"
    assert (source / "labels.txt").samefile(target / "labels.txt") == has_links
