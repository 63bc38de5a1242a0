"""The run folder: creating, locking and writing it. Every file in it appears by rename."""

import csv
import errno
import io
import json
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tlcli.data.hashes import content_hash
from tlcli.data.manifest import is_manifest
from tlcli.data.split import Splits
from tlcli.errors import DataError, OutputError, TlcliError, UsageError
from tlcli.evaluate.run_folder import COMPARISON
from tlcli.paths import replacing, write_text
from tlcli.recipe import expectation
from tlcli.recipe.load import render
from tlcli.report import record
from tlcli.report.record import RunRecord
from tlcli.train import policy
from tlcli.train.events import EpochDone, Event, Observer, StepDone
from tlcli.train.plan import TrainPlan

if TYPE_CHECKING:
    # This module loads Keras. `tlcli plan` imports the run folder, and must not load it.
    from tlcli.train.session import Session

RUNS = Path("runs")
HISTORY = ("phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds", "images_per_second")
# The exit code of errors that are reported before training starts.
USAGE_EXIT_CODE = UsageError.exit_code


class RunFolder:
    """Writes the files of a run folder that this process has locked. Every file appears by rename."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_start(self, run: RunRecord, plan: TrainPlan, *, resumed: bool) -> None:
        """Write run.json, recipe.yaml and splits.csv. The images of a resumed run must be unchanged.

        Raises:
            DataError: If images were added, removed or changed since the run began.
        """
        splits, text = self.path / "splits.csv", splits_csv(plan.splits, plan.classes)
        if resumed and splits.read_text(encoding="utf-8") != text:
            raise DataError(
                "the images have changed since the run began",
                where=str(splits),
                hint="Restore them, or start a new run. With other images, test images could get into training.",
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
        write_text(self.path / "history.csv", csv_text(HISTORY, ([row[key] for key in HISTORY] for row in rows)))

    def write_labels(self, classes: Sequence[str]) -> None:
        """Write labels.txt: one class name per line."""
        write_text(self.path / "labels.txt", "".join(f"{name}\n" for name in classes))

    def write_predictions(self, text: str) -> None:
        """Write predictions.csv: one line per validation and test image."""
        write_text(self.path / "predictions.csv", text)

    def write_classifier(self, save: Callable[[Path], None]) -> str:
        """Have model.keras written by `save`. Returns its sha256."""
        file = self.path / "model.keras"
        save(file)
        return content_hash(file)


@dataclass(frozen=True)
class RunWriter:
    """An observer that keeps history.csv and phases.jsonl up to date and passes every event on.

    Attributes:
        session: The session that is observed.
        folder: The run folder.
        observer: Receives every event.
    """

    session: "Session"
    folder: RunFolder
    observer: Observer

    def __post_init__(self) -> None:
        self.folder.write_history(self.session.history)
        self.folder.write_decisions(self.session.outcomes)

    def __call__(self, event: Event) -> None:
        """Write the new epochs and decisions, then pass the event on."""
        # The epochs of a cached step arrive together, with its StepDone.
        if isinstance(event, (EpochDone, StepDone)):
            self.folder.write_history(self.session.history)
        if isinstance(event, StepDone):
            self.folder.write_decisions(self.session.outcomes)
        self.observer(event)


def link_files(source: Path, target: Path) -> None:
    """Put the files of a finished run, other than its record and lock, into another run folder, by rename.

    Files are hard-linked, or copied if the disk has no hard links.
    """
    for path in source.iterdir():
        if path.is_file() and path.name not in (".lock", "run.json"):
            with replacing(target / path.name) as temporary:
                temporary.unlink(missing_ok=True)
                try:
                    os.link(path, temporary)
                except OSError:
                    shutil.copyfile(path, temporary)


def splits_csv(splits: Splits, classes: Sequence[str]) -> str:
    """The text of splits.csv: one line per image with path, label, split, sha256, and with folds its fold, from 1."""
    rows = ((image.path, classes[image.label], split, image.sha256) for image, split in splits.rows())
    if not splits.folds:
        return csv_text(["path", "label", "split", "sha256"], rows)
    fold_of = {image.path: fold + 1 for image, fold in zip(splits.train, splits.folds, strict=True)}
    return csv_text(["path", "label", "split", "sha256", "fold"], ((*row, fold_of.get(row[0], "")) for row in rows))


def read_splits(run: Path, split: str) -> list[dict[str, str]]:
    """The rows of one split in splits.csv, with `path`, `label`, `split` and `sha256`."""
    with (run / "splits.csv").open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["split"] == split]


def recorded_split(run: Path | None) -> dict[str, str] | None:
    """Content (sha256) to split in splits.csv; None without a run, or before the run has written the file."""
    if run is None or not (run / "splits.csv").is_file():
        return None
    with (run / "splits.csv").open(encoding="utf-8", newline="") as stream:
        return {row["sha256"]: row["split"] for row in csv.DictReader(stream)}


def default_folder(data: Path, model: str) -> Path:
    """The run folder `runs/<data>-<model>-<n>` with `n` one above the highest in use."""
    plain = (
        re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
        for name in (data.resolve().stem if is_manifest(data) else data.resolve().name, model)
    )
    stem = "-".join(filter(None, plain))
    taken = (int(match[1]) for path in RUNS.glob(f"{stem}-*") if (match := re.fullmatch(r".*-(\d+)", path.name)))
    return RUNS / f"{stem}-{max(taken, default=0) + 1}"


@contextmanager
def recorded(folder: RunFolder, run: RunRecord, began: float) -> Iterator[None]:
    """Write the record at the end, also after an error. The status becomes complete, failed or interrupted.

    Args:
        folder: The run folder.
        run: The record of the run.
        began: Start of the run in this process, seconds on `time.perf_counter`.
    """
    try:
        yield
    except TlcliError as error:
        # An error that stops the run before training leaves it resumable.
        run.status = "interrupted" if error.exit_code == USAGE_EXIT_CODE else "failed"
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
    """Create a run folder, or open an unfinished one, and lock it.

    If the run is refused (exit code 2), a new folder is removed, unless it contains folders, such as finished runs of a
    comparison.

    Args:
        path: The run folder.
        resume: True to open an unfinished folder instead of creating one.
        need_bytes: Disk space that the run needs.

    Raises:
        OutputError: If the folder cannot be created or written, already exists, belongs to a run in progress, or the
            disk space is too small.
    """
    created = [] if resume else _create(path)
    with _locked(path):
        try:
            require_disk_space(path, need_bytes)
            yield RunFolder(path)
        except TlcliError as error:
            is_refused = error.exit_code == USAGE_EXIT_CODE
            if not resume and is_refused and not any(entry.is_dir() for entry in path.iterdir()):
                _remove(path, created)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a run folder."""
    lock = FileLock(path / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            "a run is in progress in this folder", where=str(path), hint="Wait for its end, or choose another --out."
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()
        (path / ".lock").unlink(missing_ok=True)


def require_idle(path: Path) -> None:
    """Check that no other process has locked a run folder.

    Raises:
        OutputError: If a run is in progress there.
    """
    with _locked(path):
        pass


def require_new(path: Path) -> None:
    """Check that a new run folder can be created, or is an empty folder.

    Raises:
        OutputError: If the folder is not empty, a file is in its place, or its parent cannot be written.
    """
    if path.is_dir() and any(path.iterdir()):
        has_record = (path / "run.json").is_file()
        is_unfinished = record.read(path).status == "interrupted" if has_record else (path / COMPARISON).is_file()
        resume = f"Resume it with --resume {shlex.quote(str(path))}, or choose another --out."
        hint = resume if is_unfinished else "Choose another --out."
        raise OutputError("the run folder already exists and is not empty", where=str(path), hint=hint)
    nearest = _nearest(path)
    if not nearest.is_dir():
        raise OutputError("is a file, not a folder", where=str(nearest), hint="Choose another --out.")
    if not os.access(nearest, os.W_OK):
        raise OutputError(
            "cannot be written", where=str(nearest), hint="Choose another --out, or change the permissions."
        )


def _create(path: Path) -> list[Path]:
    """Create a folder and check that it can be written. Returns all created folders, deepest first."""
    require_new(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"\0" * 65536)
    except OSError as error:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise _unwritable(path, error) from error
    return missing


def require_disk_space(path: Path, need_bytes: int) -> None:
    """Check that the disk has space for a run folder, which may not be there yet.

    Raises:
        OutputError: If it is too small.
    """
    free = shutil.disk_usage(_nearest(path)).free
    if free < need_bytes:
        raise OutputError(
            f"the disk has {free / 1e6:.0f} MB left, the run needs about {need_bytes / 1e6:.0f} MB",
            where=str(path),
            hint="Free disk space, or choose another --out.",
        )


def _nearest(path: Path) -> Path:
    """The path, or the nearest of the folders above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _remove(path: Path, created: Sequence[Path]) -> None:
    """Remove the files of a refused run and the folders that were created for it."""
    for entry in path.iterdir():
        if entry.is_file():
            entry.unlink()
    for folder in created:
        if not any(folder.iterdir()):
            folder.rmdir()


def _unwritable(path: Path, error: OSError) -> OutputError:
    what = "the disk is full" if error.errno == errno.ENOSPC else f"cannot be written ({error.strerror or error})"
    return OutputError(what, where=str(path), hint="Choose another --out, free disk space, or change the permissions.")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A header and rows as the text of a CSV file with Unix line endings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
