"""Compare: run several recipes on the same images and keep the best, or put finished runs side by side."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import keras

from tlcli.errors import RunError
from tlcli.paths import replacing
from tlcli.report import comparison, record
from tlcli.report.advice import without_recipes
from tlcli.report.comparison import Candidates
from tlcli.report.record import RunRecord
from tlcli.train.events import FolderMade, Noticed, NoticeOnce, Observer
from tlcli.train.preparation import BackgroundRead
from tlcli.workflows.finetune import finetune
from tlcli.workflows.request import candidate_request, check_request


def run_candidates(
    candidates: Candidates, observe: Observer, *, reading: BackgroundRead | None = None
) -> tuple[Path, RunRecord]:
    """Run every candidate that is not complete, and make the best one the run folder.

    A candidate that fails while training is reported and left out; the others continue.

    Args:
        candidates: What is compared. Their folder exists.
        observe: Receives everything that happens.
        reading: A background read of the images.

    Raises:
        TlcliError: If something is wrong with the images or the machine, or every candidate failed.
    """
    observe(FolderMade(str(candidates.out)))
    failed: dict[str, RunError] = {}
    said: set[str] = set()
    for number, name in enumerate(candidates.names, start=1):
        if candidates.is_complete(name):
            continue
        observe(Noticed(f"recipe {number} of {len(candidates.names)}: {name}"))
        # Keras counts layer names through the whole process and keeps the graphs of former runs.
        keras.backend.clear_session()
        request = candidate_request(candidates, name)
        try:
            # The comparison is resumed as a whole, so the folder of one run is not announced.
            finetune(request, check_request(request), NoticeOnce(observe, said, within_run=True), reading=reading)
        except RunError as error:
            failed[name] = error
            observe(Noticed(f"{name} failed: {error}", is_warning=True))
    done = [candidates.folder(name) for name in candidates.names if candidates.is_complete(name)]
    if not done:
        raise next(iter(failed.values()))
    return candidates.out, _keep_best(candidates.out, done)


def _keep_best(out: Path, runs: Sequence[Path]) -> RunRecord:
    """Put the files of the best run into the run folder; its record, with all runs in it, last."""
    table = comparison.side_by_side(runs)
    best = runs[comparison.best_row(table["runs"])]
    for path in best.iterdir():
        if path.is_file() and path.name not in (".lock", "run.json"):
            with replacing(out / path.name) as temporary:
                _link(path, temporary)
    run = record.read(best)
    run.compared = table["runs"]
    run.advice = without_recipes(run.advice, [row["recipe"] for row in table["runs"]])
    record.write(out, run)
    return run


def _link(path: Path, target: Path) -> None:
    """Give a finished file a second name, or copy it where the disk has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
