"""Tune: search the settings of a recipe by validation images, then score the best once on the test images."""

import shutil
import time
from typing import Any

from tlcli.paths import write_text
from tlcli.recipe import load
from tlcli.report.record import RunRecord
from tlcli.report.tune_page import write_tune_page
from tlcli.train.events import FolderMade, Noticed, NoticeOnce, Observer
from tlcli.train.preparation import BackgroundRead
from tlcli.tune.record import best_recipe, result_of
from tlcli.tune.search import Search, deadline, read_record, write_record
from tlcli.tune.study import ASK, Study, require_ended
from tlcli.workflows.request import Request, check_request


def tune(search: Search, observe: Observer, *, reading: BackgroundRead | None = None) -> dict[str, Any]:
    """Run the trials of a search, or the rest of them, and keep the best. Returns the content of tune.json.

    Args:
        search: The search. Its folder is locked and holds recipe and space.
        observe: Receives every event.
        reading: A background read of the images, if one has started.

    Raises:
        TlcliError: If the images or the machine do not fit the recipe, or no trial ends with a score.
    """
    began, before = time.perf_counter(), read_record(search.out).get("seconds", {}).get("total", 0.0)
    # All trials read the same images, so their warnings are the same.
    observe = NoticeOnce(observe)
    observe(FolderMade(str(search.out)))
    study = Study(search, search.space())
    study.prepare()
    try:
        _run(search, observe, reading)
    finally:
        (search.out / ASK).unlink(missing_ok=True)
        seconds = round(before + time.perf_counter() - began, 2)
        write_record(search, {"status": "interrupted", "seconds": {"total": seconds}})
    rows = study.rows()
    require_ended(rows)
    best = study.ranked()[0]
    write_text(search.best, load.render(best_recipe(study, best)))
    observe(Noticed(f"training the recipe of trial {best} and scoring it on the test images"))
    run = _run_best(search, observe)
    seconds = round(before + time.perf_counter() - began, 2)
    result = write_record(search, result_of(study, run, best, seconds=seconds))
    write_tune_page(search.out, result)
    return result


def _run(search: Search, observe: Observer, reading: BackgroundRead | None) -> None:
    until = deadline(search)
    if search.jobs == 1:
        from tlcli.workflows.trials import run_trials

        # Images that are resized in another way in some trials are read by these trials.
        run_trials(search, observe, until=until, reading=None if search.space().has("data.resize") else reading)
    else:
        from tlcli.workflows.trial_processes import load_quietly, run_in_processes

        run_in_processes(search, observe, until)
        load_quietly()


def _run_best(search: Search, observe: Observer) -> RunRecord:
    """Fine-tune with the best recipe. Steps of its trial come from the result cache."""
    from tlcli.workflows.finetune import finetune

    shutil.rmtree(search.best_run, ignore_errors=True)
    request = Request(str(search.best), strict=search.strict, out=search.best_run, device=search.device)

    def warn_only(event: Any) -> None:
        if isinstance(event, Noticed) and event.is_warning:
            observe(event)

    return finetune(request, check_request(request), warn_only)[1]
