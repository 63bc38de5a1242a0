"""Fine-tune: train by a recipe and write a run folder."""

import time
from pathlib import Path

from tlcli.model import classifier, graph, hosts
from tlcli.model.devices import use_device
from tlcli.model.metadata import origin_of
from tlcli.report import record
from tlcli.report.advice import advise
from tlcli.report.folder import RunFolder, RunWriter, own_folder, recorded, recorded_split
from tlcli.report.scores import record_scores
from tlcli.report.session_page import session_report
from tlcli.train import folds, phases
from tlcli.train.budget import budget_of
from tlcli.train.checkpoint import Checkpoint
from tlcli.train.depth_probe import build_backbone, search_depth
from tlcli.train.events import FolderMade, Noticed, Observer, warn
from tlcli.train.preparation import BackgroundRead, Prepared, output_bytes, prepare
from tlcli.train.session import Session, open_session
from tlcli.workflows.request import Request, baseline_of, choice_of, network_of, output_folder, placed, visible
from tlcli.workflows.teacher import with_teacher
from tlcli.zoo.resolve import ResolvedRecipe


def finetune(
    request: Request, resolved: ResolvedRecipe, observe: Observer, *, reading: BackgroundRead | None = None
) -> tuple[Path, record.RunRecord]:
    """Fine-tune, or resume an interrupted run. Returns the run folder and its record.

    Args:
        request: The request.
        resolved: Its recipe, from `check_request`.
        observe: Receives every event.
        reading: A background read of the images, if one has started.

    Raises:
        TlcliError: If the images, the network or the machine do not fit the request, or training fails.
    """
    began, recipe, baseline = time.perf_counter(), resolved.recipe, baseline_of(request)
    warn(observe, resolved.notices)
    with placed(request), use_device(request.device, joins_hosts=request.joins_hosts) as device:
        network = network_of(request, recipe, measure=graph.measure_groups)
        saved = Checkpoint(request.resume).read() if request.resume else None
        # Built before the images are read: wrong weights fail at once. A checkpoint has the weights of its run.
        backbone = build_backbone(recipe, network, weights="random" if saved else None, observe=observe)
        earlier = recorded_split(request.resume or request.same_split_as)
        prepared = prepare(recipe, network, strict=request.strict, observe=observe, reading=reading, recorded=earlier)
        prepared, backbone, depth = search_depth(visible(request, prepared), backbone, network, observe)
        prepared = with_teacher(prepared, observe)
        out, plan = output_folder(request, prepared.plan), prepared.plan
        with own_folder(out, resume=request.resume is not None, need_bytes=output_bytes(plan)) as folder:
            observe(FolderMade(str(out)))
            run = record.begin_record(plan, device, notices=resolved.notices, depth=depth, baseline=baseline)
            if request.resume:
                record.carry_over(run, record.read(out), taken_s=saved.state["taken_s"] if saved else 0.0)
            with recorded(folder, run, began), hosts.explained():
                run.model |= backbone.weights_record | choice_of(request) if saved is None else {}
                folder.write_start(run, plan, resumed=saved is not None)
                budget = budget_of(recipe.performance.budget, resolved.began, spent_s=run.seconds.get("total", 0.0))
                session = open_session(prepared, backbone, Checkpoint(out), device=device, budget=budget)
                session.observe = RunWriter(session, folder, observe)
                (folds if session.folds else phases).run(session, saved=saved)
                _finish(session, prepared, folder, run)
            session_report(session, prepared, out)
    return out, run


def _finish(session: Session, prepared: Prepared, folder: RunFolder, run: record.RunRecord) -> None:
    """Calibrate, score, save the classifier and complete the record."""
    session.observe(Noticed("scoring and saving"))
    record_scores(run, session, prepared, folder)
    origin, facts = origin_of(session.recipe, run.model["card"]), record.training_facts(run)
    run.model["sha256"] = folder.write_classifier(lambda path: classifier.save(session.classifier, path, origin, facts))
    folder.write_labels(session.classifier.classes)
    record.close_record(run, session)
    if advice := advise(run, folder.path):
        run.advice = advice.to_json()
    session.checkpoint.remove()
