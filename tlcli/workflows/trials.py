"""Trials of a search in one process: each fine-tunes with the values that the study chooses."""

import math
import time
from typing import Any

import keras

from tlcli.errors import DataError, OutputError, RunError, TlcliError
from tlcli.report.record import RunRecord
from tlcli.text import duration
from tlcli.train.events import Advanced, Event, Noticed, Observer
from tlcli.train.preparation import BackgroundRead
from tlcli.tune.search import Search, discard_files
from tlcli.tune.study import Pruner, Study, TrialPruned
from tlcli.workflows.finetune import finetune
from tlcli.workflows.request import Request, check_request


def run_trials(
    search: Search,
    observe: Observer,
    *,
    worker: int = 0,
    until: float | None = None,
    reading: BackgroundRead | None = None,
) -> None:
    """Run trials until there are enough, or the time is over. They never see the test images.

    A trial whose values fit no network or fail in training is recorded with the message, and the next one begins.

    Args:
        search: The search. Its folder and its study exist.
        observe: Receives a `Noticed` for every trial, warnings, and the progress of reading images.
        worker: Number of this process, from 0.
        until: The time after which no trial starts, seconds of `time.monotonic`.
        reading: A background read of the images, if one has started.

    Raises:
        DataError: If the images do not fit the recipe.
        OutputError: If the disk is full.
    """
    study = Study(search, search.space(), worker)
    is_cold = True
    while (until is None or time.monotonic() < until) and (trial := study.ask()):
        steps = _run(study, trial, observe, reading, is_cold=is_cold)
        # Values that fit no network fail before anything is loaded.
        is_cold = is_cold and not steps


def run_next_trial(search: Search, observe: Observer, *, worker: int, until: float | None, is_cold: bool) -> None:
    """Run the next trial if there is one and the time is not over.

    Args:
        search: The search. Its folder and its study exist.
        observe: Receives events as from `run_trials`.
        worker: Number of this trial among those of all processes, from 0.
        until: The time after which no trial starts, seconds of `time.monotonic`.
        is_cold: Whether this process has run no trial before.

    Raises:
        TlcliError: As `run_trials`.
    """
    study = Study(search, search.space(), worker)
    if (until is None or time.monotonic() < until) and (trial := study.ask()):
        _run(study, trial, observe, None, is_cold=is_cold)


def _run(study: Study, trial: Any, observe: Observer, reading: BackgroundRead | None, *, is_cold: bool) -> int:
    """Run a trial and record it. Returns the number of its steps."""
    # Keras numbers layer names across the whole process and keeps the graphs of earlier trials.
    keras.backend.clear_session()
    search = study.search
    began, out = time.perf_counter(), search.trial(trial.number + 1)
    settings = tuple(study.space.settings(trial.params))
    request = Request(
        str(search.recipe), settings, strict=search.strict, out=out, device=search.device, hides_test=True
    )
    pruner = Pruner(trial, search.metric)
    facts: dict[str, Any] = {"message": ""}
    try:
        _, run = finetune(request, check_request(request), _Trial(pruner, observe), reading=reading)
        facts |= _scores(run)
    except TrialPruned as error:
        facts |= {"pruned": True, "message": error.message, search.metric: pruner.best}
    except (DataError, OutputError):
        raise
    except TlcliError as error:
        facts |= {"message": str(error)}
    facts |= {"seconds": round(time.perf_counter() - began, 2), "cold": is_cold, "steps": pruner.steps}
    study.end(trial, facts.get(search.metric), facts)
    discard_files(search, study.losers())
    observe(Noticed(_line(study, trial.number + 1)))
    return pruner.steps


class _Trial:
    """An observer of one trial: prunes, and passes on warnings and the progress of reading images."""

    def __init__(self, prune: Pruner, observer: Observer) -> None:
        self.prune, self.observer = prune, observer

    def __call__(self, event: Event) -> None:
        self.prune(event)
        if isinstance(event, Advanced) or (isinstance(event, Noticed) and event.is_warning):
            self.observer(event)


def _scores(run: RunRecord) -> dict[str, Any]:
    """The validation scores of a run.

    Raises:
        RunError: If they are not finite.
    """
    scores = run.scores["val"]
    if not math.isfinite(scores["loss"]):
        raise RunError(f"the validation loss is {scores['loss']}", where=run.recipe["name"])
    return {"val_loss": scores["loss"], "val_accuracy": scores["accuracy"], "size": run.model["size"]}


def _line(study: Study, number: int) -> str:
    """What a trial came to, in one line."""
    rows = study.rows()
    row = next(row for row in rows if row["trial"] == number)
    ranked, search = study.ranked(), study.search
    if row["state"] == "complete":
        text = f"val_loss {row['val_loss']:.4f}  val_acc {row['val_accuracy']:.3f}"
    else:
        text = f"{row['state']}: {row['message']}"
    best = "  best so far" if ranked[:1] == [number] else ""
    # Numbers have gaps where trials were cut off.
    width = len(str(search.trials))
    return f"{len(rows):>{width}} of {search.trials}  trial {number:<{width}}  {text}  {duration(row['seconds'])}{best}"
