"""The story of a run, from recipe to record, top to bottom."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from tlcli.evaluate import metrics
from tlcli.model import backbone, classifier, measure
from tlcli.paths import write_text
from tlcli.prepare import Prepared, Request, output_bytes, output_folder, prepare, recipe_of
from tlcli.recipe.load import render
from tlcli.report import folder, record
from tlcli.report.folder import RunFolder
from tlcli.report.record import RunRecord
from tlcli.train import checkpoint, device, phases, session
from tlcli.train.events import EpochDone, Event, FolderMade, Noticed, Observer, StepDone


def finetune(request: Request, observe: Observer) -> tuple[Path, RunRecord]:
    """Fine-tune as asked, or take up an unfinished run. Returns the run folder and its record.

    Raises:
        TlcliError: If something is wrong with what was asked, the images, the network or the machine.
    """
    began = time.perf_counter()
    recipe = recipe_of(request)
    with device.use(request.device, recipe.performance.precision) as machine:
        prepared = prepare(recipe, measure=measure.layer_groups, strict=request.strict, observe=observe)
        out = output_folder(request, prepared.plan)
        with folder.owned(out, resume=request.resume is not None, need_bytes=output_bytes(prepared.plan)) as run:
            observe(FolderMade(str(out)))
            note = record.begun(prepared.plan, machine)
            with folder.recorded(run, note, began):
                _train(prepared, run, note, observe=observe)
    return out, note


def _train(prepared: Prepared, run: RunFolder, note: RunRecord, *, observe: Observer) -> None:
    plan, saved = prepared.plan, checkpoint.Checkpoint(run.path).read()
    splits = folder.splits_csv(plan.splits, plan.classes)
    run.write_start(note, render(plan.recipe), splits, resumed=saved is not None)
    keras.utils.set_random_seed(plan.recipe.seed)
    # A resumed run gets its weights from the checkpoint; only the architecture is needed.
    weights = "random" if saved else plan.recipe.model.weights
    cut = plan.groups.groups[-1].boundary if plan.recipe.model.drop_top else None
    built = backbone.build(plan.card, size=plan.size, arguments=plan.recipe.model.arguments, weights=weights, cut=cut)
    if not saved:
        note.model |= {"weights": built.weights_origin, "weights_sha256": built.weights_sha256}
    made = classifier.assemble(built, plan.recipe.head, classes=plan.classes, resize=plan.recipe.data.resize)
    train, val, test = (_examples(prepared, name) for name in ("train", "val", "test"))
    work = session.Session(plan.recipe, made, plan.groups, train, val, checkpoint.Checkpoint(run.path), observe)
    work.observe = _Writer(work, run, observe)
    phases.run(work, saved=saved)
    observe(Noticed("scoring and saving"))
    for name, examples in (("val", val), ("test", test)):
        if len(examples):
            note.scores[name] = metrics.score(examples.labels, session.predict(work, examples), plan.classes).to_json()
    classifier.save(made, run.path / "model.keras")
    write_text(run.path / "labels.txt", "".join(f"{name}\n" for name in plan.classes))
    note.model["sha256"] = hashlib.sha256((run.path / "model.keras").read_bytes()).hexdigest()
    record.close(note, work.outcomes)
    work.checkpoint.remove()


@dataclass(frozen=True)
class _Writer:
    """Keeps history.csv and phases.jsonl up with the run, and passes every event on."""

    work: session.Session
    run: RunFolder
    pass_on: Observer

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochDone):
            self.run.write_history(self.work.history)
        if isinstance(event, StepDone):
            self.run.write_decisions(self.work.outcomes)
        self.pass_on(event)


def _examples(prepared: Prepared, split: str) -> session.Examples:
    images = getattr(prepared.plan.splits, split)
    labels = np.array([image.label for image in images], dtype=np.int64)
    return session.Examples(prepared.pixels.array, prepared.pixels.rows_of(images), labels)
