"""Candidates: run several recipes on the same images and keep the best run, as `finetune --compare` does."""

from collections.abc import Sequence
from pathlib import Path

import keras

from tlcli.cluster import connection
from tlcli.errors import RunError
from tlcli.evaluate.run_folder import classifier_file
from tlcli.model import classifier
from tlcli.report import comparison, record
from tlcli.report.advice import without_recipes
from tlcli.report.comparison import Candidates
from tlcli.report.folder import link_files
from tlcli.report.record import RunRecord
from tlcli.report.run_page import write_run_page
from tlcli.train.events import FolderMade, Noticed, NoticeOnce, Observer
from tlcli.train.preparation import BackgroundRead
from tlcli.workflows.finetune import finetune
from tlcli.workflows.request import candidate_request, check_request


def run_candidates(
    candidates: Candidates, observe: Observer, *, reading: BackgroundRead | None = None
) -> tuple[Path, RunRecord]:
    """Run every candidate that is not complete and keep the best. Returns the run folder and its record.

    A candidate that fails in training is reported and left out. The others continue.

    Args:
        candidates: The candidates. Their folder exists.
        observe: Receives every event.
        reading: A background read of the images, if one has started.

    Raises:
        TlcliError: If the images or the machine do not fit the recipes, or every candidate fails.
    """
    observe(FolderMade(str(candidates.out)))
    left = [name for name in candidates.names if not candidates.is_complete(name)]
    if (cluster := connection.current()) is not None:
        from tlcli.workflows.cluster_tasks import run_candidates_on

        failed = run_candidates_on(cluster, candidates, left, observe)
    else:
        failed = _run_here(candidates, left, observe, reading)
    done = [candidates.folder(name) for name in candidates.names if candidates.is_complete(name)]
    if not done:
        raise next(iter(failed.values()))
    return candidates.out, _keep_best(candidates.out, done)


def _run_here(
    candidates: Candidates, names: Sequence[str], observe: Observer, reading: BackgroundRead | None
) -> dict[str, RunError]:
    """Run candidates one after the other. Returns the errors of those that fail in training, by name."""
    failed: dict[str, RunError] = {}
    notices: set[str] = set()
    for name in names:
        observe(Noticed(f"recipe {candidates.names.index(name) + 1} of {len(candidates.names)}: {name}"))
        # The comparison is resumed as a whole, so the folders of its runs are not announced.
        error = run_candidate(candidates, name, NoticeOnce(observe, notices, within_run=True), reading=reading)
        if error is not None:
            failed[name] = error
            observe(Noticed(f"{name} failed: {error}", is_warning=True))
    return failed


def run_candidate(
    candidates: Candidates, name: str, observe: Observer, *, reading: BackgroundRead | None = None
) -> RunError | None:
    """Run one candidate that is not complete. Returns the error if it fails in training.

    Raises:
        TlcliError: If the images or the machine do not fit the recipe.
    """
    # Keras numbers layer names across the whole process and keeps the graphs of earlier runs.
    keras.backend.clear_session()
    request = candidate_request(candidates, name)
    try:
        finetune(request, check_request(request), observe, reading=reading)
    except RunError as error:
        return error
    return None


def _keep_best(out: Path, runs: Sequence[Path]) -> RunRecord:
    """Put the files of the best run into the folder `out`, then its record with a row for every run, and its page."""
    rows = comparison.side_by_side(runs)["runs"]
    best = runs[comparison.best_row(rows)]
    link_files(best, out)
    run = record.read(best)
    run.compared = rows
    run.advice = without_recipes(run.advice, [row["recipe"] for row in rows])
    record.write(out, run)
    if run.recipe["report"]:
        write_run_page(out, classifier=classifier.load(classifier_file(out)))
    return run
