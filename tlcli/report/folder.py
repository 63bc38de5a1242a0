"""The run folder: made, locked and written; every file in it appears by rename."""

import csv
import errno
import io
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tlcli.data.split import Splits
from tlcli.errors import DataError, OutputError, TlcliError, UsageError
from tlcli.paths import write_json, write_text
from tlcli.recipe import expect
from tlcli.report.record import COMPARISON, RunRecord, read
from tlcli.train import policy

RUNS = Path("runs")
HISTORY = ("phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds", "images_per_second")


# The exit code of errors that mean: nothing was started.
WRONG = UsageError.exit_code


class RunFolder:
    """A run folder while its run owns it. Every file appears by rename."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_record(self, record: RunRecord) -> None:
        """run.json."""
        write_json(self.path / "run.json", asdict(record))

    def write_decisions(self, outcomes: Iterable[policy.Outcome]) -> None:
        """phases.jsonl."""
        lines = (json.dumps(policy.record(outcome), ensure_ascii=False) + "\n" for outcome in outcomes)
        write_text(self.path / "phases.jsonl", "".join(lines))

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """history.csv."""
        write_text(self.path / "history.csv", _csv(HISTORY, ([row[key] for key in HISTORY] for row in rows)))

    def write_start(self, record: RunRecord, recipe: str, splits_text: str, *, resumed: bool) -> None:
        """What is known before training. A resumed run must find the images as it left them.

        Raises:
            DataError: If images were added, removed or changed since the run began.
        """
        splits = self.path / "splits.csv"
        if resumed and splits.read_text(encoding="utf-8") != splits_text:
            raise DataError(
                "the images have changed since the run began",
                where=str(splits),
                hint="Restore them, or start a new run: mixing the two would let test images into training.",
            )
        self.write_record(record)
        write_text(self.path / "recipe.yaml", recipe)
        write_text(splits, splits_text)


def splits_csv(splits: Splits, classes: Sequence[str]) -> str:
    """The text of splits.csv: path, label, split, sha256."""
    rows = ((image.path, classes[image.label], split, image.sha256) for image, split in splits.rows())
    return _csv(["path", "label", "split", "sha256"], rows)


def default_folder(data: Path, model: str) -> Path:
    """The first free `runs/<data>-<model>-<n>`."""
    plain = (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") for name in (data.resolve().name, model))
    stem = "-".join(filter(None, plain))
    taken = (int(found[1]) for path in RUNS.glob(f"{stem}-*") if (found := re.fullmatch(r".*-(\d+)", path.name)))
    return RUNS / f"{stem}-{max(taken, default=0) + 1}"


@contextmanager
def recorded(run: RunFolder, record: RunRecord, began: float) -> Iterator[None]:
    """Close the record whatever happens: complete, failed with its error, or interrupted. `began` is perf_counter's."""
    try:
        yield
    except TlcliError as error:
        # What was refused before anything was trained leaves the run as it was: resumable.
        record.status = "interrupted" if error.exit_code == WRONG else "failed"
        record.error = {"kind": error.kind, "where": error.where, "message": error.message}
        raise
    except Exception as error:
        record.status, record.error = "failed", {"kind": "internal", "where": "", "message": repr(error)}
        raise
    else:
        record.status = "complete"
    finally:
        before = record.seconds.get("total", 0.0)
        record.seconds["total"] = round(before + time.perf_counter() - began, 2)
        if record.status == "complete":
            verdicts = expect.check(record.recipe["expect"], asdict(record))
            record.expectations = [verdict.to_json() for verdict in verdicts]
        run.write_record(record)


@contextmanager
def owned(path: Path, *, resume: bool, need_bytes: int = 0) -> Iterator[RunFolder]:
    """Create the run folder, or enter an unfinished one, and hold its lock until done.

    Where what was asked turns out to be wrong (exit code 2), a new folder is removed again, unless it has come to hold
    others: what is finished stays.

    Raises:
        OutputError: If it cannot be made or written, already exists, is full, or belongs to a run in progress.
    """
    made = [] if resume else _make(path)
    with _locked(path):
        try:
            _require_room(path, need_bytes)
            yield RunFolder(path)
        except TlcliError as error:
            if not resume and error.exit_code == WRONG and not any(entry.is_dir() for entry in path.iterdir()):
                _unmake(path, made)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            "a run is in progress in this folder", where=str(path), hint="Wait for it, or choose another --out."
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()
        (path / ".lock").unlink(missing_ok=True)


def require_idle(path: Path) -> None:
    """Refuse a run folder that a living process owns.

    Raises:
        OutputError: If there is one.
    """
    with _locked(path):
        pass


def require_new(path: Path) -> None:
    """Refuse a run folder that holds something.

    Raises:
        OutputError: If there is a file, or a folder that is not empty.
    """
    if path.is_dir() and any(path.iterdir()):
        has_record = (path / "run.json").is_file()
        unfinished = read(path).status == "interrupted" if has_record else (path / COMPARISON).is_file()
        hint = (
            f"Continue it with --resume {shlex.quote(str(path))}, or choose another --out."
            if unfinished
            else "Choose another --out."
        )
        raise OutputError("the run folder already exists and is not empty", where=str(path), hint=hint)
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise OutputError("is a file, and the run needs a folder", where=str(nearest), hint="Choose another --out.")
    if not os.access(nearest, os.W_OK):
        raise OutputError("cannot be written", where=str(nearest), hint="Choose another --out, or set the rights.")


def _make(path: Path) -> list[Path]:
    """Make the folder; returns what had to be made, deepest first."""
    require_new(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".write-test"
        probe.write_bytes(b"\0" * 65536)
        probe.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error
    return missing


def _require_room(path: Path, need_bytes: int) -> None:
    free = shutil.disk_usage(path).free
    if free < need_bytes:
        raise OutputError(
            f"the disk has {free / 1e6:.0f} MB left, the run needs about {need_bytes / 1e6:.0f} MB",
            where=str(path),
            hint="Free some space or choose another --out.",
        )


def _unmake(path: Path, made: Sequence[Path]) -> None:
    """Remove what a refused run wrote and the folders made for it."""
    for entry in path.iterdir():
        if entry.is_file():
            entry.unlink()
    for folder in made:
        if not any(folder.iterdir()):
            folder.rmdir()


def _unwritable(path: Path, error: OSError) -> OutputError:
    what = "the disk is full" if error.errno == errno.ENOSPC else f"cannot be written ({error.strerror or error})"
    return OutputError(what, where=str(path), hint="Choose another --out, or free space and set the rights.")


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
