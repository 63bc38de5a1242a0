"""The story of a run, from recipe to record, top to bottom."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from tlcli.data.pixels import Pixels
from tlcli.evaluate import metrics
from tlcli.model import backbone, classifier, measure
from tlcli.paths import cache_dir, write_text
from tlcli.prepare import Chosen, Prepared, Request, Settled, choose, output_bytes, output_folder, prepare
from tlcli.recipe.load import render
from tlcli.recipe.schema import Recipe
from tlcli.report import folder, record
from tlcli.report.folder import RunFolder
from tlcli.report.record import RunRecord
from tlcli.train import checkpoint, device, phases, prefix, session
from tlcli.train.events import EpochDone, Event, FolderMade, Noticed, Observer, StepDone
from tlcli.train.examples import Examples
from tlcli.train.footing import bytes_of
from tlcli.train.plan import dropped_top


def finetune(request: Request, settled: Settled, observe: Observer) -> tuple[Path, RunRecord]:
    """Fine-tune as asked, or take up an unfinished run. Returns the run folder and its record.

    `settled` is what `check_first` made of the request.

    Raises:
        TlcliError: If something is wrong with what was asked, the images, the network or the machine.
    """
    began = time.perf_counter()
    recipe = settled.recipe
    for notice in settled.notices:
        observe(Noticed(notice, is_warning=True))
    with device.use(request.device, recipe.performance.precision) as machine:
        chosen = choose(recipe, measure=measure.layer_groups)
        saved = checkpoint.Checkpoint(request.resume).read() if request.resume else None
        # Weights that are missing or do not fit are told before any image is read.
        built = _pretrained(recipe, chosen, is_resumed=saved is not None)
        prepared = prepare(recipe, chosen, strict=request.strict, observe=observe, reading=settled.reading)
        out = output_folder(request, prepared.plan)
        with folder.owned(out, resume=request.resume is not None, need_bytes=output_bytes(prepared.plan)) as run:
            observe(FolderMade(str(out)))
            note = record.begun(prepared.plan, machine, before=record.read(out) if request.resume else None)
            note.warnings = [*settled.notices, *note.warnings]
            with folder.recorded(run, note, began):
                if saved is None:
                    note.model |= {"weights": built.weights_origin, "weights_sha256": built.weights_sha256}
                splits = folder.splits_csv(prepared.plan.splits, prepared.plan.classes)
                run.write_start(note, render(prepared.plan.recipe), splits, resumed=saved is not None)
                _train(prepared, built, run, note, saved=saved, observe=observe)
    return out, note


def _pretrained(recipe: Recipe, chosen: Chosen, *, is_resumed: bool) -> backbone.Backbone:
    """The backbone with its weights; a resumed run has them in its checkpoint and needs the architecture only."""
    keras.utils.set_random_seed(recipe.seed)
    return backbone.build(
        chosen.card,
        size=chosen.size,
        arguments=recipe.model.arguments,
        weights="random" if is_resumed else recipe.model.weights,
        cut=dropped_top(recipe, chosen.groups).groups[-1].boundary if recipe.model.drop_top else None,
    )


def _train(
    prepared: Prepared,
    built: backbone.Backbone,
    run: RunFolder,
    note: RunRecord,
    *,
    saved: checkpoint.Saved | None,
    observe: Observer,
) -> None:
    plan = prepared.plan
    keras.utils.set_random_seed(plan.recipe.seed)
    made = classifier.assemble(built, plan.recipe.head, classes=plan.classes, resize=plan.recipe.data.resize)
    train, val, test = (_examples(prepared, name) for name in ("train", "val", "test"))
    shelf = prefix.Shelf(
        cache_dir() / "activations", bytes_of(plan.recipe.performance.cache_budget), _contents(prepared.pixels)
    )
    work = session.Session(
        plan.recipe, made, plan.groups, train, val, test, shelf, checkpoint.Checkpoint(run.path), observe
    )
    work.device = note.hardware["device"]
    work.observe = _Writer(work, run, observe)
    run.write_history(work.history)
    run.write_decisions(work.outcomes)
    phases.run(work, saved=saved)
    observe(Noticed("scoring and saving"))
    if len(val):
        note.model["temperature"] = phases.calibrate(work)
    for name, examples in (("val", val), ("test", test)):
        if len(examples):
            note.scores[name] = metrics.score(examples.labels, session.predict(work, examples), plan.classes).to_json()
    classifier.save(made, run.path / "model.keras")
    write_text(run.path / "labels.txt", "".join(f"{name}\n" for name in plan.classes))
    note.model["sha256"] = hashlib.sha256((run.path / "model.keras").read_bytes()).hexdigest()
    note.hardware["precision"] = {"asked": plan.recipe.performance.precision, "measured": work.precisions}
    record.close(note, work.outcomes, prefix_s=work.prefix_s)
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


def _contents(pixels: Pixels) -> list[str]:
    """The content behind each row of the pixel cache; empty where it could not be read."""
    contents = [""] * len(pixels.array)
    for content, row in pixels.rows.items():
        contents[row] = content
    return contents


def _examples(prepared: Prepared, split: str) -> Examples:
    images = getattr(prepared.plan.splits, split)
    labels = np.array([image.label for image in images], dtype=np.int64)
    return Examples(prepared.pixels.array, prepared.pixels.rows_of(images), labels)
