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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tlcli.data.source import content_hash
from tlcli.data.split import Splits
from tlcli.errors import DataError, OutputError, TlcliError, UsageError
from tlcli.paths import write_text
from tlcli.recipe import expectation
from tlcli.recipe.load import render
from tlcli.report import record
from tlcli.report.record import COMPARISON, RunRecord, read
from tlcli.train import policy
from tlcli.train.events import EpochDone, Event, Observer, StepDone
from tlcli.train.plan import TrainPlan

if TYPE_CHECKING:
    # Only named: a session loads Keras.
    from tlcli.train.session import Session

RUNS = Path("runs")
HISTORY = ("phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds", "images_per_second")


# The exit code of errors that mean: nothing was started.
WRONG = UsageError.exit_code


class RunFolder:
    """A run folder that this process owns. Every file appears by rename."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_start(self, run: RunRecord, plan: TrainPlan, *, resumed: bool) -> None:
        """Write run.json, recipe.yaml and splits.csv. A resumed run must find the images as it left them.

        Raises:
            DataError: If images were added, removed or changed since the run began.
        """
        splits, text = self.path / "splits.csv", splits_csv(plan.splits, plan.classes)
        if resumed and splits.read_text(encoding="utf-8") != text:
            raise DataError(
                "the images have changed since the run began",
                where=str(splits),
                hint="Restore them, or start a new run: mixing the two would let test images into training.",
            )
        record.write(self.path, run)
        write_text(self.path / "recipe.yaml", render(plan.recipe))
        write_text(splits, text)

    def write_decisions(self, outcomes: Iterable[policy.Outcome]) -> None:
        """Write phases.jsonl: one line per decision."""
        lines = (json.dumps(policy.record(outcome), ensure_ascii=False) + "\n" for outcome in outcomes)
        write_text(self.path / "phases.jsonl", "".join(lines))

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write history.csv: one line per epoch."""
        write_text(self.path / "history.csv", _csv(HISTORY, ([row[key] for key in HISTORY] for row in rows)))

    def write_labels(self, classes: Sequence[str]) -> None:
        """Write labels.txt: one class name per line."""
        write_text(self.path / "labels.txt", "".join(f"{name}\n" for name in classes))

    def write_classifier(self, save: Callable[[Path], None]) -> str:
        """Have model.keras written by `save`. Returns its sha256."""
        file = self.path / "model.keras"
        save(file)
        return content_hash(file)


@dataclass(frozen=True)
class RunWriter:
    """An observer that keeps history.csv and phases.jsonl up to date and passes every event on."""

    session: "Session"
    folder: RunFolder
    pass_on: Observer

    def __post_init__(self) -> None:
        self.folder.write_history(self.session.history)
        self.folder.write_decisions(self.session.outcomes)

    def __call__(self, event: Event) -> None:
        """Write what the event adds, then pass it on."""
        # The epochs of a step from the result cache arrive with the end of the step.
        if isinstance(event, (EpochDone, StepDone)):
            self.folder.write_history(self.session.history)
        if isinstance(event, StepDone):
            self.folder.write_decisions(self.session.outcomes)
        self.pass_on(event)


def splits_csv(splits: Splits, classes: Sequence[str]) -> str:
    """The text of splits.csv: path, label, split, sha256."""
    rows = ((image.path, classes[image.label], split, image.sha256) for image, split in splits.rows())
    return _csv(["path", "label", "split", "sha256"], rows)


def read_splits(run: Path, split: str) -> list[dict[str, str]]:
    """The rows of splits.csv of one split: `path`, `label`, `split`, `sha256`."""
    with (run / "splits.csv").open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["split"] == split]


def default_folder(data: Path, model: str) -> Path:
    """The first free `runs/<data>-<model>-<n>`."""
    plain = (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") for name in (data.resolve().name, model))
    stem = "-".join(filter(None, plain))
    taken = (int(found[1]) for path in RUNS.glob(f"{stem}-*") if (found := re.fullmatch(r".*-(\d+)", path.name)))
    return RUNS / f"{stem}-{max(taken, default=0) + 1}"


@contextmanager
def recorded(folder: RunFolder, run: RunRecord, began: float) -> Iterator[None]:
    """Complete the record whatever happens. The status becomes complete, failed or interrupted.

    Args:
        folder: The run folder.
        run: Its record.
        began: When this process began the run, seconds on `time.perf_counter`.
    """
    try:
        yield
    except TlcliError as error:
        # An error that stops the run before training leaves it resumable.
        run.status = "interrupted" if error.exit_code == WRONG else "failed"
        run.error = {"kind": error.kind, "where": error.where, "message": error.message}
        raise
    except Exception as error:
        run.status, run.error = "failed", {"kind": "internal", "where": "", "message": repr(error)}
        raise
    else:
        run.status = "complete"
    finally:
        before = run.seconds.get("total", 0.0)
        run.seconds["total"] = round(before + time.perf_counter() - began, 2)
        if run.status == "complete":
            verdicts = expectation.check(run.recipe["expect"], asdict(run))
            run.expectations = [verdict.to_json() for verdict in verdicts]
        record.write(folder.path, run)


@contextmanager
def own_folder(path: Path, *, resume: bool, need_bytes: int = 0) -> Iterator[RunFolder]:
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
