"""Best: climb the ladder of `quality: best`, and make one classifier of the runs that predict better together."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras

from tlcli.errors import ModelError, RunError
from tlcli.evaluate.run_folder import classifier_file
from tlcli.evaluate.runtimes import open_model
from tlcli.model import classifier
from tlcli.model.devices import use_device
from tlcli.paths import write_text
from tlcli.recipe import expectation
from tlcli.recipe.fields import seconds_of
from tlcli.recipe.load import render
from tlcli.recipe.schema import Recipe
from tlcli.report import comparison, record
from tlcli.report.comparison import Candidates
from tlcli.report.ensemble_run import SplitPredictions, predict_split, write_ensemble
from tlcli.report.folder import link_files
from tlcli.report.record import RunRecord
from tlcli.report.run_page import write_run_page
from tlcli.text import duration
from tlcli.train import ladder
from tlcli.train.calibration import fit_temperature, score_probabilities
from tlcli.train.ensemble_choice import Choice, choose, mean
from tlcli.train.events import FolderMade, Noticed, NoticeOnce, Observer
from tlcli.train.ladder import Climbed, Rung
from tlcli.train.preparation import BackgroundRead
from tlcli.workflows.choose_network import probe_one
from tlcli.workflows.finetune import finetune
from tlcli.workflows.request import Request, candidate_request, check_request
from tlcli.zoo import default


@dataclass(frozen=True)
class _Done:
    """A finished rung, its run folder, and what it says of the validation images."""

    climbed: Climbed
    folder: Path
    predictions: SplitPredictions


@dataclass
class _Climb:
    """What the rungs share.

    Attributes:
        candidates: The rungs that have begun. Their folder exists.
        recipe: The recipe that is asked for.
        observe: Receives every event.
        reading: A background read of the images, if one has started.
        notices: Notices that have been passed on.
        other_s: Seconds spent on probes and on rungs that failed.
    """

    candidates: Candidates
    recipe: Recipe
    observe: Observer
    reading: BackgroundRead | None
    notices: set[str] = field(default_factory=set)
    other_s: float = 0.0


def climb(
    candidates: Candidates, recipe: Recipe, observe: Observer, *, reading: BackgroundRead | None = None
) -> tuple[Path, RunRecord]:
    """Climb the ladder, or what is left of it. Returns the run folder and its record.

    A rung that fails in training, or whose network does not fit, is reported and left out, unless it is the first.

    Args:
        candidates: The rungs that have begun. Their folder exists and is locked.
        recipe: The recipe that is asked for.
        observe: Receives every event.
        reading: A background read of the images, if one has started.

    Raises:
        TlcliError: If the images or the machine do not fit the recipe, or the first rung fails.
    """
    observe(FolderMade(str(candidates.out)))
    state, done, left_out = _Climb(candidates, recipe, observe, reading), list[_Done](), set[str]()
    networks = default.others_installed(recipe.model)
    while rung := ladder.next_rung(
        recipe, [one.climbed for one in done], networks, left_out=left_out, left_s=_left_s(state, done)
    ):
        began = time.perf_counter()
        try:
            is_done = _run(state, rung, done)
        except (RunError, ModelError) as error:
            if not done:
                raise
            observe(Noticed(f"{rung.name} failed: {error}", is_warning=True))
            is_done = False
        state.other_s += time.perf_counter() - began
        if is_done:
            done.append(_judge(candidates.folder(rung.name), rung))
            state.other_s = max(state.other_s - done[-1].climbed.seconds, 0.0)
            _report(done, observe)
        else:
            left_out.add(rung.name)
    return candidates.out, _finish(candidates, recipe, done, observe)


def _left_s(state: _Climb, done: Sequence[_Done]) -> float | None:
    """Seconds of the time budget that are left; None without a budget."""
    budget = state.recipe.performance.budget
    return None if budget is None else seconds_of(budget) - state.other_s - sum(one.climbed.seconds for one in done)


def _run(state: _Climb, rung: Rung, done: Sequence[_Done]) -> bool:
    """Run a rung, or what is left of it. False if its probe says that it is not worth it."""
    candidates = state.candidates
    if rung.name not in candidates.names:
        left_s = _left_s(state, done)
        budget = () if left_s is None else (f"performance.budget={left_s:.0f}s",)
        state.candidates = comparison.add_candidate(candidates, rung.name, (*rung.settings, *budget, "report=false"))
    if candidates.is_complete(rung.name):
        return True
    state.observe(Noticed(f"rung {len(done) + 1}, {rung.name}: {rung.reason}"))
    # Keras numbers layer names across the whole process and keeps the graphs of earlier runs.
    keras.backend.clear_session()
    request = candidate_request(state.candidates, rung.name)
    # The time budget of the rung begins here, with its probe.
    resolved = check_request(request)
    within = NoticeOnce(state.observe, state.notices, within_run=True)
    if rung.needs_probe and request.resume is None and not _has_better_probe(request, state, done):
        return False
    finetune(request, resolved, within, reading=state.reading)
    return True


def _has_better_probe(request: Request, state: _Climb, done: Sequence[_Done]) -> bool:
    """True if the linear probe of a rung is better than that of the best so far. Its features stay in the cache."""
    best = done[[one.climbed for one in done].index(ladder.best_so_far([one.climbed for one in done]))]
    first = record.read(best.folder).phases[0]
    if first["epochs"]:
        return True
    with use_device(request.device):
        probed = probe_one(request, NoticeOnce(state.observe, state.notices), state.reading)
    keras.backend.clear_session()
    is_better = probed.val_loss < first["val_loss"]
    told = f"linear probe: val_loss {probed.val_loss:.4f}, {best.climbed.rung.name} {first['val_loss']:.4f}"
    state.observe(Noticed(told if is_better else f"{told}; left out"))
    return is_better


def _judge(folder: Path, rung: Rung) -> _Done:
    """A finished rung with its predictions for the validation images."""
    predictions, run = predict_split(folder, "val", open_model(folder)), record.read(folder)
    if predictions is None:
        raise RuntimeError(f"{folder} has no validation images")
    scores = score_probabilities(predictions.probabilities, predictions.labels)
    losses, hits, certainties = (values.tolist() for values in (scores.losses, scores.hits, scores.certainties))
    size = (run.model["size"][0], run.model["size"][1])
    return _Done(Climbed(rung, losses, hits, certainties, size, run.seconds["total"]), folder, predictions)


def _report(done: Sequence[_Done], observe: Observer) -> None:
    """Say what the last rung is worth."""
    last = done[-1].climbed
    scores = f"val_loss {last.loss:.4f}  val_acc {last.accuracy:.3f}  {duration(last.seconds)}"
    if len(done) == 1:
        verdict = "the rung to beat"
    else:
        before = ladder.best_so_far([one.climbed for one in done[:-1]])
        verdict = ladder.verdict(before, last)
    observe(Noticed(f"{last.rung.name}  {scores}  {verdict}"))


def _finish(candidates: Candidates, recipe: Recipe, done: Sequence[_Done], observe: Observer) -> RunRecord:
    """Choose the result, and write its files, record and page."""
    out = candidates.out
    climbed = [one.climbed for one in done]
    probabilities, labels = [one.predictions.probabilities for one in done], done[0].predictions.labels
    choice = choose(probabilities, labels, first=climbed.index(ladder.best_so_far(climbed)))
    members = [done[index].folder for index in choice.members]
    observe(Noticed(f"result: {' + '.join(member.name for member in members)}"))
    keras.backend.clear_session()
    if len(members) > 1:
        temperature = fit_temperature(mean([probabilities[index] for index in choice.members]), labels)
        run = write_ensemble(out, members, temperature=temperature)
    else:
        link_files(members[0], out)
        run = record.read(members[0])
    write_text(out / "recipe.yaml", render(recipe))
    run.recipe |= recipe.model_dump(mode="json", include={"name", "description", "quality", "expect", "report"})
    if candidates.chosen_from:
        run.model["chosen_from"] = list(candidates.chosen_from)
    run.compared = _rows(done, choice)
    run.seconds["total"] = round(sum(one.climbed.seconds for one in done), 2)
    run.expectations = [verdict.to_json() for verdict in expectation.check(recipe.expect, asdict(run))]
    record.write(out, run)
    if recipe.report:
        write_run_page(out, classifier=classifier.load(classifier_file(out)))
    return run


def _rows(done: Sequence[_Done], choice: Choice) -> list[dict[str, object]]:
    """A row for each rung: the columns of a comparison, its name as its recipe, and whether it is in the result."""
    rows = comparison.side_by_side([one.folder for one in done])["runs"]
    return [
        row | {"recipe": one.climbed.rung.name, "in_result": index in choice.members}
        for index, (row, one) in enumerate(zip(rows, done, strict=True))
    ]
